// What one task of the cpu attention computes: plain numbers and pointers, the same for every
// instruction set.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>

#include "dsv/tensor/tensor.h"

namespace dsv::kernels::cpu {

// Keys and queries that are worked on at a time. The order of every sum follows from these and the
// number of keys and queries alone. Multiples of 12 and 6, the rows of a register tile.
constexpr std::int64_t kForwardKeys = 192;
constexpr std::int64_t kForwardQueries = 192;   // of a task at most; results do not depend on it
constexpr std::int64_t kBackwardQueries = 96;   // a multiple of every tile's columns too
constexpr std::int64_t kBackwardKeys128 = 240;  // of a task at most, at D ≤ 128
constexpr std::int64_t kBackwardKeys256 = 120;  // above

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504f;

// The rows of one head of one sample.
struct HeadRows {
  float* data = nullptr;
  std::int64_t stride = 0;
  float* row(std::int64_t s) const { return data + s * stride; }
};

inline HeadRows head(const Tensor& t, std::int64_t b, std::int64_t h) {
  if (t.num_elements() == 0) return {};
  return {.data = t.f32() + b * t.stride(0) + h * t.stride(2), .stride = t.stride(1)};
}

struct AttentionForwardTask {
  HeadRows q, k, v, o;
  const float* key_bias;  // null: none
  float* lse;             // of the task's first query
  std::int64_t first_query, num_queries, num_keys, D;
  float scale;
  float* scratch;
};

// One block of keys against all queries. dq gets the blocks' shares in their order: `before` counts
// the chunks of queries that the block before this one has added (null: this is the first), `done`
// this block's own.
struct AttentionBackwardTask {
  HeadRows q, k, v, d_o, dq, dk, dv;
  const float* key_bias;
  const float *lse, *delta;  // of query 0
  std::int64_t num_queries, first_key, num_keys, D;
  float scale;
  const std::atomic<std::int32_t>* before;
  std::atomic<std::int32_t>* done;
  float* scratch;
};

// delta[i] = <o_i, do_i>.
struct AttentionDeltaTask {
  HeadRows o, d_o;
  float* delta;
  std::int64_t first_query, num_queries, D;
};

void attention_delta(const Tensor& o, const Tensor& d_o, const Tensor& delta, const Stream& stream);

// Rows of packed blocks are padded to this many floats: a whole number of vectors of any kind.
constexpr std::int64_t padded_dim(std::int64_t D) { return (D + 15) / 16 * 16; }

// Workspace of one thread, a whole number of cache lines.
constexpr std::int64_t forward_scratch_floats(std::int64_t D) {
  return kForwardQueries * (2 * padded_dim(D) + kForwardKeys + 4) +
         kForwardKeys * (2 * padded_dim(D) + 1) + 256;
}
// Keys of a backward task: blocks of almost equal size.
constexpr std::int64_t max_backward_keys(std::int64_t D) {
  return D <= 128 ? kBackwardKeys128 : kBackwardKeys256;
}
constexpr std::int64_t backward_keys(std::int64_t D, std::int64_t num_keys) {
  const std::int64_t most = max_backward_keys(D);
  const std::int64_t blocks = std::max<std::int64_t>(1, (num_keys + most - 1) / most);
  const std::int64_t even = (num_keys + blocks - 1) / blocks;
  return std::max<std::int64_t>(12, (even + 11) / 12 * 12);
}
constexpr std::int64_t backward_scratch_floats(std::int64_t D) {
  return max_backward_keys(D) * (4 * padded_dim(D) + 2 * kBackwardQueries) +
         kBackwardQueries * (5 * padded_dim(D) + 2) + 512;
}

}  // namespace dsv::kernels::cpu
