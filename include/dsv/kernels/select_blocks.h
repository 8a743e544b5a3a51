// Which blocks of keys each group of queries attends to, from low-rank queries and keys, in one
// pass: no matrix of scores reaches memory. Source: DSV (arXiv 2502.07590) §5.1; the rule by mass,
// the calibration, and block masses are ours (docs/sparsity.md).
#pragma once

#include "dsv/kernels/sparse_attention.h"

namespace dsv::kernels {

// What stands for a group's queries: their mean (its score is the mean score), or the middle one,
// query group_start[g] + size / 2.
enum class Proxy { kMean, kCentre };

// For sample b, head h, group g with proxy x: logits t_j = slope[h] * scale * <x, k_lr_j>, taken in
// f32; mass of block n: m_n = sum over its keys of exp(t_j - max over all keys of t), f32; total
// mass: the sum of all m_n. With unit = kTileBlocks, the four blocks of a tile are one unit, taken
// together; with unit = 1 each block is one. Units that hold any key of the group itself (keys
// query_offset + [group_start[g], group_start[g + 1])) come first, ascending; then the others by
// falling mass, equal masses by rising index. Units are taken in this order until
//   (keys taken ≥ min_keys[h] and mass taken ≥ mass[h] * total)  or  keys taken ≥ max_keys[h],
// but always all units of the group's own keys. Empty units are never taken. So min = max = k takes
// the top k keys, rounded up to a unit, and mass > 1 with max_keys takes exactly max_keys.
// A NaN logit counts as -inf, +inf as the largest number, a mass below 2^-126 as 0. A group whose
// logits are all -inf, or without queries, takes units in order of index. Layouts and bit matrix are
// those of sparse_attention.h; all words are written, and bits past N and of empty blocks are 0.
// Fast fillings may place a unit on the other side of the threshold where masses differ by rounding
// only (relative 1e-5 in f32, 1e-2 with bf16 inputs), never elsewhere; they are deterministic.
struct SelectBlocks {
  Tensor q_lr;         // in   (B, Sq, H, r)  f32|bf16, r contiguous, r ≤ 256
  Tensor k_lr;         // in   (B, Skv, H, r) dtype of q_lr
  Tensor block_start;  // in   (N + 1) i32; undefined: single keys
  Tensor group_start;  // in   (G + 1) i32
  Tensor slope;        // in   (H) f32: calibration, > 0
  Tensor mass;         // in   (H) f32: share of the predicted mass to cover
  Tensor min_keys;     // in   (H) i32
  Tensor max_keys;     // in   (H) i32
  Tensor bits;         // out  (B, H, G, W) u32, contiguous
  Tensor num_keys;     // out  (B, H, G) i32: keys taken
  Tensor covered;      // out  (B, H, G) f32: mass taken / total, 0 where total is 0
  float scale = 1;     // > 0
  int unit = 1;  // 1 | kTileBlocks
  std::int64_t query_offset = 0;
  Proxy proxy = Proxy::kMean;
};

}  // namespace dsv::kernels
