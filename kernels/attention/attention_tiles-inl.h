// What dense and sparse attention have in common: packed queries and keys, and the tiles of scores,
// weights, outputs, and gradients. Scores lie transposed, keys by queries, in units of log2 e.
#if defined(DSV_KERNELS_ATTENTION_ATTENTION_TILES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV_KERNELS_ATTENTION_ATTENTION_TILES_INL_H
#undef DSV_KERNELS_ATTENTION_ATTENTION_TILES_INL_H
#else
#define DSV_KERNELS_ATTENTION_ATTENTION_TILES_INL_H
#endif

#include <hwy/cache_control.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <thread>

#include "attention/attention_tasks.h"
#include "cpu/exp2-inl.h"
#include "cpu/pack-inl.h"
#include "cpu/tile-inl.h"
#include "dsv/base/check_math.h"

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

// Fetches the rows of what comes next into the cache, a share with every tile of what is there:
// rows lie far apart, where the processor does not look ahead by itself.
class RowsAhead {
 public:
  RowsAhead(std::int64_t num_rows, std::int64_t num_tiles)
      : num_rows_(num_rows), num_tiles_(num_tiles) {}
  // To be called with each tile; `first` is row 0 of what comes next, or `listed` says which rows.
  HWY_INLINE void fetch(std::int64_t D, std::initializer_list<const HeadRows*> tensors,
                        std::int64_t first) {
    fetch_rows(D, tensors, [first](std::int64_t row) HWY_ATTR { return first + row; });
  }
  HWY_INLINE void fetch(std::int64_t D, std::initializer_list<const HeadRows*> tensors,
                        const std::int32_t* listed) {
    fetch_rows(D, tensors,
               [listed](std::int64_t row) HWY_ATTR { return std::int64_t{listed[row]}; });
  }

 private:
  template <typename RowOf>
  HWY_INLINE void fetch_rows(std::int64_t D, std::initializer_list<const HeadRows*> tensors,
                             const RowOf& row_of) {
    const std::int64_t until = num_rows_ * ++tile_ / num_tiles_;
    for (; row_ < until; ++row_) {
      for (const HeadRows* rows : tensors) {
        const float* const at = rows->row(row_of(row_));
        for (std::int64_t c = 0; c < D; c += 16) hwy::Prefetch(at + c);
        hwy::Prefetch(at + D - 1);
      }
    }
  }

  std::int64_t num_rows_, num_tiles_, tile_ = 0, row_ = 0;
};

template <int kRows, int kVectors, typename Fn>
HWY_INLINE void for_tile(const Fn& fn) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) fn(r, v);
  }
}

// Rows of keys or values that a tile works on: one after the other, or each anywhere.
struct EvenKeys {
  const float* first;
  std::int64_t stride;
  HWY_INLINE EvenKeys from(std::int64_t j) const { return {first + j * stride, stride}; }
};
struct ListedKeys {
  const float* const* rows;
  HWY_INLINE ListedKeys from(std::int64_t j) const { return {rows + j}; }
};

// acc[r][v] = <key r, query ...> of the queries of a panel.
HWY_INLINE void multiply_keys(std::int64_t D, const EvenKeys& keys, const float* panel,
                              VecF32 (&acc)[kTileRows][kTileVectors]) {
  multiply_tile<Operand::kRowMajor>(D, keys.first, keys.stride, panel, kTileColumns, acc);
}
HWY_INLINE void multiply_keys(std::int64_t D, const ListedKeys& keys, const float* panel,
                              VecF32 (&acc)[kTileRows][kTileVectors]) {
  const F32 d;
  const float* rows[kTileRows];
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) rows[r] = keys.rows[r];
  for_tile<kTileRows, kTileVectors>([&](int r, int v) HWY_ATTR { acc[r][v] = hn::Zero(d); });
#pragma GCC unroll 1
  for (std::int64_t c = 0; c < D; ++c, panel += kTileColumns) {
    VecF32 queries[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) queries[v] = hn::LoadU(d, panel + v * kLanes);
    for_tile<kTileRows, kTileVectors>([&](int r, int v) HWY_ATTR {
      acc[r][v] = hn::MulAdd(hn::Set(d, rows[r][c]), queries[v], acc[r][v]);
    });
  }
}

// Scores of kTileRows keys and kTileColumns queries, and their maxima.
template <typename Keys>
HWY_NOINLINE void score_tile(std::int64_t D, const Keys k, const float* q_panel, float scale,
                             const float* bias, float* scores, std::int64_t scores_stride,
                             float* max) {
  const F32 d;
  VecF32 acc[kTileRows][kTileVectors];
  multiply_keys(D, k, q_panel, acc);
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

// Turns a panel of scores into weights relative to the new maxima; `max` and `sum` of its queries
// are brought up to date and `keep` becomes what earlier weights are to be multiplied with.
inline HWY_NOINLINE void softmax_panel(float* scores, std::int64_t stride, std::int64_t num_keys,
                                       const float* block_max, float* max, float* sum,
                                       float* keep) {
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

// acc = a * b from column c on, where the rows of b are those of queries or of keys.
template <Operand kA, int kVectors>
HWY_INLINE void multiply_rows(std::int64_t depth, const float* a, std::int64_t a_stride,
                              const EvenKeys& b, std::int64_t c,
                              VecF32 (&acc)[kTileRows][kVectors]) {
  multiply_tile<kA>(depth, a, a_stride, b.first + c, b.stride, acc);
}
template <Operand kA, int kVectors>
HWY_INLINE void multiply_rows(std::int64_t depth, const float* a, std::int64_t a_stride,
                              const ListedKeys& b, std::int64_t c,
                              VecF32 (&acc)[kTileRows][kVectors]) {
  static_assert(kA == Operand::kDepthMajor);
  const F32 d;
  for_tile<kTileRows, kVectors>([&](int r, int v) HWY_ATTR { acc[r][v] = hn::Zero(d); });
#pragma GCC unroll 1
  for (std::int64_t k = 0; k < depth; ++k, a += a_stride) {
    VecF32 row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = hn::LoadU(d, b.rows[k] + c + v * kLanes);
    for_tile<kTileRows, kVectors>([&](int r, int v) HWY_ATTR {
      acc[r][v] = hn::MulAdd(hn::Set(d, a[r]), row[v], acc[r][v]);
    });
  }
}

// out (kTileRows queries, columns from c) = keep * out + weights^T * v; `first` does not read out.
template <int kVectors, typename Values>
HWY_NOINLINE void output_tile(std::int64_t num_keys, const float* weights, std::int64_t stride,
                              const Values v_rows, std::int64_t c, const float* keep, bool first,
                              float* out, std::int64_t out_stride) {
  const F32 d;
  VecF32 acc[kTileRows][kVectors];
  multiply_rows<Operand::kDepthMajor>(num_keys, weights, stride, v_rows, c, acc);
  for_tile<kTileRows, kVectors>([&](int r, int v) HWY_ATTR {
    float* const to = out + r * out_stride + c + v * kLanes;
    VecF32 value = acc[r][v];
    if (!first) value = hn::MulAdd(hn::LoadU(d, to), hn::Set(d, keep[r]), value);
    hn::StoreU(value, d, to);
  });
}

// A block of queries in the forward, and what the keys so far have given it.
struct ForwardBlock {
  std::int64_t D, width, num_queries, stride;  // of scores
  float *q, *scores, *bias, *out, *max, *sum, *keep;
  float* end;  // of the room that the block takes

  // With room for `most_keys` at a time.
  ForwardBlock(float* room, std::int64_t D, std::int64_t num_queries, std::int64_t stride,
               std::int64_t most_keys)
      : D(D), width(padded_dim(D)), num_queries(num_queries), stride(stride) {
    Carver scratch(room);
    q = scratch.take(columns() * D);
    scores = scratch.take(most_keys * stride);
    bias = scratch.take(most_keys);
    const std::int64_t rows = std::max(columns(), round_up(num_queries, kTileRows));
    out = scratch.take(rows * width);
    max = scratch.take(columns());
    sum = scratch.take(columns());
    keep = scratch.take(rows);
    end = scratch.take(0);
  }
  std::int64_t columns() const { return round_up(num_queries, kTileColumns); }
  std::int64_t num_tiles(std::int64_t num_keys) const {
    return columns() / kTileColumns * ceil_div(num_keys, kTileRows);
  }
};

HWY_INLINE void begin_queries(const ForwardBlock& f, const HeadRows& q, std::int64_t first) {
  pack_query_panels(q, first, f.num_queries, f.D, f.q);
  std::fill_n(f.max, f.columns(), kMinusInfinity);
  std::fill_n(f.sum, f.columns(), 0.0f);
}

// Takes in keys with the biases that lie in `bias`; ahead() is called with every tile of scores.
template <typename Keys, typename Ahead>
HWY_INLINE void take_keys(const ForwardBlock& f, const Keys& k, const Keys& v,
                          std::int64_t num_keys, float scale, bool first, const Ahead& ahead) {
  for (std::int64_t i = 0; i < f.num_queries; i += kTileColumns) {
    HWY_ALIGN float block_max[kTileColumns];
    std::fill_n(block_max, kTileColumns, kMinusInfinity);
    for (std::int64_t j = 0; j < num_keys; j += kTileRows) {
      ahead();
      score_tile(f.D, k.from(j), f.q + i * f.D, scale, f.bias + j, f.scores + j * f.stride + i,
                 f.stride, block_max);
    }
    softmax_panel(f.scores + i, f.stride, num_keys, block_max, f.max + i, f.sum + i, f.keep + i);
  }
  for (std::int64_t i = 0; i < f.num_queries; i += kTileRows) {
    float* const out = f.out + i * f.width;
    std::int64_t c = 0;
    for (; c + kTileColumns <= f.width; c += kTileColumns) {
      output_tile<kTileVectors>(num_keys, f.scores + i, f.stride, v, c, f.keep + i, first, out,
                                f.width);
    }
    for (; c < f.width; c += kLanes) {
      output_tile<1>(num_keys, f.scores + i, f.stride, v, c, f.keep + i, first, out, f.width);
    }
  }
}

// Divides by the sums of weights.
HWY_INLINE void finish_queries(const ForwardBlock& f, const HeadRows& o, std::int64_t first,
                               float* lse) {
  for (std::int64_t i = 0; i < f.num_queries; ++i) {
    const bool any = f.sum[i] > 0;  // else every score was -inf, or there are no keys
    const float inverse = any ? 1.0f / f.sum[i] : 0.0f;
    float* const to = o.row(first + i);
    for (std::int64_t c = 0; c < f.D; ++c) to[c] = any ? f.out[i * f.width + c] * inverse : 0.0f;
    constexpr double kLn2 = 0.69314718055994530942;
    lse[i] = any ? static_cast<float>(kLn2 * (static_cast<double>(f.max[i]) +
                                              std::log2(static_cast<double>(f.sum[i]))))
                 : kMinusInfinity;
  }
}

// --- Backward -----------------------------------------------------------------------------------

// weights = exp2(scale * <k, q> + bias - lse) of kTileRows keys and kTileColumns queries.
template <std::int64_t kStride, typename Keys>
HWY_NOINLINE void weight_tile(std::int64_t D, const Keys k, const float* q_panel, float scale,
                              const float* bias, const float* lse, float* weights) {
  const F32 d;
  VecF32 acc[kTileRows][kTileVectors];
  multiply_keys(D, k, q_panel, acc);
  const VecF32 factor = hn::Set(d, scale);
  for_tile<kTileRows, kTileVectors>([&](int r, int v) HWY_ATTR {
    const VecF32 offset = hn::Sub(hn::Set(d, bias[r]), hn::LoadU(d, lse + v * kLanes));
    hn::StoreU(exp2_of(hn::MulAdd(acc[r][v], factor, offset)), d,
               weights + r * kStride + v * kLanes);
  });
}

// dscores = weights * (<v, do> - delta).
template <std::int64_t kStride, typename Keys>
HWY_NOINLINE void dscore_tile(std::int64_t D, const Keys v_rows, const float* do_panel,
                              const float* delta, const float* weights, float* dscores) {
  const F32 d;
  VecF32 acc[kTileRows][kTileVectors];
  multiply_keys(D, v_rows, do_panel, acc);
  for_tile<kTileRows, kTileVectors>([&](int r, int v) HWY_ATTR {
    const std::int64_t at = r * kStride + v * kLanes;
    const VecF32 p = hn::LoadU(d, weights + at);
    hn::StoreU(hn::Mul(p, hn::Sub(acc[r][v], hn::LoadU(d, delta + v * kLanes))), d, dscores + at);
  });
}

// Where the rows of a gradient lie: one after the other, or anywhere.
struct EvenRows {
  float* first;
  std::int64_t stride;
  HWY_INLINE float* row(std::int64_t r) const { return first + r * stride; }
  HWY_INLINE EvenRows from(std::int64_t r) const { return {row(r), stride}; }
};
struct ListedRows {
  float* const* rows;
  HWY_INLINE float* row(std::int64_t r) const { return rows[r]; }
  HWY_INLINE ListedRows from(std::int64_t r) const { return {rows + r}; }
};

// out (kTileRows, columns from c) (+)= a * b for rows of queries or of keys.
template <Operand kA, std::int64_t kStride, int kVectors, typename B, typename Rows>
HWY_NOINLINE void gradient_tile(std::int64_t depth, const float* a, const B b, std::int64_t c,
                                bool add, const Rows out) {
  const F32 d;
  VecF32 acc[kTileRows][kVectors];
  multiply_rows<kA>(depth, a, kStride, b, c, acc);
  for_tile<kTileRows, kVectors>([&](int r, int v) HWY_ATTR {
    float* const to = out.row(r) + c + v * kLanes;
    hn::StoreU(add ? hn::Add(hn::LoadU(d, to), acc[r][v]) : acc[r][v], d, to);
  });
}

// out (num_rows, width) (+)= a * b, tile by tile.
template <Operand kA, std::int64_t kStride, typename B, typename Rows>
HWY_INLINE void gradient_rows(std::int64_t num_rows, std::int64_t width, std::int64_t depth,
                              const float* a, const B& b, bool add, const Rows& out) {
  for (std::int64_t r = 0; r < num_rows; r += kTileRows) {
    const float* const a_rows = a + r * (kA == Operand::kRowMajor ? kStride : 1);
    std::int64_t c = 0;
    for (; c + kTileColumns <= width; c += kTileColumns) {
      gradient_tile<kA, kStride, kTileVectors>(depth, a_rows, b, c, add, out.from(r));
    }
    for (; c < width; c += kLanes) {
      gradient_tile<kA, kStride, 1>(depth, a_rows, b, c, add, out.from(r));
    }
  }
}

// Numbers of each query of the backward as its tiles want them: lse in units of log2 e. A row
// without a finite score, or none at all, has weights 0.
HWY_INLINE void pack_query_numbers(const float* natural_lse, const float* delta, std::int64_t count,
                                   std::int64_t columns, float* lse_to, float* delta_to) {
  for (std::int64_t i = 0; i < columns; ++i) {
    const float natural = i < count ? natural_lse[i] : kMinusInfinity;
    lse_to[i] = natural == kMinusInfinity ? -kMinusInfinity : natural * kLog2E;
    delta_to[i] = i < count ? delta[i] : 0.0f;
  }
}

// dq gets the shares of the blocks of keys in their order: waits until the block before (null: this
// is the first) has added its own for this `turn` of queries, adds scale * share, and says so.
HWY_INLINE void add_share(const float* share, std::int64_t width, std::int64_t first,
                          std::int64_t count, std::int64_t D, float scale, std::int32_t turn,
                          const std::atomic<std::int32_t>* before, const HeadRows& dq,
                          std::atomic<std::int32_t>* done) {
  const F32 d;
  if (before != nullptr) {
    for (int spins = 0; before->load(std::memory_order_acquire) <= turn; ++spins) {
      if (spins > 1000) std::this_thread::yield();
    }
  }
  const VecF32 factor = hn::Set(d, scale);
  for (std::int64_t i = 0; i < count; ++i, share += width) {
    float* const to = dq.row(first + i);
    for_each_vector(D, [&](auto at) HWY_ATTR {
      const VecF32 sum = before != nullptr ? at.load(to) : hn::Zero(d);
      at.store(hn::MulAdd(at.load(share), factor, sum), to);
    });
  }
  done->store(turn + 1, std::memory_order_release);
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
