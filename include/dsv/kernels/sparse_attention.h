// Softmax attention of groups of queries to the blocks of keys that each group has selected.
// Source: DSV (arXiv 2502.07590) §5; a group shares one selection per head (§3.3, Observation 5).
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// The most queries a group holds, keys a block holds, and blocks that make up one tile of keys.
inline constexpr std::int64_t kMaxGroupQueries = 128;
inline constexpr std::int64_t kMaxBlockKeys = 16;
inline constexpr std::int64_t kTileBlocks = 4;

// A selection is a bit matrix (B, H, G, W) u32 with W = ceil(N / 32): bit i of word w of row (b, h,
// g) says that the queries of group g attend to the keys of block 32 w + i in head h of sample b.
// Bits past block N - 1 and bits of empty blocks mean nothing.
//   group_start (G + 1) i32: group g holds queries [group_start[g], group_start[g + 1]), at most
//     kMaxGroupQueries, starting at 0 and ending at Sq.
//   block_start (N + 1) i32: block n holds keys [block_start[n], block_start[n + 1]), at most
//     kMaxBlockKeys, maybe none, starting at 0 and ending at Skv; N is a multiple of kTileBlocks,
//     and the blocks of a tile lie next to each other. Undefined: block n is the single key n,
//     N = Skv.
//
// For each b, h and query i of group g, over the keys j of the blocks selected by g:
// s[i,j] = scale * <q_i, k_j>;  p = softmax_j(s);  o_i = sum_j p[i,j] v_j;  lse[b,h,i] = log sum_j
// exp(s[i,j]) (natural log). No key selected: o = 0, lse = -inf. Other keys are as if they did not
// exist: they are never read as zeros. q, k, v, o are views [B,S,H,D] with any strides for B, S, H;
// D is contiguous, D ≤ 256. Scores, softmax and sums are f32; the scale is applied to the f32
// score. No aliasing. The result of a query depends on its own group's row of bits alone.
struct SparseAttentionForward {
  Tensor q;            // in   (B, Sq, H, D)   f32|bf16
  Tensor k;            // in   (B, Skv, H, D)
  Tensor v;            // in   (B, Skv, H, D)
  Tensor bits;         // in   (B, H, G, W) u32, contiguous
  Tensor block_start;  // in   (N + 1) i32, contiguous; undefined: single keys
  Tensor group_start;  // in   (G + 1) i32, contiguous
  Tensor o;            // out  (B, Sq, H, D)   dtype of q
  Tensor lse;          // out  (B, H, Sq)      f32, contiguous
  float scale = 1;
};

// With delta[b,h,i] = <o_i, do_i>, p = exp(s - lse), dp[i,j] = <do_i, v_j>, ds = p * (dp - delta),
// all over selected pairs only: dq_i = scale * sum_j ds[i,j] k_j;  dk_j = scale * sum_i ds[i,j] q_i;
// dv_j = sum_i p[i,j] do_i. Outputs are overwritten; keys that no group selects get exact zeros, as
// do rows with lse = -inf. Sums run in f32 in an order that the selection alone decides: bitwise the
// same for any number of threads or processors. dq, dk, dv must not alias each other or the inputs.
struct SparseAttentionBackward {
  Tensor q, k, v;      // in    as forward
  Tensor bits;         // in    (B, H, G, W) u32
  Tensor by_block;     // in    (B, H, N, ceil(G / 32)) u32: bits transposed (BitTranspose)
  Tensor block_start;  // in    (N + 1) i32; undefined: single keys
  Tensor group_start;  // in    (G + 1) i32
  Tensor o;            // in    (B, Sq, H, D)
  Tensor lse;          // in    (B, H, Sq) f32
  Tensor d_o;          // in    (B, Sq, H, D)
  Tensor dq;           // out   (B, Sq, H, D)
  Tensor dk;           // out   (B, Skv, H, D)
  Tensor dv;           // out   (B, Skv, H, D)
  Tensor delta;        // out   (B, H, Sq) f32, contiguous: workspace
  float scale = 1;
};

}  // namespace dsv::kernels
