// One transformer block: self-attention, cross-attention to text, feed-forward, on a residual
// stream.
#pragma once

#include "dsv/autograd/functions.h"
#include "dsv/model/dit_config.h"
#include "dsv/model/names.h"
#include "dsv/sparsity/controller.h"

namespace dsv::model {

// The parameters of a block, bound to a store that has been allocated.
struct BlockParams {
  autograd::Param table;                                 // [6, C]: shift, scale, gate; twice
  autograd::Param qkv_weight, qkv_bias, norm_q, norm_k;  // self-attention
  autograd::Param self_out_weight, self_out_bias;
  autograd::Param q_weight, q_bias, kv_weight, kv_bias;  // cross-attention
  autograd::Param cross_norm_q, cross_norm_k, cross_out_weight, cross_out_bias;
  autograd::Param self_norm_weight, self_norm_bias;    // affine in the dsv family
  autograd::Param cross_norm_weight, cross_norm_bias;  // pre-norm, wan
  autograd::Param ffn_norm_weight, ffn_norm_bias;      // affine in the dsv family
  autograd::Param ffn_in_weight, ffn_in_bias, ffn_out_weight, ffn_out_bias;
};

std::vector<autograd::ParamSpec> block_specs(const DitConfig& config, std::int64_t layer);
BlockParams bind_block(const DitConfig& config, const autograd::ParamStore& store,
                       std::int64_t layer);

// What every block of one forward pass shares.
struct BlockInputs {
  autograd::Variable modulation;  // [B, 6, C] f32, before the block's own table
  autograd::Variable text;        // [B, L, C] projected text
  autograd::RopeTables rope;      // undefined in the dsv family
  Tensor text_bias;               // [B, L] f32 additive mask; undefined in the wan family
  sparsity::Controller* attention = nullptr;         // null: self-attention to all tokens
  const sparsity::SequenceLayout* layout = nullptr;  // of the tokens; null: raster order
};

// Block `layer`: x [B, S, C] -> [B, S, C].
autograd::Variable dit_block(const autograd::Context& ctx, const DitConfig& config,
                             std::int64_t layer, const BlockParams& params,
                             const autograd::Variable& x, const BlockInputs& inputs);

}  // namespace dsv::model
