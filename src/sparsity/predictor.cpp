#include "dsv/sparsity/predictor.h"

#include <algorithm>
#include <cmath>

#include "dsv/base/check_math.h"
#include "dsv/tensor/transfer.h"

namespace dsv::sparsity {
namespace {

// (n, C) rows of one sample, strided as they lie.
Tensor sample(const Tensor& x, std::int64_t b) {
  return x.select(0, b);
}

Tensor as_dtype(const autograd::Context& ctx, const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Tensor out = ctx.arena.empty(x.shape(), dtype);
  ctx.kernels.cast({.x = x, .y = out}, ctx.stream);
  return out;
}

Tensor gather(const autograd::Context& ctx, const Tensor& x, const Tensor& rows) {
  const Tensor out = ctx.arena.empty({x.dim(0), rows.dim(0), x.dim(2)}, x.dtype());
  ctx.kernels.gather_rows({.x = x, .index = rows, .y = out}, ctx.stream);
  return out;
}

void rotate(const autograd::Context& ctx, const Tensor& x, const LowRankRope& rope, bool inverse) {
  ctx.kernels.rope({.x = x, .y = x, .cos = rope.cos, .sin = rope.sin, .inverse = inverse},
                   ctx.stream);
}

}  // namespace

Predictor::Predictor(const SparsityConfig& config, const AttentionShape& shape)
    : config_(config), shape_(shape), input_(config.predictor_input) {
  if (input_ == PredictorInput::kAuto) {
    input_ = shape.rotary ? PredictorInput::kQk : PredictorInput::kHidden;
  }
}

void Predictor::declare(autograd::ParamStore& store) const {
  using autograd::Init;
  if (config_.predictor_rank % 2 != 0 || config_.predictor_rank < 2 ||
      config_.predictor_rank > shape_.head_dim) {
    throw_error(ExitCode::kConfig,
                "sparsity.predictor_rank: expected an even number of at most model.head_dim = {}, "
                "got {}",
                shape_.head_dim, config_.predictor_rank);
  }
  const std::int64_t rows = 2 * shape_.num_heads * config_.predictor_rank;
  const bool hidden = input_ == PredictorInput::kHidden;
  const std::int64_t columns = hidden ? shape_.width() : shape_.head_dim;
  for (std::int64_t layer = 0; layer < shape_.num_layers; ++layer) {
    const std::string name = "predictor." + std::to_string(layer);
    std::vector<autograd::ParamSpec> specs{
        {.name = name + ".weight",
         .shape = {rows, columns},
         .init = Init::kNormal,
         .init_std = 1 / std::sqrt(static_cast<double>(columns)),
         .decay = false}};
    if (hidden) {
      specs.push_back(
          {.name = name + ".bias", .shape = {rows}, .init = Init::kZeros, .decay = false});
    }
    store.add_unit(name, specs);
  }
}

void Predictor::bind(const autograd::ParamStore& store) {
  layers_.clear();
  for (std::int64_t layer = 0; layer < shape_.num_layers; ++layer) {
    const std::string name = "predictor." + std::to_string(layer);
    const bool hidden = input_ == PredictorInput::kHidden;
    layers_.push_back({.weight = store.get(name + ".weight"),
                       .bias = hidden ? store.get(name + ".bias") : autograd::Param{}});
  }
}

LowRankRope Predictor::make_rope(const autograd::Context& ctx,
                                 const std::vector<Extent3>& tokens) const {
  if (!shape_.rotary || input_ != PredictorInput::kHidden) return {};
  constexpr double kBase = 10000;
  // The main head has D/2 - 2 (D/6), D/6, D/6 pairs for t, h, w; these have the same shares of r/2,
  // of frequencies that are spread evenly over the main head's.
  const std::int64_t pairs = config_.predictor_rank / 2, spatial = 3 * pairs / 8;
  const std::array<std::int64_t, 3> own{pairs - 2 * spatial, spatial, spatial};
  const std::int64_t main_spatial = std::max<std::int64_t>(1, shape_.head_dim / 6);
  const std::array<std::int64_t, 3> main{shape_.head_dim / 2 - 2 * main_spatial, main_spatial,
                                         main_spatial};
  const auto S = static_cast<std::int64_t>(tokens.size());
  std::vector<float> cos, sin;
  cos.reserve(static_cast<std::size_t>(S * pairs));
  sin.reserve(cos.capacity());
  for (const Extent3& token : tokens) {
    for (std::size_t axis = 0; axis < 3; ++axis) {
      for (std::int64_t i = 0; i < own[axis]; ++i) {
        const std::int64_t strided = i * main[axis] / own[axis];
        const double frequency = std::pow(
            kBase, -static_cast<double>(strided) / static_cast<double>(main[axis]));
        const double angle = static_cast<double>(token[axis]) * frequency;
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
  const auto send = [&](std::vector<float>& values) {
    const Tensor device = ctx.arena.empty({S, pairs});
    transfer(Tensor(values.data(), DType::kF32, {S, pairs}), device, ctx.stream);
    return device;
  };
  return {send(cos), send(sin)};
}

Tensor Predictor::head_weight(const Tensor& weight, bool of_keys, std::int64_t head) const {
  const std::int64_t first = ((of_keys ? shape_.num_heads : 0) + head) * config_.predictor_rank;
  return weight.slice(0, first, first + config_.predictor_rank);
}

Predictor::LowRank Predictor::project(const autograd::Context& ctx, std::int64_t layer,
                                      const PredictorInputs& in, const LowRankRope& rope) const {
  const Weights& w = layers_[static_cast<std::size_t>(layer)];
  const std::int64_t H = shape_.num_heads, r = config_.predictor_rank, half = H * r;
  const std::int64_t B = in.q.dim(0), S = in.q.dim(1), D = shape_.head_dim;
  const DType dtype = in.q.dtype();
  const Tensor out = ctx.arena.empty({B, S, 2 * half}, dtype);
  const Tensor weight = w.weight.as(dtype);
  if (input_ == PredictorInput::kHidden) {
    ctx.kernels.linear_forward({.x = in.hidden.reshape({B * S, shape_.width()}),
                                .weight = weight,
                                .bias = w.bias.as(dtype),
                                .y = out.reshape({B * S, 2 * half})},
                               ctx.stream);
  } else {
    for (std::int64_t b = 0; b < B; ++b) {
      for (std::int64_t h = 0; h < 2 * H; ++h) {
        const bool keys = h >= H;
        ctx.kernels.linear_forward(
            {.x = sample(keys ? in.k : in.q, b).slice(1, h % H * D, (h % H + 1) * D),
             .weight = head_weight(weight, keys, h % H),
             .y = sample(out, b).slice(1, h * r, (h + 1) * r)},
            ctx.stream);
      }
    }
  }
  const LowRank low{.q = out.slice(2, 0, half).as_heads(H),
                    .k = out.slice(2, half, 2 * half).as_heads(H)};
  if (rope.cos.defined()) {
    rotate(ctx, low.q, rope, false);
    rotate(ctx, low.k, rope, false);
  }
  return low;
}

void Predictor::add_gradient(const autograd::Context& ctx, std::int64_t layer,
                             const PredictorInputs& in, const LowRankRope& rope, const Tensor& rows,
                             const Tensor& dq, const Tensor& dk) const {
  const Weights& w = layers_[static_cast<std::size_t>(layer)];
  const std::int64_t H = shape_.num_heads, r = config_.predictor_rank, half = H * r;
  const std::int64_t B = dk.dim(0), S = dk.dim(1), R = rows.dim(0), D = shape_.head_dim;
  if (R == 0) return;
  if (rope.cos.defined()) {
    const auto at_rows = [&](const Tensor& table) {
      return gather(ctx, table.reshape({1, S, r / 2}), rows).reshape({R, r / 2});
    };
    rotate(ctx, dq, {at_rows(rope.cos), at_rows(rope.sin)}, true);
    rotate(ctx, dk, rope, true);
  }
  const DType dtype = in.q.dtype();
  const Tensor dq_in = as_dtype(ctx, dq, dtype), dk_in = as_dtype(ctx, dk, dtype);
  const Tensor weight = w.weight.as(dtype);
  if (input_ == PredictorInput::kHidden) {
    const Tensor sampled = gather(ctx, in.hidden, rows);
    const auto backward = [&](const Tensor& x, const Tensor& dy, std::int64_t first) {
      ctx.kernels.linear_backward({.x = x,
                                   .weight = weight.slice(0, first, first + half),
                                   .dy = dy,
                                   .dweight = w.weight.grad.slice(0, first, first + half),
                                   .dbias = w.bias.grad.slice(0, first, first + half)},
                                  ctx.stream);
    };
    backward(sampled.reshape({B * R, shape_.width()}), dq_in.reshape({B * R, half}), 0);
    backward(in.hidden.reshape({B * S, shape_.width()}), dk_in.reshape({B * S, half}), half);
    return;
  }
  const Tensor sampled = gather(ctx, in.q, rows);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < 2 * H; ++h) {
      const bool keys = h >= H;
      const Tensor dy = (keys ? dk_in.reshape({B, S, half}) : dq_in.reshape({B, R, half}));
      ctx.kernels.linear_backward(
          {.x = sample(keys ? in.k : sampled, b).slice(1, h % H * D, (h % H + 1) * D),
           .weight = head_weight(weight, keys, h % H),
           .dy = sample(dy, b).slice(1, h % H * r, (h % H + 1) * r),
           .dweight = head_weight(w.weight.grad, keys, h % H)},
          ctx.stream);
    }
  }
}

}  // namespace dsv::sparsity
