// What the passes of the backward on Hopper share. The pass over keys stores dS, the pass over
// queries multiplies it with K: five products in place of seven, for the traffic of 2 bytes per
// selected pair. dS is kept in slices of 16 keys (one block) by 64 queries (one half of a group),
// for as many rows of bits at a time as fit into the room: one round.
#pragma once

#include "sparse_attention/pipeline.cuh"
#include "sparse_attention/selection_view.cuh"

namespace dsv::kernels::cuda {

constexpr int kHalf = 64;  // queries
constexpr int kSliceBytes = 16 * kSwizzledRow;

// Rows are groups of all heads of all samples, as in the bits. A row's slices follow each other,
// block by block in ascending order, of each block first the first half.
struct BackwardPlan {
  std::uint32_t* before;      // (rows, W): selected blocks of the row before a word
  std::uint32_t* row_slices;  // (rows + 1): slices before a row
  int* cuts;                  // (rounds + 1): round r has the rows cuts[r] up to cuts[r + 1]
  int* next_item;             // (rounds, 2): counters of the two passes, 0 at the start
  int* tile_groups;           // (B, H, key tiles): groups that have selected any of its blocks
  int* order;                 // (B, H, key tiles): a head's tiles, those of most groups first
  float* lse;                 // (B, H, Sq): divided by the scale, +inf for -inf
  unsigned char* slices;      // the room
  float* carry;               // sums of a head that a cut divides: (2, key tiles, 2, 64 x D)
};

struct BackwardArguments {
  SelectionView selection;
  BackwardPlan plan;
  HeadsView<const Bf16> q, k, v, d_o;
  HeadsView<Bf16> dq, dk, dv;
  const float* delta;
  int Sq, H;
  float scale, scale_log2;
};

__device__ inline int num_halves(int num_queries) {
  return (num_queries + kHalf - 1) / kHalf;
}

// Bits of word w that stand for blocks.
__device__ inline std::uint32_t block_bits(std::uint32_t word, int w, int N) {
  const int left = N - 32 * w;
  return left >= 32 ? word : word & ((1u << left) - 1);
}

// Both of one round; `D` is 64 or 128. `blocks`: multiprocessors to fill.
void launch_sparse_dkdv(const BackwardArguments& args, int D, int round, int blocks,
                        cudaStream_t stream);
void launch_sparse_dq(const BackwardArguments& args, int D, int round, int blocks,
                      cudaStream_t stream);

}  // namespace dsv::kernels::cuda
