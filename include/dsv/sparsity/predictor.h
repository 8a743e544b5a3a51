// The low-rank predictor of a block's attention: maps tokens to short queries and keys whose scores
// rank keys as the true scores do. Source: DSV (arXiv 2502.07590) §5.1; the input `qk`, which sees
// positions as attention does, is ours.
#pragma once

#include "dsv/autograd/param_store.h"
#include "dsv/sparsity/sparsity_config.h"

namespace dsv::sparsity {

// What the predictors need to know of the model.
struct AttentionShape {
  std::int64_t num_layers = 1, num_heads = 1, head_dim = 1;
  bool rotary = false;  // q and k are rotated by 3-D positions
  std::int64_t width() const { return num_heads * head_dim; }
};

// What it reads in a block: rows (B, S, C) that feed the QKV projection, and q and k (B, S, C) as
// attention sees them.
struct PredictorInputs {
  Tensor hidden, q, k;
};

// Angles of the low-rank pairs, (S, r / 2) each; undefined unless hidden states of a rotary model
// are the input.
struct LowRankRope {
  Tensor cos, sin;
};

class Predictor {
 public:
  Predictor(const SparsityConfig& config, const AttentionShape& shape);

  // One unit of parameters per block: "predictor.I.weight", of hidden states (2 H r, C) with
  // "predictor.I.bias", of q and k (2 H r, D): rows of all heads' queries, then of all heads' keys.
  // Throws Error(kConfig) for a rank that is odd or more than head_dim.
  void declare(autograd::ParamStore& store) const;
  void bind(const autograd::ParamStore& store);

  PredictorInput input() const { return input_; }
  std::int64_t rank() const { return config_.predictor_rank; }
  // Tables for tokens at these coordinates: pairs of the main head's, evenly strided on each axis.
  LowRankRope make_rope(const autograd::Context& ctx, const std::vector<Extent3>& tokens) const;

  struct LowRank {
    Tensor q, k;  // (B, S, H, r) in the dtype of the inputs
  };
  LowRank project(const autograd::Context& ctx, std::int64_t layer, const PredictorInputs& inputs,
                  const LowRankRope& rope) const;

  // Adds the gradient of block `layer`'s weights, from those of low-rank queries at sampled rows, dq
  // (B, R, H, r), and of all low-rank keys, dk (B, S, H, r), both f32, overwritten. rows (R) i32.
  void add_gradient(const autograd::Context& ctx, std::int64_t layer,
                    const PredictorInputs& inputs, const LowRankRope& rope, const Tensor& rows,
                    const Tensor& dq, const Tensor& dk) const;

 private:
  struct Weights {
    autograd::Param weight, bias;
  };
  Tensor head_weight(const Tensor& weight, bool of_keys, std::int64_t head) const;

  SparsityConfig config_;
  AttentionShape shape_;
  PredictorInput input_;
  std::vector<Weights> layers_;
};

}  // namespace dsv::sparsity
