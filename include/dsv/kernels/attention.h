// Dense softmax attention, non-causal: self-attention of a block and cross-attention to text.
// Source: FlashAttention (Dao et al., arXiv 2205.14135) for the tiling and the backward from lse.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// For each b, h:  s[i,j] = scale * <q_i, k_j> + key_bias[b,j];  p = softmax_j(s);  o_i = sum_j
// p[i,j] v_j; lse[b,h,i] = log sum_j exp(s[i,j]) (natural log; a row with no finite score has o =
// 0, lse = -inf). q, k, v, o are views [B,S,H,D] with any strides for B, S, H; D is contiguous.
// Scores, softmax, and sums are f32; the scale is applied to the f32 score. D ≤ 256. No aliasing.
struct AttentionForward {
  Tensor q;         // in   (B, Sq, H, D)   f32|bf16
  Tensor k;         // in   (B, Skv, H, D)
  Tensor v;         // in   (B, Skv, H, D)
  Tensor key_bias;  // in   (B, Skv) f32, contiguous, may hold -inf; undefined: none
  Tensor o;         // out  (B, Sq, H, D)   dtype of q
  Tensor lse;       // out  (B, H, Sq)      f32, contiguous
  float scale = 1;
};

// With delta[b,h,i] = <o_i, do_i>, p = exp(s - lse), dp[i,j] = <do_i, v_j>, ds = p * (dp - delta):
// dq_i = scale * sum_j ds[i,j] k_j;  dk_j = scale * sum_i ds[i,j] q_i;  dv_j = sum_i p[i,j] do_i.
// Outputs are overwritten. Rows with lse = -inf give zero gradients. Bitwise the same for any
// number of threads. dq, dk, dv must not alias each other or the inputs.
struct AttentionBackward {
  Tensor q, k, v;   // in    as forward
  Tensor key_bias;  // in
  Tensor o;         // in    (B, Sq, H, D)
  Tensor lse;       // in    (B, H, Sq)
  Tensor d_o;       // in    (B, Sq, H, D)
  Tensor dq;        // out   (B, Sq, H, D)
  Tensor dk;        // out   (B, Skv, H, D)
  Tensor dv;        // out   (B, Skv, H, D)
  Tensor delta;     // out   (B, H, Sq) f32, contiguous: workspace
  float scale = 1;
};

}  // namespace dsv::kernels
