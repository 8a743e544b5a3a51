// A task has a block of sampled rows and a chunk of keys. Panels of scores stay in the first cache;
// one pass over them adds up the sums, a second one the exponentials, each lane a row.
#define HWY_TARGET_INCLUDE "score_stats/score_stats_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <algorithm>
#include <cmath>

#include "cpu/arguments.h"
#include "cpu/exp2-inl.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "score_stats/score_panels-inl.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// Statistics of a panel's rows: (kNumScoreColumns, kTileColumns).
HWY_INLINE void add_lanes(const VecF32 (&run)[kTileVectors], double* column) {
  HWY_ALIGN float lanes[kTileColumns];
  for (int v = 0; v < kTileVectors; ++v) hn::Store(run[v], F32(), lanes + v * kLanes);
  for (std::int64_t i = 0; i < kTileColumns; ++i) column[i] += static_cast<double>(lanes[i]);
}

// Sums over one run of keys, and the maxima of `top` with it. Without t its columns stay as they
// are.
template <bool kHasT>
HWY_NOINLINE void add_run(const float* s, const float* t, std::int64_t num_keys, double* panel,
                          float* top) {
  const F32 d;
  VecF32 sum_s[kTileVectors], sum_t[kTileVectors], ss[kTileVectors], tt[kTileVectors];
  VecF32 st[kTileVectors], max[kTileVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kTileVectors; ++v) {
    sum_s[v] = sum_t[v] = ss[v] = tt[v] = st[v] = hn::Zero(d);
    max[v] = hn::LoadU(d, top + v * kLanes);
  }
  for (std::int64_t j = 0; j < num_keys; ++j) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      const std::int64_t at = j * kTileColumns + v * kLanes;
      const VecF32 x = hn::LoadU(d, s + at);
      sum_s[v] = hn::Add(sum_s[v], x);
      ss[v] = hn::MulAdd(x, x, ss[v]);
      max[v] = hn::Max(max[v], x);
      if constexpr (kHasT) {
        const VecF32 y = hn::LoadU(d, t + at);
        sum_t[v] = hn::Add(sum_t[v], y);
        tt[v] = hn::MulAdd(y, y, tt[v]);
        st[v] = hn::MulAdd(x, y, st[v]);
      }
    }
  }
  for (int v = 0; v < kTileVectors; ++v) hn::StoreU(max[v], d, top + v * kLanes);
  add_lanes(sum_s, panel + kSumS * kTileColumns);
  add_lanes(ss, panel + kSumSS * kTileColumns);
  if constexpr (kHasT) {
    add_lanes(sum_t, panel + kSumT * kTileColumns);
    add_lanes(tt, panel + kSumTT * kTileColumns);
    add_lanes(st, panel + kSumST * kTileColumns);
  }
}

// Brings a panel's sums of exponentials to its new maxima.
HWY_INLINE void raise_maxima(const float* top, double* panel) {
  double* const max = panel + kMax * kTileColumns;
  for (std::int64_t i = 0; i < kTileColumns; ++i) {
    const double risen = static_cast<double>(top[i]);
    if (risen == max[i]) continue;
    const double keep = std::exp(max[i] - risen);
    for (int c = kSumExp; c <= kSumExpSelected; ++c) panel[c * kTileColumns + i] *= keep;
    max[i] = risen;
  }
}

// For each key of a block, its word among the bits of a row and its place there.
struct KeyBits {
  std::int32_t word[kKeyBlock];
  std::uint32_t bit[kKeyBlock];
};

HWY_INLINE void find_key_bits(const SelectedBlocks& selected, std::int64_t first,
                              std::int64_t count, KeyBits* out) {
  const std::int64_t key = selected.first_key + first;
  const std::int32_t* const starts = selected.block_start;
  std::int64_t block = key;
  if (starts != nullptr) {
    block = std::upper_bound(starts, starts + selected.num_blocks + 1, key) - starts - 1;
  }
  for (std::int64_t j = 0; j < count; ++j) {
    if (starts != nullptr) {
      while (starts[block + 1] <= key + j) ++block;
    } else {
      block = key + j;
    }
    out->word[j] = static_cast<std::int32_t>(block / 32);
    out->bit[j] = 1u << block % 32;
  }
}

// Rows of a panel that select keys; num_rows is 0 without bits.
struct PanelRows {
  const std::int32_t *rows, *groups;
  std::int64_t num_rows;

  // Word `w` of each row's bits, 0 for absent rows.
  HWY_INLINE void load_words(const SelectedBlocks& selected, std::int32_t w,
                             std::uint32_t* words) const {
    for (std::int64_t i = 0; i < num_rows; ++i) {
      words[i] = rows[i] < 0 ? 0 : selected.bits[groups[i] * selected.words + w];
    }
  }
};

// Sums of exponentials over one run of keys.
template <bool kSelected>
HWY_NOINLINE void add_exponentials(const float* s, std::int64_t num_keys, const float* top,
                                   const SelectedBlocks& selected, const std::int32_t* word,
                                   const std::uint32_t* bit, const PanelRows& rows, double* panel) {
  const F32 d;
  const hn::RebindToUnsigned<F32> du;
  const VecF32 log2e = hn::Set(d, kLog2OfE);
  VecF32 base[kTileVectors], all[kTileVectors], chosen[kTileVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kTileVectors; ++v) {
    base[v] = hn::LoadU(d, top + v * kLanes);
    all[v] = chosen[v] = hn::Zero(d);
  }
  HWY_ALIGN std::uint32_t words[kTileColumns] = {};
  std::int32_t held = -1;
  for (std::int64_t j = 0; j < num_keys; ++j) {
    if constexpr (kSelected) {
      if (word[j] != held) {
        held = word[j];
        rows.load_words(selected, held, words);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      const VecF32 x = hn::LoadU(d, s + j * kTileColumns + v * kLanes);
      const VecF32 weight = exp2_of(hn::Mul(hn::Sub(x, base[v]), log2e));
      all[v] = hn::Add(all[v], weight);
      if constexpr (kSelected) {
        const auto is_set = hn::TestBit(hn::Load(du, words + v * kLanes), hn::Set(du, bit[j]));
        chosen[v] = hn::Add(chosen[v], hn::IfThenElseZero(hn::RebindMask(d, is_set), weight));
      }
    }
  }
  add_lanes(all, panel + kSumExp * kTileColumns);
  if constexpr (kSelected) add_lanes(chosen, panel + kSumExpSelected * kTileColumns);
}

void score_stats_task(const ScoreStatsTask& task) {
  const std::int64_t D = task.q.dim, r = task.q_lr.dim, R = task.num_rows;
  float* at = task.scratch;
  const auto take = [&](std::int64_t num_floats) {
    float* const piece = at;
    at += round_up(num_floats, 16);
    return piece;
  };
  const std::int64_t rows = round_up(R, kTileColumns);
  auto* const stats = reinterpret_cast<double*>(take(2 * rows * kNumScoreColumns));
  float* const q = take(rows * D);
  float* const q_lr = take(rows * r);
  float* const gathered = take(kTileColumns * std::max(padded(D), padded(r)));
  float* const k = take(kKeyBlock * padded(D));
  float* const k_lr = take(kKeyBlock * padded(r));
  float* const s = take(kKeyBlock * kTileColumns);
  float* const t = take(kKeyBlock * kTileColumns);
  pack_sampled_panels(task.q, task.rows, R, gathered, q);
  pack_sampled_panels(task.q_lr, task.rows, r > 0 ? R : 0, gathered, q_lr);
  std::fill_n(stats, rows * kNumScoreColumns, 0.0);
  for (std::int64_t i = 0; i < rows; i += kTileColumns) {
    std::fill_n(stats + i * kNumScoreColumns + kMax * kTileColumns, kTileColumns,
                static_cast<double>(kNoScore));
  }
  KeyBits key_bits;
  const std::int64_t end = task.first_key + task.num_keys;
  for (std::int64_t first = task.first_key; first < end; first += kKeyBlock) {
    const std::int64_t count = std::min(kKeyBlock, end - first);
    pack_keys(task.k, first, count, k);
    if (r > 0) pack_keys(task.k_lr, first, count, k_lr);
    if (task.groups != nullptr) find_key_bits(task.selected, first, count, &key_bits);
    for (std::int64_t i = 0; i < rows; i += kTileColumns) {
      double* const panel = stats + i * kNumScoreColumns;
      score_panel(D, k, count, q + i * D, task.scale, s);
      if (r > 0) score_panel(r, k_lr, count, q_lr + i * r, task.lr_scale, t);
      HWY_ALIGN float top[kTileColumns];
      for (std::int64_t n = 0; n < kTileColumns; ++n) {
        top[n] = static_cast<float>(panel[kMax * kTileColumns + n]);
      }
      const auto for_runs = [&](const auto& fn) {
        for (std::int64_t j = 0; j < count; j += kRunKeys) fn(j, std::min(kRunKeys, count - j));
      };
      for_runs([&](std::int64_t j, std::int64_t num_keys) {
        const std::int64_t begin = j * kTileColumns;
        r > 0 ? add_run<true>(s + begin, t + begin, num_keys, panel, top)
              : add_run<false>(s + begin, nullptr, num_keys, panel, top);
      });
      raise_maxima(top, panel);
      PanelRows panel_rows{};
      if (task.groups != nullptr) {
        panel_rows = {task.rows + i, task.groups + i, std::min(kTileColumns, R - i)};
      }
      const auto add = task.groups != nullptr ? add_exponentials<true> : add_exponentials<false>;
      for_runs([&](std::int64_t j, std::int64_t num_keys) {
        add(s + j * kTileColumns, num_keys, top, task.selected, key_bits.word + j, key_bits.bit + j,
            panel_rows, panel);
      });
    }
  }
  for (std::int64_t n = 0; n < R; ++n) {
    const double* const panel = stats + n / kTileColumns * kTileColumns * kNumScoreColumns;
    for (int c = 0; c < kNumScoreColumns; ++c) {
      task.stats[n * task.stats_stride + c] = panel[c * kTileColumns + n % kTileColumns];
    }
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(score_stats_task);

void score_stats(const ScoreStats& args, const Stream& stream) {
  require_f32("score_stats", {&args.q, &args.k, &args.q_lr, &args.k_lr});
  check_score_dims(args.q, args.q_lr);
  const std::int64_t B = args.q.dim(0), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1), R = args.rows.dim(0);
  const std::int64_t r = args.q_lr ? args.q_lr.dim(3) : 0;
  if (B * H * R == 0) return;
  const std::int64_t blocks = ceil_div(R, kRowBlock);
  const KeyChunks chunks(Skv, B * H * blocks);
  const std::int64_t num_tasks = B * H * blocks * chunks.count;
  const std::int64_t room = score_stats_scratch_floats(D, r);
  const std::int64_t partial_floats = 2 * B * H * R * chunks.count * kNumScoreColumns;
  float* const scratch_of = scratch<float>(partial_floats + num_workers(stream, num_tasks) * room);
  auto* const partials = reinterpret_cast<double*>(scratch_of);
  const std::int32_t* const rows = args.rows.i32();
  parallel_tasks(stream, num_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t chunk = task % chunks.count, block = task / chunks.count % blocks;
    const std::int64_t head = task / chunks.count / blocks, b = head / H, h = head % H;
    const std::int64_t first = block * kRowBlock, key = chunk * chunks.keys;
    SelectedBlocks selected;
    if (args.bits) {
      const std::int64_t G = args.bits.dim(2), W = args.bits.dim(3);
      selected = {.bits = args.bits.u32() + head * G * W,
                  .words = W,
                  .block_start = args.block_start ? args.block_start.i32() : nullptr,
                  .num_blocks = args.block_start ? args.block_start.dim(0) - 1 : 0,
                  .first_key = args.first_key};
    }
    HWY_DYNAMIC_DISPATCH(score_stats_task)
    ({.q = {args.q, b, h},
      .k = {args.k, b, h},
      .q_lr = {args.q_lr, b, h},
      .k_lr = {args.k_lr, b, h},
      .rows = rows + first,
      .groups = args.bits ? args.row_groups.i32() + first : nullptr,
      .num_rows = std::min(kRowBlock, R - first),
      .first_key = key,
      .num_keys = std::clamp<std::int64_t>(Skv - key, 0, chunks.keys),
      .scale = args.scale,
      .lr_scale = args.lr_scale,
      .selected = selected,
      .stats = partials + ((head * R + first) * chunks.count + chunk) * kNumScoreColumns,
      .stats_stride = chunks.count * kNumScoreColumns,
      .scratch = scratch_of + partial_floats + worker * room});
  });
  constexpr double kNone[kNumScoreColumns] = {0, 0, 0, 0, 0, static_cast<double>(kNoScore), 0, 0};
  double* const stats = args.stats.f64();
  parallel_for(stream, B * H * R, 256, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      double* const sums = stats + i * kNumScoreColumns;
      std::copy_n(kNone, kNumScoreColumns, sums);
      if (rows[i % R] < 0) continue;
      for (std::int64_t c = 0; c < chunks.count; ++c) {
        merge_score_stats(sums, partials + (i * chunks.count + c) * kNumScoreColumns);
      }
    }
  });
}

}  // namespace dsv::kernels::cpu
#endif
