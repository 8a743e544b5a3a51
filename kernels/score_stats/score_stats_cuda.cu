// A block has a tile of sampled rows and a chunk of keys. Every thread adds up its own scores of a
// row, f32 over a run of tiles and f64 across runs, in shared memory; a row's threads are merged
// when the chunk ends, and its chunks by a second kernel, in order.
#include "score_stats/score_tiles.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kTilesPerRun = 4;
constexpr int kKeysPerChunk = 256;  // a multiple of it

struct StatsSelection {
  const std::uint32_t* bits;  // null: none
  const std::int32_t* groups;
  const std::int32_t* block_of_key;  // null: single keys
  int G, W;
  std::int64_t first_key;
};

template <typename T>
struct StatsArguments {
  TwoViews<T> q, k;
  const std::int32_t* rows;
  StatsSelection selection;
  double* partials;  // (B, H, R, num_chunks, kNumScoreColumns)
  int H, R, Skv, row_tiles, num_chunks, chunk_keys;
  float scale_log2;              // scores in units of log2 e, for exp2
  double scale, lr_scale, unit;  // unit: what they are multiplied with to become natural again
};

template <typename Tile>
constexpr int kSlots = Tile::kRows* Tile::kThreads;

template <typename Tile>
int stats_shared_bytes(int columns) {
  const int stride = tile_stride<typename Tile::T>(columns);
  return kSlots<Tile> * kNumScoreColumns * 8 + Tile::kQueries * 12 + Tile::kKeys * 4 +
         (Tile::kQueries + Tile::kStages * Tile::kKeys) * stride *
             static_cast<int>(sizeof(typename Tile::T));
}

// What a thread has of its rows in the run at hand; exponentials are relative to `max`.
template <typename Tile>
struct RunSums {
  float s[Tile::kRows] = {}, t[Tile::kRows] = {}, ss[Tile::kRows] = {}, tt[Tile::kRows] = {};
  float st[Tile::kRows] = {}, exp[Tile::kRows] = {}, selected[Tile::kRows] = {};
  float max[Tile::kRows];

  // Adds a run to the thread's sums (kNumScoreColumns, kSlots) and starts the next.
  __device__ void flush(double* slots) {
#pragma unroll
    for (int r = 0; r < Tile::kRows; ++r) {
      double* const slot = slots + r * Tile::kThreads + threadIdx.x;
      const auto column = [slot](int c) -> double& { return slot[c * kSlots<Tile>]; };
      column(kSumS) += static_cast<double>(s[r]);
      column(kSumT) += static_cast<double>(t[r]);
      column(kSumSS) += static_cast<double>(ss[r]);
      column(kSumTT) += static_cast<double>(tt[r]);
      column(kSumST) += static_cast<double>(st[r]);
      const double keep = Tile::exp2(static_cast<float>(column(kMax)) - max[r]);
      column(kMax) = static_cast<double>(max[r]);
      column(kSumExp) = column(kSumExp) * keep + static_cast<double>(exp[r]);
      column(kSumExpSelected) = column(kSumExpSelected) * keep + static_cast<double>(selected[r]);
      s[r] = t[r] = ss[r] = tt[r] = st[r] = exp[r] = selected[r] = 0;
    }
  }
};

// Bit j of a row's two words: its group selects key j of the tile.
__device__ inline uint2 selected_keys(const std::uint32_t* bits, const int* blocks, int num_keys) {
  std::uint32_t mask[2] = {}, word = 0;
  int held = -1;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    for (int j = 32 * half; j < min(num_keys, 32 * half + 32); ++j) {
      const int block = blocks[j];
      if (block / 32 != held) held = block / 32, word = bits[held];
      mask[half] |= (word >> block % 32 & 1u) << j % 32;
    }
  }
  return {mask[0], mask[1]};
}

template <typename Tile, bool kSelected>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksPerSm)
    score_stats_kernel(const StatsArguments<typename Tile::T> args) {
  using T = typename Tile::T;
  constexpr int kQueries = Tile::kQueries, kKeys = Tile::kKeys, kRows = Tile::kRows;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* const slots = reinterpret_cast<double*>(shared);
  auto* const masks = reinterpret_cast<uint2*>(slots + kSlots<Tile> * kNumScoreColumns);
  auto* const rows = reinterpret_cast<int*>(masks + kQueries);
  int* const blocks = rows + kQueries;
  T* const q = reinterpret_cast<T*>(blocks + kKeys);
  const int stride = tile_stride<T>(args.q.columns());
  T* const k_tiles = q + kQueries * stride;

  // Blocks next to each other share keys.
  const int thread = static_cast<int>(threadIdx.x);
  const int block = static_cast<int>(blockIdx.x), chunk = block / args.row_tiles % args.num_chunks;
  const int head = block / args.row_tiles / args.num_chunks, b = head / args.H, h = head % args.H;
  const int first_row = block % args.row_tiles * kQueries;
  const int first_key = chunk * args.chunk_keys;
  const int num_keys = max(0, min(args.chunk_keys, args.Skv - first_key));

  for (int i = thread; i < kQueries; i += Tile::kThreads) {
    rows[i] = first_row + i < args.R ? args.rows[first_row + i] : -1;
  }
  for (int i = thread; i < kSlots<Tile> * kNumScoreColumns; i += Tile::kThreads) {
    slots[i] = i / kSlots<Tile> == kMax ? static_cast<double>(kLowest) : 0.0;
  }
  __syncthreads();
  load_rows<Tile::kThreads>(
      args.q, b, h, kQueries, stride, [&](int i) { return rows[i]; }, q);
  RunSums<Tile> run;
#pragma unroll
  for (int r = 0; r < kRows; ++r) run.max[r] = kLowest;

  const auto load = [&](int tile, T* to) {
    const int first = tile * kKeys;
    load_rows<Tile::kThreads>(
        args.k, b, h, kKeys, stride,
        [&](int j) { return first + j < num_keys ? first_key + first + j : -1; }, to);
  };
  const auto body = [&](int tile, const T* k) {
    const int here = min(kKeys, num_keys - tile * kKeys);
    if constexpr (kSelected) {
      const StatsSelection& selection = args.selection;
      for (int j = thread; j < here; j += Tile::kThreads) {
        const int key = first_key + tile * kKeys + j;
        blocks[j] = selection.block_of_key != nullptr ? selection.block_of_key[key]
                                                      : static_cast<int>(selection.first_key + key);
      }
      __syncthreads();
      for (int i = thread; i < kQueries; i += Tile::kThreads) {
        masks[i] = {0, 0};
        if (rows[i] < 0) continue;
        const std::int64_t group =
            static_cast<std::int64_t>(head) * selection.G + selection.groups[first_row + i];
        masks[i] = selected_keys(selection.bits + group * selection.W, blocks, here);
      }
      __syncthreads();
    }
    typename Tile::Scores s, t;
    Tile::multiply(q, k, stride, 0, args.q.depth, s);
    Tile::multiply(q, k, stride, args.q.depth, args.q.columns(), t);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < Tile::kCols; ++c) {
        const float x = Tile::at(s, r, c), y = Tile::at(t, r, c);
        run.s[r] += x;
        run.t[r] += y;
        run.ss[r] = fmaf(x, x, run.ss[r]);
        run.tt[r] = fmaf(y, y, run.tt[r]);
        run.st[r] = fmaf(x, y, run.st[r]);
        Tile::at(s, r, c) = x * args.scale_log2;
      }
    }
    if (here < kKeys) {  // keys that only fill up the last tile: 0 in every sum so far
#pragma unroll
      for (int c = 0; c < Tile::kCols; ++c) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (Tile::key(c) >= here) Tile::at(s, r, c) = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float top = run.max[r];
#pragma unroll
      for (int c = 0; c < Tile::kCols; ++c) top = fmaxf(top, Tile::at(s, r, c));
      const float keep = Tile::exp2(run.max[r] - top);
      run.max[r] = top;
      float sum = 0, selected = 0;
      uint2 mask = {0, 0};
      if constexpr (kSelected) mask = masks[Tile::row(r)];
#pragma unroll
      for (int c = 0; c < Tile::kCols; ++c) {
        const float weight = Tile::exp2(Tile::at(s, r, c) - top);
        sum += weight;
        if constexpr (kSelected) {
          const int key = Tile::key(c);
          const std::uint32_t word = key < 32 ? mask.x : mask.y;
          selected += word >> key % 32 & 1u ? weight : 0.0f;
        }
      }
      run.exp[r] = fmaf(run.exp[r], keep, sum);
      if constexpr (kSelected) run.selected[r] = fmaf(run.selected[r], keep, selected);
    }
    if (tile % kTilesPerRun == kTilesPerRun - 1) run.flush(slots);
  };
  for_key_tiles<Tile>((num_keys + kKeys - 1) / kKeys, k_tiles, kKeys * stride, load, body);
  run.flush(slots);
  __syncthreads();

  for (int i = thread; i < kQueries; i += Tile::kThreads) {
    if (first_row + i >= args.R) continue;
    double sums[kNumScoreColumns] = {};
    sums[kMax] = -INFINITY;
    for (int l = 0; l < Tile::kRowLanes && rows[i] >= 0; ++l) {
      const double* const slot =
          slots + Tile::row_of_thread(i) * Tile::kThreads + Tile::thread_of(i, l);
      if (slot[kMax * kSlots<Tile>] <= static_cast<double>(kLowest)) continue;  // it had no keys
      const double factor[kNumScoreColumns] = {args.scale,
                                               args.lr_scale,
                                               args.scale * args.scale,
                                               args.lr_scale * args.lr_scale,
                                               args.scale * args.lr_scale,
                                               args.unit,
                                               1,
                                               1};
      double of_thread[kNumScoreColumns];
#pragma unroll
      for (int c = 0; c < kNumScoreColumns; ++c) of_thread[c] = slot[c * kSlots<Tile>] * factor[c];
      merge_score_stats(sums, of_thread);
    }
    const std::int64_t at = static_cast<std::int64_t>(head) * args.R + first_row + i;
#pragma unroll
    for (int c = 0; c < kNumScoreColumns; ++c) {
      args.partials[(at * args.num_chunks + chunk) * kNumScoreColumns + c] = sums[c];
    }
  }
}

__global__ void merge_chunks_kernel(const double* partials, int num_chunks, std::int64_t num_rows,
                                    double* stats) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= num_rows) return;
  const double* const from = partials + i * num_chunks * kNumScoreColumns;
  double sums[kNumScoreColumns];
#pragma unroll
  for (int c = 0; c < kNumScoreColumns; ++c) sums[c] = from[c];
  for (int chunk = 1; chunk < num_chunks; ++chunk) {
    merge_score_stats(sums, from + chunk * kNumScoreColumns);
  }
#pragma unroll
  for (int c = 0; c < kNumScoreColumns; ++c) stats[i * kNumScoreColumns + c] = sums[c];
}

// block_of_key[j] = the block of key first_key + j.
__global__ void block_of_key_kernel(const std::int32_t* block_start, std::int64_t num_blocks,
                                    std::int64_t first_key, std::int64_t num_keys,
                                    std::int32_t* block_of_key) {
  const std::int64_t n = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= num_blocks) return;
  for (std::int64_t key = block_start[n]; key < block_start[n + 1]; ++key) {
    const std::int64_t j = key - first_key;
    if (j >= 0 && j < num_keys) block_of_key[j] = static_cast<std::int32_t>(n);
  }
}

template <typename Tile>
void launch(const ScoreStats& args, const Stream& stream) {
  using T = typename Tile::T;
  constexpr int kThreads = 256;
  const std::int64_t H = args.q.dim(2), heads = args.q.dim(0) * H, R = args.rows.dim(0);
  const std::int64_t Skv = args.k.dim(1), row_tiles = ceil_div(R, Tile::kQueries);
  // About as many blocks as balance the load, by shape alone.
  const std::int64_t wanted = ceil_div(2048, heads * row_tiles);
  const std::int64_t chunk_keys =
      std::max<std::int64_t>(1, ceil_div(ceil_div(Skv, wanted), kKeysPerChunk)) * kKeysPerChunk;
  const std::int64_t num_chunks = std::max<std::int64_t>(1, ceil_div(Skv, chunk_keys));
  const std::int64_t num_partials = num_chunks > 1 ? heads * R * num_chunks * kNumScoreColumns : 0;
  auto* const partials = scratch<double>(stream, num_partials + ceil_div(Skv, 2));
  auto* const block_of_key = reinterpret_cast<std::int32_t*>(partials + num_partials);
  if (args.bits && args.block_start) {
    const std::int64_t N = args.block_start.dim(0) - 1;
    if (N > 0) {
      block_of_key_kernel<<<num_blocks(N, kThreads), kThreads, 0, native(stream)>>>(
          args.block_start.i32(), N, args.first_key, Skv, block_of_key);
      DSV_CUDA_LAUNCHED();
    }
  }
  const float scale_log2 = args.scale * kLog2E;
  StatsArguments<T> arguments{
      .q = {args.q, args.q_lr},
      .k = {args.k, args.k_lr},
      .rows = args.rows.i32(),
      .selection = {},
      .partials = num_chunks > 1 ? partials : args.stats.f64(),
      .H = static_cast<int>(H),
      .R = static_cast<int>(R),
      .Skv = static_cast<int>(Skv),
      .row_tiles = static_cast<int>(row_tiles),
      .num_chunks = static_cast<int>(num_chunks),
      .chunk_keys = static_cast<int>(chunk_keys),
      .scale_log2 = scale_log2,
      .scale = args.scale,
      .lr_scale = args.lr_scale,
      .unit = scale_log2 == 0 ? 0.0 : static_cast<double>(args.scale) / scale_log2};
  if (args.bits) {
    arguments.selection = {.bits = args.bits.u32(),
                           .groups = args.row_groups.i32(),
                           .block_of_key = args.block_start ? block_of_key : nullptr,
                           .G = static_cast<int>(args.bits.dim(2)),
                           .W = static_cast<int>(args.bits.dim(3)),
                           .first_key = args.first_key};
  }
  const int bytes = stats_shared_bytes<Tile>(arguments.q.columns());
  const auto kernel = args.bits ? score_stats_kernel<Tile, true> : score_stats_kernel<Tile, false>;
  allow_shared_bytes(kernel, bytes);
  kernel<<<narrow<std::int32_t>(heads * row_tiles * num_chunks), Tile::kThreads, bytes,
           native(stream)>>>(arguments);
  DSV_CUDA_LAUNCHED();
  if (num_chunks == 1) return;
  merge_chunks_kernel<<<num_blocks(heads * R, kThreads), kThreads, 0, native(stream)>>>(
      partials, static_cast<int>(num_chunks), heads * R, args.stats.f64());
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void score_stats(const ScoreStats& args, const Stream& stream) {
  require_f32_or_bf16("score_stats", {&args.q, &args.k, &args.q_lr, &args.k_lr});
  const std::int64_t D = args.q.dim(3), r = args.q_lr ? args.q_lr.dim(3) : 0;
  DSV_CHECK(D <= 256 && r <= 256, "[score_stats] expected dims ≤ 256, got {} and {}", D, r);
  DSV_CHECK(args.k.dim(1) < std::int64_t{1} << 30, "[score_stats] expected fewer than 2^30 keys");
  if (args.q.dim(0) * args.q.dim(2) * args.rows.dim(0) == 0) return;
  if (args.q.dtype() == DType::kF32) return launch<SimtTile>(args, stream);
  const int columns = TwoViews<Bf16>(args.q, args.q_lr).columns();
  with_tile_that_fits<MmaTile<2>, MmaTile<1>>(
      session_of(stream), [&](auto tile) { return stats_shared_bytes<decltype(tile)>(columns); },
      [&](auto tile) { launch<decltype(tile)>(args, stream); });
}

}  // namespace dsv::kernels::cuda
