// Times dense and sparse attention on the machine that will train.
#pragma once

#include "dsv/costs/attention_costs.h"
#include "dsv/sparsity/predictor.h"
#include "dsv/sparsity/sequence_layout.h"

namespace dsv::sparsity {

// What costs of this configuration hold for: everything but points.
costs::AttentionCosts cost_frame(const AttentionConfig& attention, const AttentionShape& shape,
                                 const std::string& machine);

// One sample of random q, k, v and random selections on this grid, medians of `repeat` runs after
// one to warm up. A point takes about (repeat + 1) times 2 to 3 dense passes.
costs::AttentionPoint measure_attention(const autograd::Context& ctx,
                                        const AttentionConfig& attention,
                                        const SparsityConfig& sparsity,
                                        const AttentionShape& shape, const Extent3& grid,
                                        int repeat);

// A selection in which each group takes its own units and random others up to `density`: bits (1, H,
// G, W) on the context's device.
Tensor random_selection(const autograd::Context& ctx, const SequenceLayout& layout,
                        std::int64_t num_heads, double density, std::uint64_t seed);

}  // namespace dsv::sparsity
