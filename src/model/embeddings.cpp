#include "dsv/model/embeddings.h"

#include <cmath>

#include "dsv/tensor/transfer.h"

namespace dsv::model {
namespace {

constexpr double kBase = 10000.0;

// The table is made on the host and copied once per geometry.
Tensor upload(const autograd::Context& ctx, std::vector<float>& values, const Shape& shape) {
  const Tensor host(values.data(), DType::kF32, shape);
  const Tensor device = ctx.arena.empty(shape);
  transfer(host, device, ctx.stream);
  return device;
}

// Adds [sin | cos] of position over `dim` channels at out.
void add_sincos(double position, std::int64_t dim, float* out) {
  const std::int64_t half = dim / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const double omega = std::pow(kBase, -static_cast<double>(i) / static_cast<double>(half));
    out[i] += static_cast<float>(std::sin(position * omega));
    out[half + i] += static_cast<float>(std::cos(position * omega));
  }
}

}  // namespace

std::vector<TokenPosition> raster_positions(std::int64_t T, std::int64_t H, std::int64_t W) {
  std::vector<TokenPosition> out;
  out.reserve(static_cast<std::size_t>(T * H * W));
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t w = 0; w < W; ++w) out.push_back({t, h, w});
    }
  }
  return out;
}

autograd::RopeTables rope_tables(const autograd::Context& ctx,
                                 const std::vector<TokenPosition>& positions,
                                 std::int64_t head_dim) {
  const std::int64_t spatial = 2 * (head_dim / 6);
  const std::array<std::int64_t, 3> dims{head_dim - 2 * spatial, spatial, spatial};
  const std::int64_t pairs = head_dim / 2;
  const auto S = static_cast<std::int64_t>(positions.size());
  std::vector<float> cos(static_cast<std::size_t>(S * pairs)), sin(cos.size());
  for (std::int64_t s = 0; s < S; ++s) {
    const TokenPosition& at = positions[static_cast<std::size_t>(s)];
    const std::array<std::int64_t, 3> coordinates{at.t, at.h, at.w};
    auto out = static_cast<std::size_t>(s * pairs);
    for (std::size_t axis = 0; axis < 3; ++axis) {
      for (std::int64_t i = 0; i < dims[axis] / 2; ++i, ++out) {
        const double frequency =
            std::pow(kBase, -2.0 * static_cast<double>(i) / static_cast<double>(dims[axis]));
        const double angle = static_cast<double>(coordinates[axis]) * frequency;
        cos[out] = static_cast<float>(std::cos(angle));
        sin[out] = static_cast<float>(std::sin(angle));
      }
    }
  }
  return {upload(ctx, cos, {S, pairs}), upload(ctx, sin, {S, pairs})};
}

Tensor sincos_positions(const autograd::Context& ctx, const std::vector<TokenPosition>& positions,
                        std::int64_t H, std::int64_t W, const DitConfig& config) {
  const std::int64_t width = config.width(), half = width / 2;
  const auto S = static_cast<std::int64_t>(positions.size());
  std::vector<float> table(static_cast<std::size_t>(S * width));
  const auto spacing = [&](std::size_t axis, std::int64_t tokens) {
    return static_cast<double>(config.pos_base_size[axis]) / static_cast<double>(tokens) /
           config.pos_interpolation_scale;
  };
  const double step_h = spacing(0, H), step_w = spacing(1, W);
  for (std::int64_t s = 0; s < S; ++s) {
    const TokenPosition& at = positions[static_cast<std::size_t>(s)];
    float* row = table.data() + s * width;
    add_sincos(static_cast<double>(at.w) * step_w, half, row);
    add_sincos(static_cast<double>(at.h) * step_h, half, row + half);
    add_sincos(static_cast<double>(at.t), width, row);
  }
  return upload(ctx, table, {S, width});
}

}  // namespace dsv::model
