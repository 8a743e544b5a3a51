// What one task of the cpu sparse attention computes: plain numbers and pointers, the same for
// every instruction set.
#pragma once

#include "attention/attention_tasks.h"
#include "dsv/kernels/sparse_attention.h"

namespace dsv::kernels::cpu {

// Scores and weights of a group lie in rows of this many floats: an odd number of cache lines, so
// that a column of them does not fall on a few sets of the cache.
constexpr std::int64_t kGroupStride = 144;
static_assert(kGroupStride >= kMaxGroupQueries + 12);

// Selected keys that are worked on at a time, few enough that their rows stay in the first cache
// while the group's queries go over them. A multiple of 12 and 6, the rows of a tile.
constexpr std::int64_t kSelectedKeys = 36;

// One head's selection.
struct HeadSelection {
  const std::uint32_t* bits;  // of group 0
  std::int64_t words;         // of a group
  const std::int32_t* block_start;
  const std::int32_t* group_start;
  std::int64_t num_blocks, num_groups;
};

// One group of queries. Rows of k and v are packed: padded_dim(D) floats wide.
struct SparseForwardTask {
  HeadRows q, k, v, o;
  HeadSelection selection;
  float* lse;  // of query 0
  std::int64_t group, num_keys, D;
  float scale;
  float* scratch;
};

// Rows packed one after the other.
struct PackRowsTask {
  HeadRows from;
  float* to;
  std::int64_t first, count, D;
};

// A slab of keys against all groups; dq gets the slabs' shares in their order, group by group
// (AttentionBackwardTask).
struct SparseBackwardTask {
  HeadRows q, k, v, d_o, dq, dk, dv;
  HeadSelection selection;
  const float *lse, *delta;  // of query 0
  std::int64_t first_key, num_keys, D;
  float scale;
  const std::atomic<std::int32_t>* before;
  std::atomic<std::int32_t>* done;
  float* scratch;
};

// Keys of a slab: the more, the fewer times a group's queries are packed; but the slab's keys and
// their gradients should stay in the cache.
constexpr std::int64_t max_slab_keys(std::int64_t D) {
  return std::min<std::int64_t>(2048, 131072 / padded_dim(D));
}
constexpr std::int64_t slab_keys(std::int64_t D, std::int64_t num_keys) {
  const std::int64_t most = max_slab_keys(D);
  const std::int64_t slabs = std::max<std::int64_t>(1, (num_keys + most - 1) / most);
  return std::max<std::int64_t>(1, (num_keys + slabs - 1) / slabs);
}

// Workspace of one thread, a whole number of cache lines.
constexpr std::int64_t sparse_forward_scratch_floats(std::int64_t D) {
  return padded_dim(kGroupStride * (2 * padded_dim(D) + kSelectedKeys + 3) + 7 * kSelectedKeys +
                    256);
}
constexpr std::int64_t sparse_backward_scratch_floats(std::int64_t D) {
  return padded_dim(max_slab_keys(D) * (4 * padded_dim(D) + 2) +
                    kSelectedKeys * (2 * kGroupStride + 9) +
                    kGroupStride * (5 * padded_dim(D) + 2) + 2 * padded_dim(D) + 512);
}

}  // namespace dsv::kernels::cpu
