// Both passes hold scores transposed, keys by queries: rows of K and V are used as they lie, maxima
// and sums run down columns, one query per lane, and every product is the one register tile
// (cpu/tile-inl.h). Scores are kept in units of log2 e, for exp2.
#define HWY_TARGET_INCLUDE "attention/attention_cpu.cpp"
#include "cpu/targets.h"
#include <hwy/foreach_target.h>
#include <hwy/cache_control.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <thread>

#include "attention/attention_tasks.h"
#include "cpu/arguments.h"
#include "cpu/exp2-inl.h"
#include "cpu/pack-inl.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/tile-inl.h"
#include "dsv/base/check_math.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// Pieces of a scratch block, each at a cache line.
class Carver {
 public:
  explicit Carver(float* at) : at_(at) {}
  float* take(std::int64_t num_floats) {
    float* const piece = at_;
    at_ += (num_floats + 15) / 16 * 16;
    return piece;
  }

 private:
  float* at_;
};

// Queries turned into columns: panels of kTileColumns queries, each (D, kTileColumns), filled up
// with 0.
HWY_INLINE void pack_query_panels(const HeadRows& rows, std::int64_t first, std::int64_t count,
                                  std::int64_t D, float* panels) {
  for (std::int64_t i = 0; i < count; i += kTileColumns) {
    pack_transposed(rows.row(first + i), rows.stride, std::min(kTileColumns, count - i), D, panels,
                    kTileColumns, kTileColumns);
    panels += D * kTileColumns;
  }
}

// Fetches the rows of the next block into the cache, a share with every tile of this one: rows lie
// far apart, where the processor does not look ahead by itself.
class RowsAhead {
 public:
  RowsAhead(std::int64_t num_rows, std::int64_t num_tiles)
      : num_rows_(num_rows), num_tiles_(num_tiles) {}
  // To be called with each tile; `first` is row 0 of the next block.
  HWY_INLINE void fetch(std::int64_t D, std::initializer_list<const HeadRows*> tensors,
                        std::int64_t first) {
    const std::int64_t until = num_rows_ * ++tile_ / num_tiles_;
    for (; row_ < until; ++row_) {
      for (const HeadRows* rows : tensors) {
        const float* const at = rows->row(first + row_);
        for (std::int64_t c = 0; c < D; c += 16) hwy::Prefetch(at + c);
        hwy::Prefetch(at + D - 1);
      }
    }
  }

 private:
  std::int64_t num_rows_, num_tiles_, tile_ = 0, row_ = 0;
};

// Key rows (num_rows, padded_dim(D)), filled up with 0 to whole tiles.
HWY_INLINE void pack_key_rows(const HeadRows& rows, std::int64_t first, std::int64_t count,
                              std::int64_t D, float* to) {
  const std::int64_t width = padded_dim(D), end = round_up(count, kTileRows);
  pack_rows(rows.row(first), rows.stride, count, D, to, width, width);
  std::fill(to + count * width, to + end * width, 0.0f);
}

// The bias of each key in units of log2 e; keys that only fill up a tile are masked.
HWY_INLINE void pack_key_bias(const float* bias, std::int64_t count, float* to) {
  for (std::int64_t j = 0; j < count; ++j) to[j] = bias != nullptr ? bias[j] * kLog2E : 0.0f;
  std::fill(to + count, to + round_up(count, kTileRows), kMinusInfinity);
}

template <int kRows, int kVectors, typename Fn>
HWY_INLINE void for_tile(const Fn& fn) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) fn(r, v);
  }
}

// Scores of kTileRows keys and kTileColumns queries, and their maxima.
HWY_NOINLINE void score_tile(std::int64_t D, const float* k, std::int64_t k_stride,
                             const float* q_panel, float scale, const float* bias, float* scores,
                             std::int64_t scores_stride, float* max) {
  const F32 d;
  VecF32 acc[kTileRows][kTileVectors];
  multiply_tile<Operand::kRowMajor>(D, k, k_stride, q_panel, kTileColumns, acc);
  VecF32 top[kTileVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kTileVectors; ++v) top[v] = hn::LoadU(d, max + v * kLanes);
  const VecF32 factor = hn::Set(d, scale);
  for_tile<kTileRows, kTileVectors>([&](int r, int v) HWY_ATTR {
    const VecF32 s = hn::MulAdd(acc[r][v], factor, hn::Set(d, bias[r]));
    hn::StoreU(s, d, scores + r * scores_stride + v * kLanes);
    top[v] = hn::Max(top[v], s);
  });
#pragma GCC unroll 4
  for (int v = 0; v < kTileVectors; ++v) hn::StoreU(top[v], d, max + v * kLanes);
}

// Turns a panel of scores into weights relative to the new maxima; `max` and `sum` of its queries are
// brought up to date and `keep` becomes what earlier weights are to be multiplied with.
HWY_NOINLINE void softmax_panel(float* scores, std::int64_t stride, std::int64_t num_keys,
                                const float* block_max, float* max, float* sum, float* keep) {
  const F32 d;
#pragma GCC unroll 4
  for (int v = 0; v < kTileVectors; ++v) {
    const std::int64_t at = v * kLanes;
    const VecF32 old = hn::LoadU(d, max + at);
    const VecF32 top = hn::Max(old, hn::LoadU(d, block_max + at));
    // Where every score so far is -inf there is nothing to be relative to.
    const VecF32 base = hn::IfThenZeroElse(hn::Eq(top, hn::Set(d, kMinusInfinity)), top);
    VecF32 total = hn::Zero(d);
    float* s = scores + at;
    for (std::int64_t j = 0; j < num_keys; ++j, s += stride) {
      const VecF32 p = exp2_of(hn::Sub(hn::LoadU(d, s), base));
      total = hn::Add(total, p);
      hn::StoreU(p, d, s);
    }
    const VecF32 factor = exp2_of(hn::Sub(old, base));
    hn::StoreU(top, d, max + at);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, sum + at), factor, total), d, sum + at);
    hn::StoreU(factor, d, keep + at);
  }
}

// out (kTileRows queries, columns) = keep * out + weights^T * v; `first` does not read out.
template <int kVectors>
HWY_NOINLINE void output_tile(std::int64_t num_keys, const float* weights, std::int64_t stride,
                              const float* v_rows, std::int64_t v_stride, const float* keep,
                              bool first, float* out) {
  const F32 d;
  VecF32 acc[kTileRows][kVectors];
  multiply_tile<Operand::kDepthMajor>(num_keys, weights, stride, v_rows, v_stride, acc);
  for_tile<kTileRows, kVectors>([&](int r, int v) HWY_ATTR {
    float* const to = out + r * v_stride + v * kLanes;
    VecF32 value = acc[r][v];
    if (!first) value = hn::MulAdd(hn::LoadU(d, to), hn::Set(d, keep[r]), value);
    hn::StoreU(value, d, to);
  });
}

void attention_forward_task(const AttentionForwardTask& t) {
  const std::int64_t D = t.D, width = padded_dim(D);
  const std::int64_t queries = round_up(t.num_queries, kTileColumns);
  constexpr std::int64_t kStride = kForwardQueries;  // of scores
  Carver scratch(t.scratch);
  float* const q = scratch.take(queries * D);
  float* const scores = scratch.take(kForwardKeys * kStride);
  float* const k = scratch.take(kForwardKeys * width);
  float* const v = scratch.take(kForwardKeys * width);
  float* const bias = scratch.take(kForwardKeys);
  float* const out = scratch.take(kForwardQueries * width);
  float* const max = scratch.take(kForwardQueries);
  float* const sum = scratch.take(kForwardQueries);
  float* const keep = scratch.take(kForwardQueries);
  pack_query_panels(t.q, t.first_query, t.num_queries, D, q);
  std::fill_n(max, queries, kMinusInfinity);
  std::fill_n(sum, queries, 0.0f);
  const float scale = t.scale * kLog2E;
  for (std::int64_t key = 0; key < t.num_keys; key += kForwardKeys) {
    const std::int64_t num_keys = std::min(kForwardKeys, t.num_keys - key);
    pack_key_rows(t.k, key, num_keys, D, k);
    pack_rows(t.v.row(key), t.v.stride, num_keys, D, v, width, width);
    pack_key_bias(t.key_bias != nullptr ? t.key_bias + key : nullptr, num_keys, bias);
    const std::int64_t next = key + num_keys;
    RowsAhead ahead(std::min(kForwardKeys, t.num_keys - next),
                    queries / kTileColumns * ceil_div(num_keys, kTileRows));
    for (std::int64_t i = 0; i < queries; i += kTileColumns) {
      HWY_ALIGN float block_max[kTileColumns];
      std::fill_n(block_max, kTileColumns, kMinusInfinity);
      for (std::int64_t j = 0; j < num_keys; j += kTileRows) {
        ahead.fetch(D, {&t.k, &t.v}, next);
        score_tile(D, k + j * width, width, q + i * D, scale, bias + j, scores + j * kStride + i,
                   kStride, block_max);
      }
      softmax_panel(scores + i, kStride, num_keys, block_max, max + i, sum + i, keep + i);
    }
    for (std::int64_t i = 0; i < t.num_queries; i += kTileRows) {
      std::int64_t c = 0;
      for (; c + kTileColumns <= width; c += kTileColumns) {
        output_tile<kTileVectors>(num_keys, scores + i, kStride, v + c, width, keep + i, key == 0,
                                  out + i * width + c);
      }
      for (; c < width; c += kLanes) {
        output_tile<1>(num_keys, scores + i, kStride, v + c, width, keep + i, key == 0,
                       out + i * width + c);
      }
    }
  }
  for (std::int64_t i = 0; i < t.num_queries; ++i) {
    const bool any = sum[i] > 0;  // else every score was -inf, or there are no keys
    const float inverse = any ? 1.0f / sum[i] : 0.0f;
    float* const o = t.o.row(t.first_query + i);
    for (std::int64_t c = 0; c < D; ++c) o[c] = any ? out[i * width + c] * inverse : 0.0f;
    constexpr double kLn2 = 0.69314718055994530942;
    t.lse[i] = any ? static_cast<float>(kLn2 * (static_cast<double>(max[i]) +
                                                std::log2(static_cast<double>(sum[i]))))
                   : kMinusInfinity;
  }
}

// --- Backward -----------------------------------------------------------------------------------

// weights = exp2(scale * <k, q> + bias - lse) of kTileRows keys and kTileColumns queries.
HWY_NOINLINE void weight_tile(std::int64_t D, const float* k, std::int64_t k_stride,
                              const float* q_panel, float scale, const float* bias,
                              const float* lse, float* weights) {
  const F32 d;
  VecF32 acc[kTileRows][kTileVectors];
  multiply_tile<Operand::kRowMajor>(D, k, k_stride, q_panel, kTileColumns, acc);
  const VecF32 factor = hn::Set(d, scale);
  for_tile<kTileRows, kTileVectors>([&](int r, int v) HWY_ATTR {
    const VecF32 offset = hn::Sub(hn::Set(d, bias[r]), hn::LoadU(d, lse + v * kLanes));
    hn::StoreU(exp2_of(hn::MulAdd(acc[r][v], factor, offset)), d,
               weights + r * kBackwardQueries + v * kLanes);
  });
}

// dscores = weights * (<v, do> - delta).
HWY_NOINLINE void dscore_tile(std::int64_t D, const float* v_rows, std::int64_t v_stride,
                              const float* do_panel, const float* delta, const float* weights,
                              float* dscores) {
  const F32 d;
  VecF32 acc[kTileRows][kTileVectors];
  multiply_tile<Operand::kRowMajor>(D, v_rows, v_stride, do_panel, kTileColumns, acc);
  for_tile<kTileRows, kTileVectors>([&](int r, int v) HWY_ATTR {
    const std::int64_t at = r * kBackwardQueries + v * kLanes;
    const VecF32 p = hn::LoadU(d, weights + at);
    hn::StoreU(hn::Mul(p, hn::Sub(acc[r][v], hn::LoadU(d, delta + v * kLanes))), d, dscores + at);
  });
}

// out (kTileRows, columns) (+)= a * b for rows of queries or of keys.
template <Operand kA, int kVectors>
HWY_NOINLINE void gradient_tile(std::int64_t depth, const float* a, const float* b,
                                std::int64_t b_stride, bool add, float* out,
                                std::int64_t out_stride) {
  const F32 d;
  VecF32 acc[kTileRows][kVectors];
  multiply_tile<kA>(depth, a, kBackwardQueries, b, b_stride, acc);
  for_tile<kTileRows, kVectors>([&](int r, int v) HWY_ATTR {
    float* const to = out + r * out_stride + v * kLanes;
    hn::StoreU(add ? hn::Add(hn::LoadU(d, to), acc[r][v]) : acc[r][v], d, to);
  });
}

// out (num_rows, width) (+)= a * b, tile by tile.
template <Operand kA>
HWY_INLINE void gradient_rows(std::int64_t num_rows, std::int64_t width, std::int64_t depth,
                              const float* a, const float* b, std::int64_t b_stride, bool add,
                              float* out) {
  for (std::int64_t r = 0; r < num_rows; r += kTileRows) {
    const float* const a_rows = a + r * (kA == Operand::kRowMajor ? kBackwardQueries : 1);
    std::int64_t c = 0;
    for (; c + kTileColumns <= width; c += kTileColumns) {
      gradient_tile<kA, kTileVectors>(depth, a_rows, b + c, b_stride, add, out + r * width + c,
                                      width);
    }
    for (; c < width; c += kLanes) {
      gradient_tile<kA, 1>(depth, a_rows, b + c, b_stride, add, out + r * width + c, width);
    }
  }
}

void attention_backward_task(const AttentionBackwardTask& t) {
  const F32 d;
  const std::int64_t D = t.D, width = padded_dim(D);
  const std::int64_t key_rows = round_up(t.num_keys, kTileRows);
  Carver scratch(t.scratch);
  float* const k = scratch.take(key_rows * width);
  float* const v = scratch.take(key_rows * width);
  float* const dk = scratch.take(key_rows * width);
  float* const dv = scratch.take(key_rows * width);
  float* const bias = scratch.take(key_rows);
  float* const weights = scratch.take(key_rows * kBackwardQueries);
  float* const dscores = scratch.take(key_rows * kBackwardQueries);
  float* const q_panels = scratch.take(kBackwardQueries * D);
  float* const do_panels = scratch.take(kBackwardQueries * D);
  float* const q_rows = scratch.take(kBackwardQueries * width);
  float* const do_rows = scratch.take(kBackwardQueries * width);
  float* const dq = scratch.take(kBackwardQueries * width);
  float* const lse = scratch.take(kBackwardQueries);
  float* const delta = scratch.take(kBackwardQueries);
  pack_key_rows(t.k, t.first_key, t.num_keys, D, k);
  pack_key_rows(t.v, t.first_key, t.num_keys, D, v);
  pack_key_bias(t.key_bias != nullptr ? t.key_bias + t.first_key : nullptr, t.num_keys, bias);
  std::fill_n(dk, key_rows * width, 0.0f);
  std::fill_n(dv, key_rows * width, 0.0f);
  const float scale = t.scale * kLog2E;
  std::int32_t chunk = 0;
  for (std::int64_t first = 0; first < t.num_queries; first += kBackwardQueries, ++chunk) {
    const std::int64_t count = std::min(kBackwardQueries, t.num_queries - first);
    const std::int64_t columns = round_up(count, kTileColumns);
    pack_query_panels(t.q, first, count, D, q_panels);
    pack_query_panels(t.d_o, first, count, D, do_panels);
    pack_rows(t.q.row(first), t.q.stride, count, D, q_rows, width, width);
    pack_rows(t.d_o.row(first), t.d_o.stride, count, D, do_rows, width, width);
    for (std::int64_t i = 0; i < columns; ++i) {
      // A row without a finite score, or none at all, has weights 0.
      const float natural = i < count ? t.lse[first + i] : kMinusInfinity;
      lse[i] = natural == kMinusInfinity ? -kMinusInfinity : natural * kLog2E;
      delta[i] = i < count ? t.delta[first + i] : 0.0f;
    }
    const std::int64_t next = first + count;
    RowsAhead ahead(std::min(kBackwardQueries, t.num_queries - next),
                    columns / kTileColumns * (key_rows / kTileRows));
    for (std::int64_t i = 0; i < columns; i += kTileColumns) {
      for (std::int64_t j = 0; j < key_rows; j += kTileRows) {
        ahead.fetch(D, {&t.q, &t.d_o, &t.dq}, next);
        const std::int64_t at = j * kBackwardQueries + i;
        weight_tile(D, k + j * width, width, q_panels + i * D, scale, bias + j, lse + i,
                    weights + at);
        dscore_tile(D, v + j * width, width, do_panels + i * D, delta + i, weights + at,
                    dscores + at);
      }
    }
    gradient_rows<Operand::kRowMajor>(key_rows, width, count, weights, do_rows, width, true, dv);
    gradient_rows<Operand::kRowMajor>(key_rows, width, count, dscores, q_rows, width, true, dk);
    gradient_rows<Operand::kDepthMajor>(count, width, t.num_keys, dscores, k, width, false, dq);
    if (t.before != nullptr) {
      for (int spins = 0; t.before->load(std::memory_order_acquire) <= chunk; ++spins) {
        if (spins > 1000) std::this_thread::yield();
      }
    }
    const VecF32 factor = hn::Set(d, t.scale);
    for (std::int64_t i = 0; i < count; ++i) {
      const float* const share = dq + i * width;
      float* const to = t.dq.row(first + i);
      for_each_vector(D, [&](auto at) HWY_ATTR {
        const VecF32 before = t.before != nullptr ? at.load(to) : hn::Zero(d);
        at.store(hn::MulAdd(at.load(share), factor, before), to);
      });
    }
    t.done->store(chunk + 1, std::memory_order_release);
  }
  for (std::int64_t j = 0; j < t.num_keys; ++j) {
    float* const dk_row = t.dk.row(t.first_key + j);
    float* const dv_row = t.dv.row(t.first_key + j);
    for (std::int64_t c = 0; c < D; ++c) {
      dk_row[c] = t.scale * dk[j * width + c];
      dv_row[c] = dv[j * width + c];
    }
  }
}

void attention_delta_task(const AttentionDeltaTask& t) {
  for (std::int64_t i = 0; i < t.num_queries; ++i) {
    const float *o = t.o.row(t.first_query + i), *d_o = t.d_o.row(t.first_query + i);
    VecF32 sum = hn::Zero(F32());
    for_each_vector(t.D, [&](auto at) HWY_ATTR { sum = hn::MulAdd(at.load(o), at.load(d_o), sum); });
    t.delta[i] = sum_of_lanes(sum);
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(attention_forward_task);
HWY_EXPORT(attention_backward_task);
HWY_EXPORT(attention_delta_task);

HeadRows head(const Tensor& t, std::int64_t b, std::int64_t h) {
  if (t.num_elements() == 0) return {};
  return {.data = t.f32() + b * t.stride(0) + h * t.stride(2), .stride = t.stride(1)};
}
const float* bias_of(const Tensor& key_bias, std::int64_t b) {
  return key_bias ? key_bias.f32() + b * key_bias.stride(0) : nullptr;
}

void check_head_dim(const Tensor& q) {
  DSV_CHECK(q.dim(3) <= 256, "[attention] expected a head dim ≤ 256, got {}", q.dim(3));
}

}  // namespace

void attention_forward(const AttentionForward& args, const Stream& stream) {
  require_f32("attention", {&args.q, &args.k, &args.v, &args.key_bias, &args.o, &args.lse});
  check_head_dim(args.q);
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  // Whole blocks of queries while there are several for each thread; results are the same anyway.
  std::int64_t queries = kForwardQueries;
  while (queries > 96 && B * H * ceil_div(Sq, queries) < 4 * stream.num_threads) queries /= 2;
  const std::int64_t blocks = ceil_div(Sq, queries), num_tasks = B * H * blocks;
  const std::int64_t room = forward_scratch_floats(D);
  float* const scratch_of = scratch<float>(num_workers(stream, num_tasks) * room);
  parallel_tasks(stream, num_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t b = task / blocks / H, h = task / blocks % H;
    const std::int64_t first = task % blocks * queries;
    HWY_DYNAMIC_DISPATCH(attention_forward_task)
    ({.q = head(args.q, b, h), .k = head(args.k, b, h), .v = head(args.v, b, h),
      .o = head(args.o, b, h), .key_bias = bias_of(args.key_bias, b),
      .lse = args.lse.f32() + (b * H + h) * Sq + first, .first_query = first,
      .num_queries = std::min(queries, Sq - first), .num_keys = args.k.dim(1), .D = D,
      .scale = args.scale, .scratch = scratch_of + worker * room});
  });
}

void attention_backward(const AttentionBackward& args, const Stream& stream) {
  require_f32("attention", {&args.q, &args.k, &args.v, &args.key_bias, &args.o, &args.lse,
                            &args.d_o, &args.dq, &args.dk, &args.dv, &args.delta});
  check_head_dim(args.q);
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1), heads = B * H;
  constexpr std::int64_t kRows = 256;
  const std::int64_t row_blocks = ceil_div(Sq, kRows);
  parallel_tasks(stream, heads * row_blocks, [&](std::int64_t task, int) {
    const std::int64_t b = task / row_blocks / H, h = task / row_blocks % H;
    const std::int64_t first = task % row_blocks * kRows;
    HWY_DYNAMIC_DISPATCH(attention_delta_task)
    ({.o = head(args.o, b, h), .d_o = head(args.d_o, b, h),
      .delta = args.delta.f32() + (b * H + h) * Sq + first, .first_query = first,
      .num_queries = std::min(kRows, Sq - first), .D = D});
  });

  // Blocks of keys in order, all heads of one block before the next: by the time that a block's
  // turn to add to dq comes, the block before it is usually done. Tasks are claimed in order, so a
  // task never waits for one that nobody has begun.
  const std::int64_t keys = backward_keys(D, Skv), blocks = ceil_div(Skv, keys);
  const std::int64_t room = backward_scratch_floats(D), num_tasks = heads * blocks;
  const auto progress = std::make_unique<std::atomic<std::int32_t>[]>(
      static_cast<std::size_t>(num_tasks));
  float* const scratch_of = scratch<float>(num_workers(stream, num_tasks) * room);
  parallel_tasks(stream, num_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t b = task % heads / H, h = task % H;
    const std::int64_t first = task / heads * keys;
    HWY_DYNAMIC_DISPATCH(attention_backward_task)
    ({.q = head(args.q, b, h), .k = head(args.k, b, h), .v = head(args.v, b, h),
      .d_o = head(args.d_o, b, h), .dq = head(args.dq, b, h), .dk = head(args.dk, b, h),
      .dv = head(args.dv, b, h), .key_bias = bias_of(args.key_bias, b),
      .lse = args.lse.f32() + (b * H + h) * Sq, .delta = args.delta.f32() + (b * H + h) * Sq,
      .num_queries = Sq, .first_key = first, .num_keys = std::min(keys, Skv - first), .D = D,
      .scale = args.scale, .before = first == 0 ? nullptr : &progress[task - heads],
      .done = &progress[task], .scratch = scratch_of + worker * room});
  });
  if (Skv > 0) return;
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      const HeadRows dq = head(args.dq, b, h);
      for (std::int64_t i = 0; i < Sq; ++i) std::fill_n(dq.row(i), D, 0.0f);
    }
  }
}

}  // namespace dsv::kernels::cpu
#endif
