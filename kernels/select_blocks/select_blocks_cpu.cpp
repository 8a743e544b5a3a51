// A task is a panel of groups of one head, one group per lane: logits lie keys by groups, so that
// the mass of a unit is a sum down a column (cpu/tile-inl.h has the product). Keys come in chunks;
// masses are relative to the maximum so far and brought to the final one at the end, so that the
// logits of a chunk are computed once and never leave the first-level cache.
#define HWY_TARGET_INCLUDE "select_blocks/select_blocks_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <algorithm>
#include <cmath>

#include "cpu/arguments.h"
#include "cpu/exp2-inl.h"
#include "cpu/pack-inl.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/tile-inl.h"
#include "dsv/base/check_math.h"
#include "select_blocks/select_blocks_tasks.h"
#include "select_blocks/threshold-inl.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

static_assert(kTileColumns <= kMaxPanelGroups && kTileRows <= kMaxTileRows);
constexpr float kLowestLogit = -std::numeric_limits<float>::infinity();

// Proxies as columns: 0 beyond the last group, NaN for a group without queries. Several heads at
// once, since theirs are the rows that lie side by side.
void proxy_task(const ProxyTask& t) {
  const HeadsRows& q = t.q;
  for (std::int64_t h = 0; h < q.num_heads; ++h) {
    std::fill_n(t.proxies + h * t.head_stride, q.r * kTileColumns, 0.0f);
  }
  for (std::int64_t g = 0; g < t.num_groups; ++g) {
    std::int64_t first = t.group_start[g], end = t.group_start[g + 1];
    if (t.centre && first < end) first += (end - first) / 2, end = first + 1;
    std::fill_n(t.sums, q.num_heads * q.r, 0.0f);
    for (std::int64_t i = first; i < end; ++i) {
      if (i + kRowsAhead < q.num_rows) q.fetch(i + kRowsAhead);
      for (std::int64_t h = 0; h < q.num_heads; ++h) {
        const float* const row = q.at(i, h);
        float* const sum = t.sums + h * q.r;
        for_each_vector(
            q.r, [&](auto at) HWY_ATTR { at.store(hn::Add(at.load(sum), at.load(row)), sum); });
      }
    }
    const auto size = static_cast<float>(end - first);
    for (std::int64_t h = 0; h < q.num_heads; ++h) {
      float* const column = t.proxies + h * t.head_stride + g;
      for (std::int64_t c = 0; c < q.r; ++c) column[c * kTileColumns] = t.sums[h * q.r + c] / size;
    }
  }
}

// Products of kTileRows keys and kTileColumns proxies. NaN becomes -inf and inf the largest number:
// differences from the maximum are numbers or -inf from here on.
HWY_NOINLINE void product_tile(std::int64_t r, const float* k, const float* proxies, float* to) {
  const F32 d;
  VecF32 acc[kTileRows][kTileVectors];
  multiply_tile<Operand::kRowMajor>(r, k, r, proxies, kTileColumns, acc);
  const VecF32 lowest = hn::Set(d, kLowestLogit);
  const VecF32 highest = hn::Set(d, std::numeric_limits<float>::max());
#pragma GCC unroll 16
  for (int row = 0; row < kTileRows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      const VecF32 s = acc[row][v];
      hn::StoreU(hn::Min(hn::IfThenElse(hn::Eq(s, s), s, lowest), highest), d,
                 to + row * kTileColumns + v * kLanes);
    }
  }
}

// Where every product so far is -inf there is nothing to be relative to.
HWY_INLINE VecF32 base_of(VecF32 max) {
  return hn::IfThenZeroElse(hn::Eq(max, hn::Set(F32(), kLowestLogit)), max);
}

// Masses of the units [first, end) relative to the maximum of this chunk and all before it, which
// `max` is brought to.
HWY_NOINLINE void mass_tile(const UnitTable& units, std::int64_t first, std::int64_t end,
                            const float* products, float factor, float* max, float* masses) {
  const F32 d;
  const std::int64_t first_key = units.start[first], num_keys = units.start[end] - first_key;
  const VecF32 v_factor = hn::Set(d, factor);
#pragma GCC unroll 4
  for (int v = 0; v < kTileVectors; ++v) {
    const float* const column = products + v * kLanes;
    VecF32 top = hn::LoadU(d, max + v * kLanes);
    for (std::int64_t j = 0; j < num_keys; ++j) {
      top = hn::Max(top, hn::LoadU(d, column + j * kTileColumns));
    }
    hn::StoreU(top, d, max + v * kLanes);
    const VecF32 base = base_of(top);
    const float* at = column;
    for (std::int64_t u = first; u < end; ++u) {
      VecF32 mass = hn::Zero(d);
      for (std::int32_t j = 0; j < units.size[u]; ++j, at += kTileColumns) {
        const VecF32 below = hn::Sub(hn::LoadU(d, at), base);
        mass = hn::Add(mass, exp2_of(hn::Mul(below, v_factor)));
      }
      hn::StoreU(mass, d, masses + u * kTileColumns + v * kLanes);
    }
  }
}

// Brings the masses of each chunk from the maximum of its time to the final one.
HWY_NOINLINE void rescale(const UnitTable& units, float factor, const float* chunk_max,
                          float* masses) {
  const F32 d;
  const float* const final_max = chunk_max + (units.num_chunks - 1) * kTileColumns;
  const VecF32 v_factor = hn::Set(d, factor), one = hn::Set(d, 1.0f);
  for (std::int64_t c = 0; c < units.num_chunks; ++c) {
    for (int v = 0; v < kTileVectors; ++v) {
      const std::int64_t lane = v * kLanes;
      const VecF32 then = hn::LoadU(d, chunk_max + c * kTileColumns + lane);
      const VecF32 below = hn::Sub(then, base_of(hn::LoadU(d, final_max + lane)));
      const VecF32 keep = exp2_of(hn::Mul(below, v_factor));
      if (hn::AllTrue(d, hn::Eq(keep, one))) continue;
      for (std::int64_t u = units.chunk[c]; u < units.chunk[c + 1]; ++u) {
        float* const at = masses + u * kTileColumns + lane;
        hn::StoreU(hn::Mul(hn::LoadU(d, at), keep), d, at);
      }
    }
  }
}

void selection_task(const SelectionTask& t) {
  const UnitTable& units = *t.units;
  const std::int64_t room = padded_units(units.num_units);
  float* const by_group = t.scratch;  // (groups, room)
  float* const masses = by_group + kMaxPanelGroups * room;
  float* const lists = masses + kMaxPanelGroups * room;
  float* const products = lists + 4 * room;
  float* const chunk_max = products + kChunkKeys * kTileColumns;
  HWY_ALIGN float max[kTileColumns];
  std::fill_n(max, kTileColumns, kLowestLogit);
  for (std::int64_t c = 0; c < units.num_chunks; ++c) {
    const std::int64_t first = units.chunk[c], end = units.chunk[c + 1];
    const std::int64_t key = units.start[first], num_keys = units.start[end] - key;
    for (std::int64_t j = 0; j < num_keys; j += kTileRows) {
      product_tile(t.r, t.keys + (key + j) * t.r, t.proxies, products + j * kTileColumns);
    }
    mass_tile(units, first, end, products, t.factor, max, masses);
    std::copy_n(max, kTileColumns, chunk_max + c * kTileColumns);
  }
  if (units.num_chunks > 0) rescale(units, t.factor, chunk_max, masses);
  pack_transposed(masses, kTileColumns, units.num_units, t.num_groups, by_group, room, room);
  const StopRule rule{.min_keys = t.min_keys, .max_keys = t.max_keys, .mass = t.mass};
  const std::int32_t* const starts_end = units.start + units.num_units + 1;
  for (std::int64_t g = 0; g < t.num_groups; ++g) {
    // The units between that of the group's first key and that of its last.
    const std::int64_t first = std::max<std::int64_t>(0, t.query_offset + t.group_start[g]);
    const std::int64_t end =
        std::min<std::int64_t>(units.num_keys, t.query_offset + t.group_start[g + 1]);
    std::int64_t own_begin = 0, own_end = 0;
    if (first < end) {
      own_begin = std::upper_bound(units.start, starts_end, first) - units.start - 1;
      own_end = std::lower_bound(units.start, starts_end, end) - units.start;
    }
    select_group(units, by_group + g * room, own_begin, own_end, rule, lists,
                 t.bits + g * units.num_words, t.num_keys + g, t.covered + g);
  }
}

std::int64_t panel_groups() {
  return kTileColumns;
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(proxy_task);
HWY_EXPORT(selection_task);
HWY_EXPORT(panel_groups);

// Room for the arrays of a UnitTable, in 32-bit words.
std::int64_t table_words(std::int64_t N, std::int64_t num_keys) {
  return 2 * padded_units(N + 1) + max_chunks(num_keys) + 1 + ceil_div(N, 32) + 64;
}

UnitTable lay_out(const SelectBlocks& args, std::int64_t N, std::int32_t* room) {
  const std::int32_t* blocks = args.block_start ? args.block_start.i32() : nullptr;
  const auto block_start = [&](std::int64_t n) {
    return blocks != nullptr ? blocks[n] : static_cast<std::int32_t>(n);
  };
  const std::int64_t num_units = ceil_div(N, args.unit), num_words = ceil_div(N, 32);
  std::int32_t* const start = room;
  std::int32_t* const size = start + padded_units(num_units + 1);
  auto* const there = reinterpret_cast<std::uint32_t*>(size + padded_units(num_units));
  std::int32_t* const chunk = reinterpret_cast<std::int32_t*>(there + num_words);
  for (std::int64_t u = 0; u <= num_units; ++u) start[u] = block_start(std::min(u * args.unit, N));
  bool any_empty = false;
  for (std::int64_t u = 0; u < num_units; ++u) {
    size[u] = start[u + 1] - start[u];
    any_empty |= size[u] == 0;
  }
  std::fill(size + num_units, size + padded_units(num_units), 0);
  std::fill_n(there, num_words, 0u);
  for (std::int64_t n = 0; n < N; ++n) {
    if (block_start(n) < block_start(n + 1)) there[n / 32] |= 1u << n % 32;
  }
  std::int64_t num_chunks = 0;
  chunk[0] = 0;
  for (std::int64_t u = 0; u < num_units; ++num_chunks) {
    const std::int64_t first = u;
    do ++u;
    while (u < num_units && start[u + 1] - start[first] <= kChunkKeys);
    chunk[num_chunks + 1] = static_cast<std::int32_t>(u);
  }
  return {.num_units = num_units,
          .num_keys = args.k_lr.dim(1),
          .num_words = num_words,
          .num_chunks = num_chunks,
          .unit = args.unit,
          .any_empty = any_empty,
          .start = start,
          .size = size,
          .chunk = chunk,
          .there = there};
}

// Head after head, rows next to each other: as they lie, the rows of one head are far apart, and
// every panel of groups reads them again.
void pack_keys(const HeadsRows& k, std::int64_t head_room, float* to, const Stream& stream) {
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / (k.num_heads * k.r + 1));
  parallel_for(stream, k.num_rows, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t j = begin; j < end; ++j) {
      if (j + kRowsAhead < k.num_rows) k.fetch(j + kRowsAhead);
      for (std::int64_t h = 0; h < k.num_heads; ++h) {
        std::copy_n(k.at(j, h), k.r, to + h * head_room + j * k.r);
      }
    }
  });
}

// Pieces of workspace, as select_blocks cuts them.
struct Room {
  float *keys, *proxies, *of_worker;
  std::int64_t keys_of_head, proxies_of_head, floats_of_worker;
};

// For heads [first_head, first_head + num_heads) of sample b.
void select_for_heads(const SelectBlocks& args, std::int64_t b, std::int64_t first_head,
                      std::int64_t num_heads, const UnitTable& units, std::int64_t width,
                      const Room& room, const Stream& stream) {
  const std::int64_t H = args.q_lr.dim(2), r = args.q_lr.dim(3);
  const std::int64_t G = args.bits.dim(2), W = args.bits.dim(3), panels = ceil_div(G, width);
  const auto heads = [&](const Tensor& t) {
    const std::int64_t offset = b * t.stride(0) + first_head * t.stride(2);
    return HeadsRows{.data = t.num_elements() == 0 ? nullptr : t.f32() + offset,
                     .row = t.stride(1),
                     .head = t.stride(2),
                     .num_rows = t.dim(1),
                     .num_heads = num_heads,
                     .r = r};
  };
  pack_keys(heads(args.k_lr), room.keys_of_head, room.keys, stream);
  parallel_tasks(stream, panels, [&](std::int64_t panel, int worker) {
    const std::int64_t g = panel * width;
    HWY_DYNAMIC_DISPATCH(proxy_task)
    ({.q = heads(args.q_lr),
      .group_start = args.group_start.i32() + g,
      .num_groups = std::min(width, G - g),
      .centre = args.proxy == Proxy::kCentre,
      .proxies = room.proxies + panel * r * width,
      .head_stride = room.proxies_of_head,
      .sums = room.of_worker + worker * room.floats_of_worker});
  });
  parallel_tasks(stream, num_heads * panels, [&](std::int64_t task, int worker) {
    const std::int64_t at = task / panels, h = first_head + at, g = task % panels * width;
    const std::int64_t row = (b * H + h) * G + g;
    HWY_DYNAMIC_DISPATCH(selection_task)
    ({.keys = room.keys + at * room.keys_of_head,
      .proxies = room.proxies + at * room.proxies_of_head + g * r,
      .r = r,
      .group_start = args.group_start.i32() + g,
      .num_groups = std::min(width, G - g),
      .query_offset = args.query_offset,
      .factor = args.slope.f32()[h] * args.scale * 1.44269504f,
      .mass = args.mass.f32()[h],
      .min_keys = args.min_keys.i32()[h],
      .max_keys = args.max_keys.i32()[h],
      .units = &units,
      .bits = args.bits.u32() + row * W,
      .num_keys = args.num_keys.i32() + row,
      .covered = args.covered.f32() + row,
      .scratch = room.of_worker + worker * room.floats_of_worker});
  });
}

}  // namespace

void select_blocks(const SelectBlocks& args, const Stream& stream) {
  require_f32("select_blocks", {&args.q_lr, &args.k_lr, &args.slope, &args.mass, &args.covered});
  const std::int64_t B = args.q_lr.dim(0), H = args.q_lr.dim(2), r = args.q_lr.dim(3);
  const std::int64_t Skv = args.k_lr.dim(1), G = args.bits.dim(2);
  DSV_CHECK(r <= 256, "[select_blocks] expected a rank ≤ 256, got {}", r);
  DSV_CHECK(args.scale > 0, "[select_blocks] expected a scale > 0, got {}", args.scale);
  DSV_CHECK(args.unit == 1 || args.unit == kTileBlocks,
            "[select_blocks] expected a unit of 1 or {}, got {}", kTileBlocks, args.unit);
  if (B * H * G == 0) return;
  const std::int64_t N = args.block_start ? args.block_start.num_elements() - 1 : Skv;
  const std::int64_t width = HWY_DYNAMIC_DISPATCH(panel_groups)(), panels = ceil_div(G, width);
  const std::int64_t of_task = selection_scratch_floats(ceil_div(N, args.unit), Skv);
  Room room{.keys_of_head = round_up((Skv + kMaxTileRows) * r, 16),
            .proxies_of_head = panels * r * width,
            .floats_of_worker = round_up(std::max(of_task, kHeadsAtOnce * r), 16)};
  const std::int64_t table = round_up(table_words(N, Skv), 16);
  const std::int64_t heads = std::min(H, kHeadsAtOnce);
  const std::int64_t proxies = round_up(heads * room.proxies_of_head, 16);
  float* const block = scratch<float>(table + heads * room.keys_of_head + proxies +
                                      num_workers(stream, heads * panels) * room.floats_of_worker);
  room.keys = block + table;
  room.proxies = room.keys + heads * room.keys_of_head;
  room.of_worker = room.proxies + proxies;
  const UnitTable units = lay_out(args, N, reinterpret_cast<std::int32_t*>(block));
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; h += heads) {
      select_for_heads(args, b, h, std::min(heads, H - h), units, width, room, stream);
    }
  }
}

}  // namespace dsv::kernels::cpu
#endif
