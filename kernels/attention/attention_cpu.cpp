// Both passes hold scores transposed, keys by queries: rows of K and V are used as they lie, maxima
// and sums run down columns, one query per lane, and every product is the one register tile
// (cpu/tile-inl.h). Scores are kept in units of log2 e, for exp2.
#define HWY_TARGET_INCLUDE "attention/attention_cpu.cpp"
#include "cpu/targets.h"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <memory>

#include "attention/attention_tiles-inl.h"
#include "cpu/arguments.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

void attention_forward_task(const AttentionForwardTask& t) {
  const ForwardBlock f(t.scratch, t.D, t.num_queries, kForwardQueries, kForwardKeys);
  Carver scratch(f.end);
  float* const k = scratch.take(kForwardKeys * f.width);
  float* const v = scratch.take(kForwardKeys * f.width);
  begin_queries(f, t.q, t.first_query);
  for (std::int64_t key = 0; key < t.num_keys; key += kForwardKeys) {
    const std::int64_t num_keys = std::min(kForwardKeys, t.num_keys - key);
    pack_key_rows(t.k, key, num_keys, t.D, k);
    pack_rows(t.v.row(key), t.v.stride, num_keys, t.D, v, f.width, f.width);
    pack_key_bias(t.key_bias != nullptr ? t.key_bias + key : nullptr, num_keys, f.bias);
    const std::int64_t next = key + num_keys;
    RowsAhead ahead(std::min(kForwardKeys, t.num_keys - next), f.num_tiles(num_keys));
    take_keys(f, EvenKeys{k, f.width}, EvenKeys{v, f.width}, num_keys, t.scale * kLog2E, key == 0,
              [&]() HWY_ATTR { ahead.fetch(t.D, {&t.k, &t.v}, next); });
  }
  finish_queries(f, t.o, t.first_query, t.lse);
}

void attention_backward_task(const AttentionBackwardTask& t) {
  const std::int64_t D = t.D, width = padded_dim(D);
  const std::int64_t key_rows = round_up(t.num_keys, kTileRows);
  constexpr std::int64_t kStride = kBackwardQueries;  // of weights and dscores
  Carver scratch(t.scratch);
  float* const k = scratch.take(key_rows * width);
  float* const v = scratch.take(key_rows * width);
  float* const dk = scratch.take(key_rows * width);
  float* const dv = scratch.take(key_rows * width);
  float* const bias = scratch.take(key_rows);
  float* const weights = scratch.take(key_rows * kStride);
  float* const dscores = scratch.take(key_rows * kStride);
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
    pack_query_numbers(t.lse + first, t.delta + first, count, columns, lse, delta);
    const std::int64_t next = first + count;
    RowsAhead ahead(std::min(kBackwardQueries, t.num_queries - next),
                    columns / kTileColumns * (key_rows / kTileRows));
    for (std::int64_t i = 0; i < columns; i += kTileColumns) {
      for (std::int64_t j = 0; j < key_rows; j += kTileRows) {
        ahead.fetch(D, {&t.q, &t.d_o, &t.dq}, next);
        const std::int64_t at = j * kStride + i;
        weight_tile<kStride>(D, EvenKeys{k + j * width, width}, q_panels + i * D, scale, bias + j,
                             lse + i, weights + at);
        dscore_tile<kStride>(D, EvenKeys{v + j * width, width}, do_panels + i * D, delta + i,
                             weights + at, dscores + at);
      }
    }
    gradient_rows<Operand::kRowMajor, kStride>(key_rows, width, count, weights,
                                               EvenKeys{do_rows, width}, true,
                                               EvenRows{dv, width});
    gradient_rows<Operand::kRowMajor, kStride>(key_rows, width, count, dscores,
                                               EvenKeys{q_rows, width}, true, EvenRows{dk, width});
    gradient_rows<Operand::kDepthMajor, kStride>(count, width, t.num_keys, dscores,
                                                 EvenKeys{k, width}, false, EvenRows{dq, width});
    add_share(dq, width, first, count, D, t.scale, chunk, t.before, t.dq, t.done);
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

const float* bias_of(const Tensor& key_bias, std::int64_t b) {
  return key_bias ? key_bias.f32() + b * key_bias.stride(0) : nullptr;
}

void check_head_dim(const Tensor& q) {
  DSV_CHECK(q.dim(3) <= 256, "[attention] expected a head dim ≤ 256, got {}", q.dim(3));
}

}  // namespace

void attention_delta(const Tensor& o, const Tensor& d_o, const Tensor& delta,
                     const Stream& stream) {
  const std::int64_t B = o.dim(0), Sq = o.dim(1), H = o.dim(2), D = o.dim(3);
  constexpr std::int64_t kRows = 256;
  const std::int64_t row_blocks = ceil_div(Sq, kRows);
  parallel_tasks(stream, B * H * row_blocks, [&](std::int64_t task, int) {
    const std::int64_t b = task / row_blocks / H, h = task / row_blocks % H;
    const std::int64_t first = task % row_blocks * kRows;
    HWY_DYNAMIC_DISPATCH(attention_delta_task)
    ({.o = head(o, b, h), .d_o = head(d_o, b, h),
      .delta = delta.f32() + (b * H + h) * Sq + first, .first_query = first,
      .num_queries = std::min(kRows, Sq - first), .D = D});
  });
}

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
  attention_delta(args.o, args.d_o, args.delta, stream);

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
