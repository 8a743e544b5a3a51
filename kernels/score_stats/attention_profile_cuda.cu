// A block has a tile of sampled rows, of whole groups or of one group's part, and walks over all
// keys, some whole blocks of keys at a time. Scores pass through shared memory: several threads per
// row turn them into p and count bins, then others add up groups and blocks. Bins are integers: a p
// is rounded to 2^-19 of the largest that its bin may hold, so that no order of addition matters.
#include "score_stats/score_tiles.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr float kBinLog2 = kProfileBinWidth * kLog2E;  // a bin's width in units of log2 e
constexpr float kBinUnits = 1 << 19;
constexpr int kTilesPerFlush = 64;  // 4096 keys of at most kBinUnits, and 32 bits

// How rows are cut into tiles.
struct RowTiles {
  int group_rows, groups, parts;  // rows of a group; groups of a tile, or tiles of a group
  int count;

  RowTiles(int rows_per_group, int num_groups, int tile_rows)
      : group_rows(rows_per_group),
        groups(std::max(1, tile_rows / rows_per_group)),
        parts((rows_per_group + tile_rows - 1) / tile_rows),
        count((num_groups + groups - 1) / groups * parts) {}
};

template <typename T>
struct ProfileArguments {
  TwoViews<T> q, k;
  const std::int32_t* rows;
  const double* stats;
  const std::int32_t* block_start;  // null: single keys
  float* block_mass;                // (B, H, Gs, N); several parts: sums (B, H, Gs, parts, N)
  std::int32_t* bin_count;
  float* bin_mass;
  RowTiles tiles;
  int H, R, Gs, N;
  float scale_log2;
  double unit;  // what scores in units of log2 e are multiplied with to become natural
};

template <typename Tile>
constexpr int kWeightRow = Tile::kQueries + 4;  // a key's weights of all rows, conflict-free

template <typename Tile>
int profile_shared_bytes(int columns) {
  constexpr int kWords = 2 * kNumProfileBins * Tile::kQueries + Tile::kKeys * kWeightRow<Tile> +
                         (kTileBlocks + 4) * Tile::kQueries;
  return 4 * kWords + (Tile::kQueries + Tile::kStages * Tile::kKeys) *
                          tile_stride<typename Tile::T>(columns) *
                          static_cast<int>(sizeof(typename Tile::T));
}

// The blocks of keys of a tile: kTileBlocks blocks, or as many single keys as fit.
struct KeyTile {
  int first_block, num_blocks, first_key, num_keys;
};
template <typename Tile>
__device__ inline KeyTile key_tile(const std::int32_t* block_start, int N, int tile) {
  if (block_start == nullptr) {
    const int first = tile * Tile::kKeys, count = min(Tile::kKeys, N - first);
    return {first, count, first, count};
  }
  const int first = tile * static_cast<int>(kTileBlocks);
  const int count = min(static_cast<int>(kTileBlocks), N - first);
  const int key = block_start[first];
  return {first, count, key, block_start[first + count] - key};
}

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksPerSm)
    attention_profile_kernel(const ProfileArguments<typename Tile::T> args) {
  using T = typename Tile::T;
  constexpr int kQueries = Tile::kQueries, kThreads = Tile::kThreads, kRow = kWeightRow<Tile>;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* const counts = reinterpret_cast<unsigned*>(shared);  // (kNumProfileBins, kQueries)
  unsigned* const masses = counts + kNumProfileBins * kQueries;
  auto* const weights = reinterpret_cast<float*>(masses + kNumProfileBins * kQueries);
  float* const of_blocks = weights + Tile::kKeys * kRow;  // (kTileBlocks, kQueries)
  float* const max = of_blocks + kTileBlocks * kQueries;
  float* const inverse_sum = max + kQueries;
  auto* const rows = reinterpret_cast<int*>(inverse_sum + kQueries);
  int* const num_present = rows + kQueries;  // of each group
  T* const q = reinterpret_cast<T*>(num_present + kQueries);
  const int stride = tile_stride<T>(args.q.columns());
  T* const k_tiles = q + kQueries * stride;

  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const RowTiles& tiles = args.tiles;
  const int head = block / tiles.count, b = head / args.H, h = head % args.H;
  const int group = block % tiles.count / tiles.parts * tiles.groups;
  const int part = block % tiles.parts;
  const int num_groups = min(tiles.groups, args.Gs - group);
  const int first_row = group * tiles.group_rows + part * kQueries;
  const int num_rows = tiles.parts > 1 ? min(kQueries, tiles.group_rows - part * kQueries)
                                       : num_groups * tiles.group_rows;
  const std::int64_t row_at = static_cast<std::int64_t>(head) * args.R + first_row;

  for (int i = thread; i < kQueries; i += kThreads) {
    rows[i] = i < num_rows ? args.rows[first_row + i] : -1;
    max[i] = inverse_sum[i] = 0;
    if (rows[i] < 0) continue;
    const double* const stats = args.stats + (row_at + i) * kNumScoreColumns;
    max[i] = args.unit == 0 ? 0.0f : static_cast<float>(stats[kMax] / args.unit);
    inverse_sum[i] = static_cast<float>(1 / stats[kSumExp]);
  }
  for (int i = thread; i < 2 * kNumProfileBins * kQueries; i += kThreads) counts[i] = 0;
  __syncthreads();
  for (int g = thread; g < num_groups; g += kThreads) {
    num_present[g] = 0;
    for (int i = 0; i < min(tiles.group_rows, kQueries); ++i) {
      num_present[g] += rows[g * tiles.group_rows + i] >= 0;
    }
  }
  load_rows<kThreads>(
      args.q, b, h, kQueries, stride, [&](int i) { return rows[i]; }, q);

  // Adds the integers to what the outputs hold, which nobody else writes.
  bool first_flush = true;
  const auto flush = [&] {
    __syncthreads();
    for (int e = thread; e < num_rows * kNumProfileBins; e += kThreads) {
      const int i = e / kNumProfileBins, bin = e % kNumProfileBins;
      unsigned &count = counts[bin * kQueries + i], &mass = masses[bin * kQueries + i];
      const float largest = exp2f(-kBinLog2 * static_cast<float>(bin)) * inverse_sum[i];
      const float p = static_cast<float>(mass) * (1 / kBinUnits) * largest;
      const std::int64_t at = (row_at + i) * kNumProfileBins + bin;
      args.bin_count[at] =
          static_cast<std::int32_t>(count) + (first_flush ? 0 : args.bin_count[at]);
      args.bin_mass[at] = p + (first_flush ? 0.0f : args.bin_mass[at]);
      count = mass = 0;
    }
    first_flush = false;
    __syncthreads();
  };

  const auto load = [&](int tile, T* to) {
    const KeyTile keys = key_tile<Tile>(args.block_start, args.N, tile);
    load_rows<kThreads>(
        args.k, b, h, Tile::kKeys, stride,
        [&](int j) { return j < keys.num_keys ? keys.first_key + j : -1; }, to);
  };
  const auto body = [&](int tile, const T* k) {
    const KeyTile keys = key_tile<Tile>(args.block_start, args.N, tile);
    typename Tile::Scores s;
    Tile::multiply(q, k, stride, 0, args.q.depth, s);
#pragma unroll
    for (int r = 0; r < Tile::kRows; ++r) {
#pragma unroll
      for (int c = 0; c < Tile::kCols; ++c) {
        weights[Tile::key(c) * kRow + Tile::row(r)] = Tile::at(s, r, c) * args.scale_log2;
      }
    }
    __syncthreads();
    const int i = thread % kQueries;
    for (int j = thread / kQueries; j < keys.num_keys; j += kThreads / kQueries) {
      float& weight = weights[j * kRow + i];
      if (rows[i] < 0) {
        weight = 0;
        continue;
      }
      const float below = fmaxf(max[i] - weight, 0.0f);
      const int bin = min(static_cast<int>(below * (1 / kBinLog2)), kNumProfileBins - 1);
      // Relative to the largest of its bin.
      const float share = Tile::exp2(kBinLog2 * static_cast<float>(bin) - below);
      atomicAdd(&counts[bin * kQueries + i], 1u);
      atomicAdd(&masses[bin * kQueries + i], __float2uint_rn(share * kBinUnits));
      weight = Tile::exp2(-below) * inverse_sum[i];
    }
    __syncthreads();
    const float* of_block = weights;  // a block's mass in each row
    int block_row = kRow;
    if (args.block_start != nullptr) {
      for (int e = thread; e < keys.num_blocks * kQueries; e += kThreads) {
        const int n = e / kQueries, row = e % kQueries;
        const int begin = args.block_start[keys.first_block + n] - keys.first_key;
        const int end = args.block_start[keys.first_block + n + 1] - keys.first_key;
        float sum = 0;
        for (int j = begin; j < end; ++j) sum += weights[j * kRow + row];
        of_blocks[n * kQueries + row] = sum;
      }
      __syncthreads();
      of_block = of_blocks, block_row = kQueries;
    }
    for (int e = thread; e < num_groups * keys.num_blocks; e += kThreads) {
      const int g = e / keys.num_blocks, n = e % keys.num_blocks;
      const int group_rows = min(tiles.group_rows, num_rows);
      float sum = 0;
      for (int row = 0; row < group_rows; ++row) {
        sum += of_block[n * block_row + g * group_rows + row];
      }
      if (tiles.parts == 1) {
        sum = num_present[g] > 0 ? sum / static_cast<float>(num_present[g]) : 0.0f;
      }
      const std::int64_t of_group = static_cast<std::int64_t>(head) * args.Gs + group + g;
      args.block_mass[(of_group * tiles.parts + part) * args.N + keys.first_block + n] = sum;
    }
    if (tile % kTilesPerFlush == kTilesPerFlush - 1) flush();
  };
  const int per_tile = args.block_start != nullptr ? static_cast<int>(kTileBlocks) : Tile::kKeys;
  for_key_tiles<Tile>((args.N + per_tile - 1) / per_tile, k_tiles, Tile::kKeys * stride, load,
                      body);
  flush();
}

// block_mass (B, H, Gs, N) = the groups' parts added up, in order, over the rows that are there.
constexpr int kMeanThreads = 256;
__global__ void __launch_bounds__(kMeanThreads)
    mean_of_parts_kernel(const float* sums, const std::int32_t* rows, int group_rows, int parts,
                         int Gs, int N, float* block_mass) {
  const int group = static_cast<int>(blockIdx.x);
  int present = 0;
  for (int first = 0; first < group_rows; first += kMeanThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    present += __syncthreads_count(i < group_rows && rows[group % Gs * group_rows + i] >= 0);
  }
  const int n = static_cast<int>(blockIdx.y) * kMeanThreads + static_cast<int>(threadIdx.x);
  if (n >= N) return;
  float sum = 0;
  for (int part = 0; part < parts; ++part) {
    sum += sums[(static_cast<std::int64_t>(group) * parts + part) * N + n];
  }
  block_mass[static_cast<std::int64_t>(group) * N + n] =
      present > 0 ? sum / static_cast<float>(present) : 0.0f;
}

template <typename Tile>
void launch(const AttentionProfile& args, const Stream& stream) {
  using T = typename Tile::T;
  const std::int64_t H = args.q.dim(2), heads = args.q.dim(0) * H, R = args.rows.dim(0);
  const std::int64_t Gs = args.block_mass.dim(2), N = args.block_mass.dim(3);
  const RowTiles tiles(static_cast<int>(R / Gs), static_cast<int>(Gs), Tile::kQueries);
  float* const sums = tiles.parts > 1 ? scratch<float>(stream, heads * Gs * tiles.parts * N)
                                      : args.block_mass.f32();
  const float scale_log2 = args.scale * kLog2E;
  const ProfileArguments<T> arguments{
      .q = {args.q, {}},
      .k = {args.k, {}},
      .rows = args.rows.i32(),
      .stats = args.stats.f64(),
      .block_start = args.block_start ? args.block_start.i32() : nullptr,
      .block_mass = sums,
      .bin_count = args.bin_count.i32(),
      .bin_mass = args.bin_mass.f32(),
      .tiles = tiles,
      .H = static_cast<int>(H),
      .R = static_cast<int>(R),
      .Gs = static_cast<int>(Gs),
      .N = static_cast<int>(N),
      .scale_log2 = scale_log2,
      .unit = scale_log2 == 0 ? 0.0 : static_cast<double>(args.scale) / scale_log2};
  const int bytes = profile_shared_bytes<Tile>(arguments.q.columns());
  const auto kernel = attention_profile_kernel<Tile>;
  allow_shared_bytes(kernel, bytes);
  kernel<<<narrow<std::int32_t>(heads * tiles.count), Tile::kThreads, bytes, native(stream)>>>(
      arguments);
  DSV_CUDA_LAUNCHED();
  if (tiles.parts == 1 || N == 0) return;
  const dim3 grid(static_cast<unsigned>(narrow<std::int32_t>(heads * Gs)),
                  num_blocks(N, kMeanThreads));
  mean_of_parts_kernel<<<grid, kMeanThreads, 0, native(stream)>>>(
      sums, arguments.rows, tiles.group_rows, tiles.parts, arguments.Gs, arguments.N,
      args.block_mass.f32());
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void attention_profile(const AttentionProfile& args, const Stream& stream) {
  require_f32_or_bf16("attention_profile", {&args.q, &args.k});
  const std::int64_t D = args.q.dim(3);
  DSV_CHECK(D <= 256, "[attention_profile] expected a dim ≤ 256, got {}", D);
  DSV_CHECK(args.k.dim(1) < std::int64_t{1} << 30,
            "[attention_profile] expected fewer than 2^30 keys");
  const std::int64_t heads = args.q.dim(0) * args.q.dim(2);
  if (heads * args.block_mass.dim(2) == 0) return;
  if (args.rows.dim(0) == 0) {  // groups without rows
    if (args.block_mass.num_elements() == 0) return;
    DSV_CUDA(cudaMemsetAsync(args.block_mass.raw(), 0,
                             static_cast<std::size_t>(args.block_mass.num_bytes()),
                             native(stream)));
    return;
  }
  if (args.q.dtype() == DType::kF32) return launch<SimtTile>(args, stream);
  launch<MmaTile<1>>(args, stream);
}

}  // namespace dsv::kernels::cuda
