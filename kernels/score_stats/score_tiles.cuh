// Tiles of scores on CUDA: sampled rows against keys, both with their low-rank columns beside their
// own, in shared memory. Two ways to multiply them, of one interface: MmaTile for bf16 on tensor
// cores and SimtTile for f32; a thread holds kRows x kCols scores of a tile.
#pragma once

#include "attention/attention_views.cuh"
#include "cuda/mma.cuh"

namespace dsv::kernels::cuda {

using Bf16 = __nv_bfloat16;

// Rows of tensors (B, S, H, D) and (B, S, H, r) side by side: `depth` columns for the first,
// `lr_depth` for the second (none: r = 0), zeros in between.
template <typename T>
struct TwoViews {
  HeadsView<const T> main, low_rank;
  int D, r, depth, lr_depth;

  TwoViews(const Tensor& first, const Tensor& second)
      : main(heads_view<const T>(first)), D(static_cast<int>(first.dim(3))), r(0) {
    if (second) {
      low_rank = heads_view<const T>(second);
      r = static_cast<int>(second.dim(3));
    }
    constexpr int kStep = sizeof(T) == 2 ? 16 : 1;  // the depth of one product
    depth = static_cast<int>(round_up(D, kStep));
    lr_depth = static_cast<int>(round_up(r, kStep));
  }
  __device__ __host__ int columns() const { return depth + lr_depth; }
};

// Elements from row to row: an odd number of 16-byte chunks for ldmatrix, an odd number of floats.
template <typename T>
__device__ __host__ inline int tile_stride(int columns) {
  return sizeof(T) == 2 ? columns + 8 : columns | 1;
}

// Fills slots [0, count) of a tile with row row_of(slot) of each view, zeros where that is negative
// and beyond D and r. Packable rows of bf16 come asynchronously (copy_async_commit and _wait).
template <int kThreads, typename T, typename RowOf>
__device__ inline void load_rows(const TwoViews<T>& from, int b, int h, int count, int stride,
                                 const RowOf& row_of, T* tile) {
  constexpr int kRun = sizeof(T) == 2 ? 8 : 1;
  const int main_runs = from.depth / kRun, runs = from.columns() / kRun;
  // Neither a division nor a remainder in the loop: a run's place moves on by the same step.
  int slot = static_cast<int>(threadIdx.x) / runs, run = static_cast<int>(threadIdx.x) % runs;
  const int slot_step = kThreads / runs, run_step = kThreads % runs;
  while (slot < count) {
    const bool of_main = run < main_runs;
    const HeadsView<const T>& view = of_main ? from.main : from.low_rank;
    const int column = (of_main ? run : run - main_runs) * kRun, dim = of_main ? from.D : from.r;
    const int row = row_of(slot);
    const bool there = row >= 0 && column < dim;
    const T* const at = there ? view.row_of(b, h, row) + column : view.data;
    T* const to = tile + slot * stride + run * kRun;
    if constexpr (kRun == 1) {
      *to = there ? *at : T(0);
    } else if (view.packable) {
      copy_async_16(shared_address(to), at, there);
    } else {
      Pack<T, kRun> pack;
#pragma unroll
      for (int e = 0; e < kRun; ++e) pack.at[e] = there && column + e < dim ? at[e] : T{};
      *reinterpret_cast<Pack<T, kRun>*>(to) = pack;
    }
    slot += slot_step, run += run_step;
    if (run >= runs) run -= runs, ++slot;
  }
}

// Four warps, each with kM times 16 rows and all 64 keys.
template <int kBlocks>
struct MmaTile {
  using T = Bf16;
  static constexpr int kM = kBlocks, kN = 8, kThreads = 128, kStages = 2, kBlocksPerSm = 2;
  static constexpr int kQueries = 64 * kM, kKeys = 8 * kN;
  static constexpr int kRows = 2 * kM, kCols = 2 * kN, kRowLanes = 4;
  using Scores = float[kM][kN][4];

  __device__ static float& at(Scores& s, int r, int c) {
    return s[r / 2][c / 2][r % 2 * 2 + c % 2];
  }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ static int warp_row() { return static_cast<int>(threadIdx.x) / kWarp * 16 * kM; }
  // Row and key of this thread's score (r, c) within the tile.
  __device__ static int row(int r) { return warp_row() + r / 2 * 16 + r % 2 * 8 + lane() / 4; }
  __device__ static int key(int c) { return c / 2 * 8 + lane() % 4 * 2 + c % 2; }
  // The thread, of kRowLanes, that has scores of `row`, and as which of its rows.
  __device__ static int thread_of(int row, int lane) {
    return row / (16 * kM) * kWarp + row % 8 * 4 + lane;
  }
  __device__ static int row_of_thread(int row) { return row % (16 * kM) / 8; }
  __device__ static float exp2(float x) { return exp2_fast(x); }

  // scores = Q K^T over the columns [begin, end) of both tiles.
  __device__ static void multiply(const T* q, const T* k, int stride, int begin, int end,
                                  Scores& scores) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        scores[m][n][0] = scores[m][n][1] = scores[m][n][2] = scores[m][n][3] = 0;
      }
    }
    const int row_bytes = 2 * stride;
    std::uint32_t a =
        shared_address(q + (warp_row() + lane() % 16) * stride + lane() / 16 * 8 + begin);
    std::uint32_t b =
        shared_address(k + (lane() / 16 * 8 + lane() % 8) * stride + lane() / 8 % 2 * 8 + begin);
#pragma unroll 2
    for (int depth = begin; depth < end; depth += 16, a += 32, b += 32) {
      std::uint32_t fa[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) load_matrices(a + m * 16 * row_bytes, fa[m]);
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        std::uint32_t fb[4];
        load_matrices(b + n * 8 * row_bytes, fb);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          mma(fa[m], fb[0], fb[1], scores[m][n]);
          mma(fa[m], fb[2], fb[3], scores[m][n + 1]);
        }
      }
    }
  }
};

// 16 x 16 threads; thread (y, x) has rows y and y + 16 and every 16th key from x on.
struct SimtTile {
  using T = float;
  static constexpr int kSide = 16, kThreads = kSide * kSide, kStages = 1, kBlocksPerSm = 1;
  static constexpr int kRows = 2, kCols = 4, kRowLanes = kSide;
  static constexpr int kQueries = kSide * kRows, kKeys = kSide * kCols;
  using Scores = float[kRows][kCols];

  __device__ static float& at(Scores& s, int r, int c) { return s[r][c]; }
  __device__ static int row(int r) { return static_cast<int>(threadIdx.x) / kSide + r * kSide; }
  __device__ static int key(int c) { return static_cast<int>(threadIdx.x) % kSide + c * kSide; }
  __device__ static int thread_of(int row, int lane) { return row % kSide * kSide + lane; }
  __device__ static int row_of_thread(int row) { return row / kSide; }
  __device__ static float exp2(float x) { return exp2f(x); }

  __device__ static void multiply(const T* q, const T* k, int stride, int begin, int end,
                                  Scores& scores) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kCols; ++c) scores[r][c] = 0;
    }
    const float *const q_at = q + row(0) * stride, *const k_at = k + key(0) * stride;
#pragma unroll 4
    for (int d = begin; d < end; ++d) {
      const float q0 = q_at[d], q1 = q_at[kSide * stride + d];
#pragma unroll
      for (int c = 0; c < kCols; ++c) {
        const float k_c = k_at[c * kSide * stride + d];
        scores[0][c] = fmaf(q0, k_c, scores[0][c]);
        scores[1][c] = fmaf(q1, k_c, scores[1][c]);
      }
    }
  }
};

// Walks over num_tiles tiles of keys: load(tile, to) starts filling one of kStages tiles of shared
// memory, body(tile, k) works on it. All threads call it; what was loaded before is there too.
template <typename Tile, typename Load, typename Body>
__device__ inline void for_key_tiles(int num_tiles, typename Tile::T* k_tiles, int tile_elements,
                                     const Load& load, const Body& body) {
  if constexpr (Tile::kStages == 2) {
    if (num_tiles > 0) load(0, k_tiles);
    copy_async_commit();
    for (int tile = 0; tile < num_tiles; ++tile) {
      copy_async_wait<0>();
      __syncthreads();  // this tile is there, and everyone is done with the one before
      if (tile + 1 < num_tiles) load(tile + 1, k_tiles + (tile + 1) % 2 * tile_elements);
      copy_async_commit();
      body(tile, k_tiles + tile % 2 * tile_elements);
    }
    copy_async_wait<0>();
    __syncthreads();
  } else {
    for (int tile = 0; tile < num_tiles; ++tile) {
      load(tile, k_tiles);
      __syncthreads();
      body(tile, k_tiles);
      __syncthreads();
    }
  }
}

// fn(Tile{}) with the widest tile of the dtype whose shared memory fits: kMore rows first.
template <typename First, typename... More, typename Bytes, typename Fn>
void with_tile_that_fits(const Session& session, const Bytes& bytes_of, const Fn& fn) {
  if constexpr (sizeof...(More) > 0) {
    if (bytes_of(First{}) > session.max_shared_bytes) {
      return with_tile_that_fits<More...>(session, bytes_of, fn);
    }
  }
  fn(First{});
}

}  // namespace dsv::kernels::cuda
