// The token order of one grid as kernels want it: index tables and boundaries on the device.
#pragma once

#include "dsv/autograd/context.h"
#include "dsv/sparsity/sparsity_config.h"

namespace dsv::sparsity {

// What of a grid's layout never changes; made once and shared by all blocks and steps.
struct SequenceLayout {
  TokenOrder order;
  std::vector<std::int32_t> groups;  // starts of query groups, and the end
  std::vector<std::int32_t> units;   // starts of what is taken together (tokens, sub-cubes, cubes)
  Tensor to_order;                   // (S) i32: raster index of the token at each position
  Tensor to_raster;                  // (S) i32: its inverse
  Tensor block_start;                // (N + 1) i32; undefined at granularity 1
  Tensor group_start;                // (G + 1) i32
  Tensor cube_start;                 // (cubes + 1) i32

  std::int64_t num_tokens() const { return order.num_tokens(); }
  std::int64_t num_groups() const { return static_cast<std::int64_t>(groups.size()) - 1; }
  // Blocks of the bit matrix, and words of a row of it.
  std::int64_t num_blocks() const {
    return block_start.defined() ? order.num_blocks() : num_tokens();
  }
  std::int64_t num_words() const { return (num_blocks() + 31) / 32; }
};

SequenceLayout make_layout(const autograd::Context& ctx, const AttentionConfig& config,
                           const Extent3& grid);

// A host array on the context's device, as (n) i32.
Tensor upload(const autograd::Context& ctx, const std::vector<std::int32_t>& values);

// Rows (G, W) of bits that say which blocks lie in the 3-D window around each group: a span of the
// grid's axes, moved inwards at the edges so that every group sees as many; a block is in when the
// middle of its box is, and a group's own blocks always are.
std::vector<std::uint32_t> window_bits(const SequenceLayout& layout, WindowSize size);

}  // namespace dsv::sparsity
