#include "dsv/sparsity/sequence_layout.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dsv/tensor/transfer.h"

namespace dsv::sparsity {

Tensor upload(const autograd::Context& ctx, const std::vector<std::int32_t>& values) {
  const Shape shape{static_cast<std::int64_t>(values.size())};
  const Tensor device = ctx.arena.empty(shape, DType::kI32);
  transfer(Tensor(const_cast<std::int32_t*>(values.data()), DType::kI32, shape), device,
           ctx.stream);
  return device;
}

SequenceLayout make_layout(const autograd::Context& ctx, const AttentionConfig& config,
                           const Extent3& grid) {
  SequenceLayout out;
  out.order = make_token_order(grid, choose_cube_shape(grid), config.cube_path);
  out.groups = group_starts(out.order, config.group_cubes);
  if (config.granularity == 1) {
    out.units.resize(static_cast<std::size_t>(out.num_tokens()) + 1);
    std::iota(out.units.begin(), out.units.end(), 0);
  } else {
    out.units = config.granularity == 64 ? group_starts(out.order, 1) : out.order.block_start;
    out.block_start = upload(ctx, out.order.block_start);
  }
  out.to_order = upload(ctx, out.order.raster_of);
  out.to_raster = upload(ctx, out.order.position_of);
  out.group_start = upload(ctx, out.groups);
  out.cube_start = upload(ctx, group_starts(out.order, 1));
  return out;
}

namespace {

using Box = std::array<std::array<std::int32_t, 2>, 3>;  // per axis: least and greatest coordinate

Box box_of(const TokenOrder& order, std::int64_t begin, std::int64_t end) {
  Box box;
  for (auto& axis : box) axis = {INT32_MAX, -1};
  for (std::int64_t i = begin; i < end; ++i) {
    const Extent3 at = order.coordinates(i);
    for (std::size_t a = 0; a < 3; ++a) {
      box[a][0] = std::min(box[a][0], static_cast<std::int32_t>(at[a]));
      box[a][1] = std::max(box[a][1], static_cast<std::int32_t>(at[a]));
    }
  }
  return box;
}

double middle(const std::array<std::int32_t, 2>& range) {
  return 0.5 * (range[0] + range[1]);
}

}  // namespace

std::vector<std::uint32_t> window_bits(const SequenceLayout& layout, WindowSize size) {
  const TokenOrder& order = layout.order;
  const double share = size == WindowSize::kThird ? 1.0 / 3.0 : 2.0 / 3.0;
  const auto block = [&](std::int64_t n) -> std::pair<std::int64_t, std::int64_t> {
    if (!layout.block_start.defined()) return {n, n + 1};
    const auto i = static_cast<std::size_t>(n);
    return {order.block_start[i], order.block_start[i + 1]};
  };
  std::vector<Box> boxes;
  for (std::int64_t n = 0; n < layout.num_blocks(); ++n) {
    const auto [begin, end] = block(n);
    boxes.push_back(box_of(order, begin, end));
  }
  const auto words = static_cast<std::size_t>(layout.num_words());
  std::vector<std::uint32_t> bits(static_cast<std::size_t>(layout.num_groups()) * words);
  for (std::int64_t g = 0; g < layout.num_groups(); ++g) {
    const std::int64_t first = layout.groups[static_cast<std::size_t>(g)],
                       last = layout.groups[static_cast<std::size_t>(g) + 1];
    const Box own = box_of(order, first, last);
    std::array<std::array<double, 2>, 3> window;
    for (std::size_t a = 0; a < 3; ++a) {
      const auto extent = static_cast<double>(order.grid[a]);
      const double span = std::max(1.0, share * extent);
      const double from = std::clamp(middle(own[a]) + 0.5 - span / 2, 0.0, extent - span);
      window[a] = {from, from + span};
    }
    for (std::int64_t n = 0; n < layout.num_blocks(); ++n) {
      const auto [begin, end] = block(n);
      if (begin == end) continue;
      bool inside = true;
      for (std::size_t a = 0; a < 3; ++a) {
        const double at = middle(boxes[static_cast<std::size_t>(n)][a]) + 0.5;
        inside = inside && at >= window[a][0] && at <= window[a][1];
      }
      if (inside || (begin >= first && end <= last)) {
        bits[static_cast<std::size_t>(g) * words + static_cast<std::size_t>(n / 32)] |=
            std::uint32_t{1} << (n % 32);
      }
    }
  }
  return bits;
}

}  // namespace dsv::sparsity
