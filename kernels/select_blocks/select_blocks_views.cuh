// What the parts of the selection on CUDA share. Logits and masses are kept as logarithms to base 2
// until the maximum over all keys is known.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"
#include "dsv/kernels/select_blocks.h"

namespace dsv::kernels::cuda {

constexpr int kSelectGroups = 16;  // that a block of threads works on at a time: a tile
constexpr int kSelectWarps = 8, kSelectThreads = kSelectWarps * kWarp;
constexpr int kSelectBlocksPerSm = 2;
// Rows of logarithms begin at multiples of this many.
constexpr int kRowUnits = 128;
// The grid is smaller where the rows of its tiles, the only groups x blocks that ever exist, would
// need more than this.
constexpr std::int64_t kMaxRowBytes = std::int64_t{256} << 20;

constexpr float kNoMass = -INFINITY;

template <typename T>
struct LowRank {  // (B, S, H, r)
  const T* data;
  std::int64_t batch, row, head;
  __device__ const T* row_of(int b, int h, std::int64_t s) const {
    return data + b * batch + h * head + s * row;
  }
};

template <typename T>
struct Selection {
  LowRank<T> q, k;
  const std::int32_t *block_start, *group_start;  // block_start null: single keys
  const float *slope, *mass;
  const std::int32_t *min_keys, *max_keys;
  std::uint32_t* bits;
  std::int32_t* num_keys;
  float* covered;
  float* rows;  // (grid, kSelectGroups, row_stride)
  std::int64_t row_stride, query_offset;
  float scale;
  int unit, Skv, H, G, r, N, num_units, num_words, tiles_per_head, num_tiles;
  bool centre;

  __device__ int block_first(int n) const {  // n ≤ N beyond the last block: Skv
    n = min(n, N);
    return block_start != nullptr ? __ldg(block_start + n) : n;
  }
  __device__ int unit_first(int u) const { return block_first(min(u, num_units) * unit); }
};

// A tile of groups: groups [first, first + kSelectGroups) of head h of sample b.
struct GroupTile {
  int b, h, first;
};

// What the kernel keeps in shared memory, beside the lists of candidates.
struct TileShared {
  float* proxies;    // (r, kSelectGroups)
  float* warp_most;  // (kSelectWarps, kSelectGroups): largest logarithm that a warp has seen
};

// The factor of products in logarithms, and the largest product that stays finite under it.
struct Factor {
  float log2, most;
  __device__ explicit Factor(float slope_scale)
      : log2(slope_scale * 1.44269504f), most(1e38f / fmaxf(log2, 1.0f)) {}
};

// Proxies of a tile: 0 beyond the last group, NaN for a group without
// queries. A warp takes a group at a time.
template <typename T>
__device__ inline void fill_proxies(const Selection<T>& p, const GroupTile& tile, float* proxies) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  // Short rows are read two at a time.
  const int width = p.r <= 16 ? 16 : kWarp, step = kWarp / width;
  for (int i = warp; i < kSelectGroups; i += kSelectWarps) {
    const int g = tile.first + i;
    int from = 0, to = 0;
    if (g < p.G) from = p.group_start[g], to = p.group_start[g + 1];
    if (p.centre && from < to) from += (to - from) / 2, to = from + 1;
    for (int first = 0; first < p.r; first += width) {
      const int c = first + lane % width;
      float sum = 0;
      if (c < p.r) {
#pragma unroll 4
        for (int s = from + lane / width; s < to; s += step)
          sum += to_f32(p.q.row_of(tile.b, tile.h, s)[c]);
      }
      if (step == 2) sum += __shfl_xor_sync(0xffffffffu, sum, 16);
      const float mean = g < p.G ? sum / static_cast<float>(to - from) : 0.0f;
      if (c < p.r && lane < width) proxies[c * kSelectGroups + i] = mean;
    }
  }
}

}  // namespace dsv::kernels::cuda
