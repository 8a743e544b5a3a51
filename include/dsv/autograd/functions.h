// The ops of the graph: each checks shapes, computes its value through the kernel table, and
// records its gradient. Every function throws dsv::Error naming the op when shapes do not fit.
#pragma once

#include <array>
#include <functional>

#include "dsv/autograd/param_store.h"
#include "dsv/autograd/tape.h"

namespace dsv::autograd {

using kernels::Activation;

// y = act(x W^T + b).  x [..., K] -> [..., N].  weight [N, K] or a fused or convolutional view with
// N rows.
Variable linear(const Context& ctx, const Variable& x, const Param& weight, const Param& bias,
                Activation activation = Activation::kNone);

// LayerNorm over the last dim, affine where weight is given, modulated where `modulation` [B, n, C]
// is: y = LN(x) * (1 + modulation[:, scale_idx]) + modulation[:, shift_idx].  x [B, S, C].
struct Modulation {
  Variable table;  // [B, n, C] f32; undefined: none
  int shift_idx = 0;
  int scale_idx = 1;
};
Variable layer_norm(const Context& ctx, const Variable& x, const Param& weight, const Param& bias,
                    const Modulation& modulation, float eps);

// y = x + gate * h with gate = modulation[:, gate_idx], 1 where modulation is undefined.
Variable gated_residual(const Context& ctx, const Variable& x, const Variable& h,
                        const Variable& modulation, int gate_idx);

// Position angles of rotary embedding, (S, D/2) each.
struct RopeTables {
  Tensor cos, sin;
};

// The keys that each group of queries attends to, as kernels/sparse_attention.h lays them out. bits
// undefined: all keys.
struct KeySelection {
  Tensor bits, block_start, group_start;
  bool dense() const { return !bits.defined(); }
};
// Chooses keys for q and k (B, S, H * D) as attention sees them, normed and rotated.
using SelectKeys = std::function<KeySelection(const Context&, const Tensor& q, const Tensor& k)>;

// Multi-head attention on projected inputs, without a transpose. Self: q_source == kv_source = [B,
// S, 3C] holding q | k | v. Cross: q_source [B, Sq, C], kv_source [B, Skv, 2C] holding k | v. q and
// k are RMS-normed over C where norm_q/norm_k are given, then rotated where rope is. In a region
// that keeps attention, the output and lse are saved and the recompute does not run it.
struct AttentionOptions {
  std::int64_t num_heads = 1;
  Param norm_q, norm_k;
  float norm_eps = 1e-6f;
  RopeTables rope;    // undefined: none
  Tensor key_bias;    // [B, Skv] f32; undefined: none
  SelectKeys select;  // empty: all keys. Runs in the forward pass, never in a recompute
  bool keep = false;  // save o and lse where the region keeps optional tensors
};
Variable attention(const Context& ctx, const Variable& q_source, const Variable& kv_source,
                   const AttentionOptions& options);

Variable activation(const Context& ctx, const Variable& x, Activation kind);
Variable geglu(const Context& ctx, const Variable& x);  // [..., 2F] -> [..., F]

// y = x + row, row broadcast over the leading dims of x it does not cover (a parameter).
Variable broadcast_add(const Context& ctx, const Variable& x, const Param& row);
// y = x + row for a constant row.
Variable broadcast_add(const Context& ctx, const Variable& x, const Tensor& row);
// x [B, C] -> [B, n, C], each row repeated.
Variable repeat_rows(const Context& ctx, const Variable& x, std::int64_t n);
// Another dtype; the gradient is cast back.
Variable cast(const Context& ctx, const Variable& x, DType dtype);
Variable reshape(const Context& ctx, const Variable& x, const Shape& shape);

// y[b, i] = x[b, index[i]]; `inverse` undoes it: index[inverse[i]] = i. Both (S) i32.
Variable permute_rows(const Context& ctx, const Variable& x, const Tensor& index,
                      const Tensor& inverse);

// Latents to tokens (a constant: latents need no gradient) and predicted tokens to latents.
struct PatchGeometry {
  std::array<std::int64_t, 3> patch{1, 2, 2};
  std::array<std::int64_t, 3> latent{1, 1, 1};  // T, H, W, multiples of patch
  std::int64_t num_tokens() const {
    return latent[0] / patch[0] * (latent[1] / patch[1]) * (latent[2] / patch[2]);
  }
};
Tensor patchify(const Context& ctx, const Tensor& video, const PatchGeometry& geometry,
                bool channels_last);
Variable unpatchify(const Context& ctx, const Variable& tokens, const PatchGeometry& geometry,
                    std::int64_t channels);

// Per-sample losses [B] = weight[b] * mean (pred - target)^2 over the first channels of pred that
// target has. The gradient seeded into pred is that of sum_b loss[b] * grad_scale.
Tensor mse_loss(const Context& ctx, const Variable& pred, const Tensor& target,
                const Tensor& weight, float grad_scale);

}  // namespace dsv::autograd
