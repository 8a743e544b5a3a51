// A task has a few whole groups of rows and walks over all keys, some whole blocks at a time, so
// that every mass of a block has one owner.
#define HWY_TARGET_INCLUDE "score_stats/attention_profile_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <algorithm>

#include "cpu/arguments.h"
#include "cpu/exp2-inl.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "score_stats/score_panels-inl.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// A panel's scores become p, and the bins that they fall in.
HWY_NOINLINE void weigh_panel(std::int64_t num_keys, const float* max, const float* inverse_sum,
                              float* scores, std::int32_t* bins) {
  const F32 d;
  const hn::RebindToSigned<F32> di;
  const VecF32 minus_log2e = hn::Set(d, -kLog2OfE), last = hn::Set(d, kNumProfileBins - 1);
  const VecF32 per_bin = hn::Set(d, 1 / kProfileBinWidth);
  for (std::int64_t at = 0; at < num_keys * kTileColumns; at += kLanes) {
    const std::int64_t lane = at % kTileColumns;
    const VecF32 below = hn::Sub(hn::LoadU(d, max + lane), hn::LoadU(d, scores + at));
    const VecF32 bin = hn::Max(hn::Zero(d), hn::Min(hn::Mul(below, per_bin), last));
    hn::StoreU(hn::ConvertTo(di, bin), di, bins + at);
    const VecF32 p =
        hn::Mul(exp2_of(hn::Mul(below, minus_log2e)), hn::LoadU(d, inverse_sum + lane));
    hn::StoreU(p, d, scores + at);
  }
}

// The blocks [first, end) next to each other with the keys [key, key + num_keys).
struct BlockRun {
  std::int64_t first, end, key, num_keys;
};

// As many blocks as fit into one block of keys, which holds several of the largest.
static_assert(kKeyBlock >= kMaxBlockKeys);
HWY_INLINE BlockRun next_blocks(const std::int32_t* starts, std::int64_t first,
                                std::int64_t num_blocks) {
  BlockRun run{first, first, starts != nullptr ? starts[first] : first, 0};
  for (; run.end < num_blocks && run.end - first < kKeyBlock; ++run.end) {
    const std::int64_t keys =
        starts != nullptr ? starts[run.end + 1] - run.key : run.end + 1 - first;
    if (keys > kKeyBlock) break;
    run.num_keys = keys;
  }
  return run;
}

// Adds one row of a panel to its bins and to its group's blocks.
HWY_INLINE void count_row(const BlockRun& run, const std::int32_t* starts, const float* p,
                          const std::int32_t* bins, std::int32_t* counts, double* masses,
                          double* blocks) {
  std::int64_t j = 0;
  for (std::int64_t n = run.first; n < run.end; ++n) {
    const std::int64_t end = starts != nullptr ? starts[n + 1] - run.key : j + 1;
    double mass = 0;
    for (; j < end; ++j) {
      const float p_j = p[j * kTileColumns];
      const std::int32_t bin = bins[j * kTileColumns];
      mass += static_cast<double>(p_j);
      ++counts[bin];
      masses[bin] += static_cast<double>(p_j);
    }
    blocks[n - run.first] += mass;
  }
}

void attention_profile_task(const AttentionProfileTask& task) {
  const std::int64_t D = task.q.dim, R = task.num_groups * task.group_rows;
  float* at = task.scratch;
  const auto take = [&](std::int64_t num_floats) {
    float* const piece = at;
    at += round_up(num_floats, 16);
    return piece;
  };
  auto* const masses = reinterpret_cast<double*>(take(2 * R * kNumProfileBins));
  auto* const blocks = reinterpret_cast<double*>(take(2 * task.num_groups * kKeyBlock));
  float* const q = take(round_up(R, kTileColumns) * D);
  float* const gathered = take(kTileColumns * padded(D));
  float* const k = take(kKeyBlock * padded(D));
  float* const scores = take(kKeyBlock * kTileColumns);
  auto* const bins = reinterpret_cast<std::int32_t*>(take(kKeyBlock * kTileColumns));
  pack_sampled_panels(task.q, task.rows, R, gathered, q);
  std::fill_n(masses, R * kNumProfileBins, 0.0);
  std::fill_n(task.bin_count, R * kNumProfileBins, 0);
  BlockRun run{};
  for (std::int64_t block = 0; block < task.num_blocks; block = run.end) {
    run = next_blocks(task.block_start, block, task.num_blocks);
    pack_keys(task.k, run.key, run.num_keys, k);
    std::fill_n(blocks, task.num_groups * kKeyBlock, 0.0);
    for (std::int64_t i = 0; i < R; i += kTileColumns) {
      const std::int64_t count = std::min(kTileColumns, R - i);
      HWY_ALIGN float max[kTileColumns] = {}, inverse_sum[kTileColumns] = {};
      for (std::int64_t n = 0; n < count; ++n) {
        if (task.rows[i + n] < 0) continue;
        const double* const stats = task.stats + (i + n) * kNumScoreColumns;
        max[n] = static_cast<float>(stats[kMax]);
        inverse_sum[n] = static_cast<float>(1 / stats[kSumExp]);
      }
      score_panel(D, k, run.num_keys, q + i * D, task.scale, scores);
      weigh_panel(run.num_keys, max, inverse_sum, scores, bins);
      for (std::int64_t n = 0; n < count; ++n) {
        if (task.rows[i + n] < 0) continue;
        count_row(run, task.block_start, scores + n, bins + n,
                  task.bin_count + (i + n) * kNumProfileBins, masses + (i + n) * kNumProfileBins,
                  blocks + (i + n) / task.group_rows * kKeyBlock);
      }
    }
    for (std::int64_t g = 0; g < task.num_groups; ++g) {
      const std::int32_t* const rows = task.rows + g * task.group_rows;
      const auto present =
          std::count_if(rows, rows + task.group_rows, [](auto i) { return i >= 0; });
      for (std::int64_t n = run.first; n < run.end; ++n) {
        const double mass = blocks[g * kKeyBlock + n - run.first];
        task.block_mass[g * task.num_blocks + n] =
            present > 0 ? static_cast<float>(mass / static_cast<double>(present)) : 0.0f;
      }
    }
  }
  for (std::int64_t i = 0; i < R * kNumProfileBins; ++i) {
    task.bin_mass[i] = static_cast<float>(masses[i]);
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(attention_profile_task);

void attention_profile(const AttentionProfile& args, const Stream& stream) {
  require_f32("attention_profile", {&args.q, &args.k, &args.block_mass, &args.bin_mass});
  check_score_dims(args.q, {});
  const std::int64_t B = args.q.dim(0), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t R = args.rows.dim(0), Gs = args.block_mass.dim(2), N = args.block_mass.dim(3);
  if (B * H * Gs == 0) return;
  const std::int64_t group_rows = R / Gs;
  const std::int64_t groups = std::clamp<std::int64_t>(96 / std::max<std::int64_t>(1, group_rows),
                                                       1, std::min<std::int64_t>(96, Gs));
  const std::int64_t shares = ceil_div(Gs, groups), num_tasks = B * H * shares;
  const std::int64_t room = profile_scratch_floats(D, groups, groups * group_rows);
  float* const scratch_of = scratch<float>(num_workers(stream, num_tasks) * room);
  parallel_tasks(stream, num_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t head = task / shares, b = head / H, h = head % H;
    const std::int64_t group = task % shares * groups, row = group * group_rows;
    HWY_DYNAMIC_DISPATCH(attention_profile_task)
    ({.q = {args.q, b, h},
      .k = {args.k, b, h},
      .rows = args.rows.i32() + row,
      .stats = args.stats.f64() + (head * R + row) * kNumScoreColumns,
      .num_groups = std::min(groups, Gs - group),
      .group_rows = group_rows,
      .num_blocks = N,
      .block_start = args.block_start ? args.block_start.i32() : nullptr,
      .scale = args.scale,
      .block_mass = args.block_mass.f32() + (head * Gs + group) * N,
      .bin_count = args.bin_count.i32() + (head * R + row) * kNumProfileBins,
      .bin_mass = args.bin_mass.f32() + (head * R + row) * kNumProfileBins,
      .scratch = scratch_of + worker * room});
  });
}

}  // namespace dsv::kernels::cpu
#endif
