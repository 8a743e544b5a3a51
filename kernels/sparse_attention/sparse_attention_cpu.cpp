// Dense attention's tiles on lists of rows: a head's (or a slab's) keys and values are packed once,
// and each group takes the rows that it has selected from where they lie, a few at a time, so that
// single keys cost what whole blocks do.
#define HWY_TARGET_INCLUDE "sparse_attention/sparse_attention_cpu.cpp"
#include "cpu/targets.h"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <memory>

#include "attention/attention_tiles-inl.h"
#include "cpu/arguments.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "sparse_attention/selected_keys.h"
#include "sparse_attention/sparse_attention_tasks.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

void pack_rows_task(const PackRowsTask& t) {
  const std::int64_t width = padded_dim(t.D);
  pack_rows(t.from.row(t.first), t.from.stride, t.count, t.D, t.to + t.first * width, width, width);
}

// Where the rows of `keys` lie, filled up to whole tiles with the last: its scores are masked there.
template <typename Float>
HWY_INLINE void list_rows(const HeadRows& rows, const std::int32_t* keys, std::int64_t count,
                          Float** to) {
  const std::int64_t end = round_up(count, kTileRows);
  for (std::int64_t n = 0; n < end; ++n) to[n] = rows.row(keys[std::min(n, count - 1)]);
}

HWY_INLINE SelectedKeys keys_of_group(const HeadSelection& s, std::int64_t group,
                                      const KeyRange& range) {
  return {s.bits + group * s.words, range};
}

void sparse_forward_task(const SparseForwardTask& t) {
  const std::int64_t first = t.selection.group_start[t.group];
  const ForwardBlock f(t.scratch, t.D, t.selection.group_start[t.group + 1] - first, kGroupStride,
                       kSelectedKeys);
  // Behind the block: where the rows at work lie, their keys, and the next keys, which are fetched
  // meanwhile.
  auto** const k_rows = reinterpret_cast<const float**>(f.end);
  auto** const v_rows = k_rows + kSelectedKeys;
  auto* list = reinterpret_cast<std::int32_t*>(v_rows + kSelectedKeys);
  auto* next = list + kSelectedKeys;
  SelectedKeys keys = keys_of_group(
      t.selection, t.group, {t.selection.block_start, t.selection.num_blocks, 0, t.num_keys});
  begin_queries(f, t.q, first);
  std::int64_t count = keys.next(kSelectedKeys, list);
  for (bool is_first = true; count > 0; is_first = false) {
    list_rows(t.k, list, count, k_rows);
    list_rows(t.v, list, count, v_rows);
    pack_key_bias(nullptr, count, f.bias);
    const std::int64_t next_count = keys.next(kSelectedKeys, next);
    RowsAhead ahead(next_count, f.num_tiles(count));
    take_keys(f, ListedKeys{k_rows}, ListedKeys{v_rows}, count, t.scale * kLog2E, is_first,
              [&]() HWY_ATTR { ahead.fetch(t.D, {&t.k, &t.v}, next); });
    std::swap(list, next);
    count = next_count;
  }
  finish_queries(f, t.o, first, t.lse + first);
}

// --- Backward -----------------------------------------------------------------------------------

// The packed queries of one group.
struct GroupQueries {
  std::int64_t first, count;
  float *q_panels, *do_panels, *q_rows, *do_rows, *lse, *delta;

  std::int64_t columns() const { return round_up(count, kTileColumns); }
};

HWY_INLINE void pack_group(const SparseBackwardTask& t, const GroupQueries& g) {
  const std::int64_t width = padded_dim(t.D);
  pack_rows(t.q.row(g.first), t.q.stride, g.count, t.D, g.q_rows, width, width);
  pack_rows(t.d_o.row(g.first), t.d_o.stride, g.count, t.D, g.do_rows, width, width);
  pack_query_panels({g.q_rows, width}, 0, g.count, t.D, g.q_panels);
  pack_query_panels({g.do_rows, width}, 0, g.count, t.D, g.do_panels);
  pack_query_numbers(t.lse + g.first, t.delta + g.first, g.count, g.columns(), g.lse, g.delta);
}

// As few chunks of keys as there can be, of almost equal size.
HWY_INLINE std::int64_t even_chunk(std::int64_t num_keys) {
  const std::int64_t chunks = std::max<std::int64_t>(1, ceil_div(num_keys, kSelectedKeys));
  return std::min(num_keys, round_up(ceil_div(num_keys, chunks), kTileRows));
}

// Lists of keys count from the slab's first.
void sparse_backward_task(const SparseBackwardTask& t) {
  const HeadSelection& s = t.selection;
  const std::int64_t D = t.D, width = padded_dim(D);
  Carver scratch(t.scratch);
  float* const slab_k = scratch.take(t.num_keys * width);
  float* const slab_v = scratch.take(t.num_keys * width);
  float* const slab_dk = scratch.take(t.num_keys * width);
  float* const slab_dv = scratch.take(t.num_keys * width);
  float* const bias = scratch.take(kSelectedKeys);
  float* const weights = scratch.take(kSelectedKeys * kGroupStride);
  float* const dscores = scratch.take(kSelectedKeys * kGroupStride);
  auto** const k_rows = reinterpret_cast<const float**>(scratch.take(2 * kSelectedKeys));
  auto** const v_rows = reinterpret_cast<const float**>(scratch.take(2 * kSelectedKeys));
  auto** const dk_rows = reinterpret_cast<float**>(scratch.take(2 * kSelectedKeys));
  auto** const dv_rows = reinterpret_cast<float**>(scratch.take(2 * kSelectedKeys));
  float* const no_row = scratch.take(width);  // of keys that only fill up a tile
  float* const dq = scratch.take(kGroupStride * width);
  GroupQueries group{.first = 0,
                     .count = 0,
                     .q_panels = scratch.take(kGroupStride * D),
                     .do_panels = scratch.take(kGroupStride * D),
                     .q_rows = scratch.take(kGroupStride * width),
                     .do_rows = scratch.take(kGroupStride * width),
                     .lse = scratch.take(kGroupStride),
                     .delta = scratch.take(kGroupStride)};
  auto* list = reinterpret_cast<std::int32_t*>(scratch.take(t.num_keys));
  auto* next_list = reinterpret_cast<std::int32_t*>(scratch.take(t.num_keys));
  pack_rows(t.k.row(t.first_key), t.k.stride, t.num_keys, D, slab_k, width, width);
  pack_rows(t.v.row(t.first_key), t.v.stride, t.num_keys, D, slab_v, width, width);
  std::fill_n(slab_dk, t.num_keys * width, 0.0f);
  std::fill_n(slab_dv, t.num_keys * width, 0.0f);
  std::fill_n(no_row, width, 0.0f);
  const HeadRows rows_of_k{slab_k, width}, rows_of_v{slab_v, width};
  const KeyRange range(s.block_start, s.num_blocks, t.first_key, t.first_key + t.num_keys);
  const auto list_keys = [&](std::int64_t g, std::int32_t* to) HWY_ATTR {
    const std::int64_t n = keys_of_group(s, g, range).next(t.num_keys, to);
    for (std::int64_t i = 0; i < n; ++i) to[i] -= static_cast<std::int32_t>(t.first_key);
    return n;
  };
  std::int64_t next_keys = s.num_groups > 0 ? list_keys(0, next_list) : 0;
  for (std::int64_t g = 0; g < s.num_groups; ++g) {
    const std::int64_t num_keys = next_keys;
    std::swap(list, next_list);
    const bool is_last = g + 1 == s.num_groups;
    next_keys = is_last ? 0 : list_keys(g + 1, next_list);
    group.first = s.group_start[g];
    group.count = s.group_start[g + 1] - group.first;
    const std::int64_t columns = group.columns();
    if (num_keys > 0) pack_group(t, group);
    const std::int64_t chunk = even_chunk(num_keys);
    for (std::int64_t at = 0; at < num_keys; at += chunk) {
      const std::int32_t* const keys = list + at;
      const std::int64_t count = std::min(chunk, num_keys - at);
      const std::int64_t tile_keys = round_up(count, kTileRows);
      list_rows(rows_of_k, keys, count, k_rows);
      list_rows(rows_of_v, keys, count, v_rows);
      pack_key_bias(nullptr, count, bias);
      for (std::int64_t n = 0; n < tile_keys; ++n) {
        dk_rows[n] = n < count ? slab_dk + keys[n] * width : no_row;
        dv_rows[n] = n < count ? slab_dv + keys[n] * width : no_row;
      }
      // What comes next: more keys of this group, or the first of the next.
      const bool more = at + count < num_keys;
      const std::int32_t* const ahead_keys = more ? keys + count : next_list;
      RowsAhead ahead(more ? std::min(chunk, num_keys - at - count) : even_chunk(next_keys),
                      columns / kTileColumns * (tile_keys / kTileRows));
      for (std::int64_t i = 0; i < columns; i += kTileColumns) {
        for (std::int64_t j = 0; j < tile_keys; j += kTileRows) {
          ahead.fetch(width, {&rows_of_k, &rows_of_v}, ahead_keys);
          const std::int64_t tile = j * kGroupStride + i;
          weight_tile<kGroupStride>(D, ListedKeys{k_rows + j}, group.q_panels + i * D,
                                    t.scale * kLog2E, bias + j, group.lse + i, weights + tile);
          dscore_tile<kGroupStride>(D, ListedKeys{v_rows + j}, group.do_panels + i * D,
                                    group.delta + i, weights + tile, dscores + tile);
        }
      }
      gradient_rows<Operand::kRowMajor, kGroupStride>(tile_keys, width, group.count, weights,
                                                      EvenKeys{group.do_rows, width}, true,
                                                      ListedRows{dv_rows});
      gradient_rows<Operand::kRowMajor, kGroupStride>(tile_keys, width, group.count, dscores,
                                                      EvenKeys{group.q_rows, width}, true,
                                                      ListedRows{dk_rows});
      gradient_rows<Operand::kDepthMajor, kGroupStride>(group.count, width, count, dscores,
                                                        ListedKeys{k_rows}, at > 0,
                                                        EvenRows{dq, width});
    }
    if (num_keys == 0) std::fill_n(dq, group.count * width, 0.0f);
    add_share(dq, width, group.first, group.count, D, t.scale, static_cast<std::int32_t>(g),
              t.before, t.dq, t.done);
  }
  for (std::int64_t j = 0; j < t.num_keys; ++j) {
    float* const dk_row = t.dk.row(t.first_key + j);
    float* const dv_row = t.dv.row(t.first_key + j);
    for (std::int64_t c = 0; c < D; ++c) {
      dk_row[c] = t.scale * slab_dk[j * width + c];
      dv_row[c] = slab_dv[j * width + c];
    }
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(pack_rows_task);
HWY_EXPORT(sparse_forward_task);
HWY_EXPORT(sparse_backward_task);

template <typename Args>
HeadSelection selection_of(const Args& args, std::int64_t b, std::int64_t h) {
  const std::int64_t H = args.bits.dim(1), G = args.bits.dim(2), words = args.bits.dim(3);
  const bool single = !args.block_start;
  return {.bits = args.bits.u32() + (b * H + h) * G * words,
          .words = words,
          .block_start = single ? nullptr : args.block_start.i32(),
          .group_start = args.group_start.i32(),
          .num_blocks = single ? args.k.dim(1) : args.block_start.dim(0) - 1,
          .num_groups = G};
}

void check_head_dim(const Tensor& q) {
  DSV_CHECK(q.dim(3) <= 256, "[sparse_attention] expected a head dim ≤ 256, got {}", q.dim(3));
}

}  // namespace

void sparse_attention_forward(const SparseAttentionForward& args, const Stream& stream) {
  require_f32("sparse_attention", {&args.q, &args.k, &args.v, &args.o, &args.lse});
  check_head_dim(args.q);
  const std::int64_t Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1), G = args.bits.dim(2), heads = args.q.dim(0) * H;
  if (heads * G == 0) return;
  // As many heads at a time as give every thread several groups: their keys and values are packed
  // first, for all groups, since rows of a head that lie far apart share few sets of the cache.
  const std::int64_t together =
      std::min<std::int64_t>(heads, ceil_div(8 * std::int64_t{stream.num_threads}, G));
  const std::int64_t packed = Skv * padded_dim(D), room = sparse_forward_scratch_floats(D);
  float* const packed_k = scratch<float>(2 * together * packed +
                                         num_workers(stream, together * G) * room);
  float* const packed_v = packed_k + together * packed;
  float* const scratch_of = packed_v + together * packed;
  constexpr std::int64_t kRows = 256;
  const std::int64_t row_blocks = ceil_div(Skv, kRows);
  for (std::int64_t begin = 0; begin < heads; begin += together) {
    const std::int64_t count = std::min(together, heads - begin);
    parallel_tasks(stream, 2 * count * row_blocks, [&](std::int64_t task, int) {
      const std::int64_t at = task / row_blocks / 2, first = task % row_blocks * kRows;
      const bool is_k = task / row_blocks % 2 == 0;
      HWY_DYNAMIC_DISPATCH(pack_rows_task)
      ({.from = head(is_k ? args.k : args.v, (begin + at) / H, (begin + at) % H),
        .to = (is_k ? packed_k : packed_v) + at * packed, .first = first,
        .count = std::min(kRows, Skv - first), .D = D});
    });
    parallel_tasks(stream, count * G, [&](std::int64_t task, int worker) {
      const std::int64_t at = task / G, b = (begin + at) / H, h = (begin + at) % H;
      const std::int64_t width = padded_dim(D);
      HWY_DYNAMIC_DISPATCH(sparse_forward_task)
      ({.q = head(args.q, b, h), .k = {packed_k + at * packed, width},
        .v = {packed_v + at * packed, width}, .o = head(args.o, b, h),
        .selection = selection_of(args, b, h), .lse = args.lse.f32() + (b * H + h) * Sq,
        .group = task % G, .num_keys = Skv, .D = D, .scale = args.scale,
        .scratch = scratch_of + worker * room});
    });
  }
}

void sparse_attention_backward(const SparseAttentionBackward& args, const Stream& stream) {
  require_f32("sparse_attention", {&args.q, &args.k, &args.v, &args.o, &args.lse, &args.d_o,
                                   &args.dq, &args.dk, &args.dv, &args.delta});
  check_head_dim(args.q);
  const std::int64_t Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1), heads = args.q.dim(0) * H;
  attention_delta(args.o, args.d_o, args.delta, stream);
  // Slabs in order, all heads of one before the next: tasks are claimed in order, so a task never
  // waits for one that nobody has begun. Without keys there is one slab, which clears dq.
  const std::int64_t keys = slab_keys(D, Skv);
  const std::int64_t slabs = std::max<std::int64_t>(1, ceil_div(Skv, keys));
  const std::int64_t room = sparse_backward_scratch_floats(D), num_tasks = heads * slabs;
  const auto progress = std::make_unique<std::atomic<std::int32_t>[]>(
      static_cast<std::size_t>(num_tasks));
  float* const scratch_of = scratch<float>(num_workers(stream, num_tasks) * room);
  parallel_tasks(stream, num_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t b = task % heads / H, h = task % H;
    const std::int64_t first = task / heads * keys;
    HWY_DYNAMIC_DISPATCH(sparse_backward_task)
    ({.q = head(args.q, b, h), .k = head(args.k, b, h), .v = head(args.v, b, h),
      .d_o = head(args.d_o, b, h), .dq = head(args.dq, b, h), .dk = head(args.dk, b, h),
      .dv = head(args.dv, b, h), .selection = selection_of(args, b, h),
      .lse = args.lse.f32() + (b * H + h) * Sq, .delta = args.delta.f32() + (b * H + h) * Sq,
      .first_key = first, .num_keys = std::min(keys, Skv - first), .D = D, .scale = args.scale,
      .before = first == 0 ? nullptr : &progress[static_cast<std::size_t>(task - heads)],
      .done = &progress[static_cast<std::size_t>(task)], .scratch = scratch_of + worker * room});
  });
}

}  // namespace dsv::kernels::cpu
#endif
