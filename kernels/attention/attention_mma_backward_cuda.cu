// Attention backward in bf16 on tensor cores, from lse, in passes of one writer each: delta; dQ,
// where a block has a tile of queries and walks over all keys; dK and dV, where a block has a tile
// of keys and walks over all queries. Both walks compute scores again (7 products in place of 5), so
// nothing is added to across blocks, and results are the same bits in every run.
// Scores and their gradients stay in registers: what one product sums up is the A of the next.
#include "attention/attention_cuda.h"
#include "attention/attention_tiles.cuh"

namespace dsv::kernels::cuda {
namespace {

struct BackwardArguments {
  HeadsView<const Bf16> q, k, v, d_o;
  HeadsView<Bf16> dq, dk, dv;
  const float* key_bias;  // null: none
  const float *lse, *delta;
  std::int64_t bias_stride;
  int Sq, Skv, H, D;
  float scale, scale_log2;  // the latter: scores in units of log2 e, for exp2
};

// lse in units of log2 e, from which weights are exp2(score - lse): +inf, and so weights of 0, for
// rows without any key and for queries that only fill up a tile.
__device__ inline float lse_log2(const float* lse, int query, int Sq) {
  const float natural = query < Sq ? lse[query] : -INFINITY;
  return natural == -INFINITY ? INFINITY : natural * kLog2E;
}

// --- dQ ------------------------------------------------------------------------------------------

template <int kPaddedDim>
struct QueryTiles {
  static constexpr int kDim = kPaddedDim;
  static constexpr int kM = kDim <= 128 ? 2 : 1;  // blocks of 16 queries of a warp
  static constexpr int kWarps = kDim <= 128 ? 4 : 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlocksPerSm = kDim <= 128 ? 2 : 1;
  static constexpr int kQueries = 16 * kM * kWarps;
  static constexpr int kKeys = kDim <= 64 ? 64 : 32;
  static constexpr int kSharedBytes =
      shared_bytes(2 * kQueries + 4 * kKeys, kDim) + 2 * kKeys * static_cast<int>(sizeof(float));
};

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, Tiles::kBlocksPerSm)
    attention_dq_kernel(const BackwardArguments args) {
  constexpr int kDim = Tiles::kDim, kM = Tiles::kM, kKeys = Tiles::kKeys;
  constexpr int kQueries = Tiles::kQueries, kThreads = Tiles::kThreads;
  constexpr int kRow = shared_row(kDim), kN = kKeys / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  Bf16* const q_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* const do_tile = q_tile + kQueries * kRow;
  Bf16* const k_tiles = do_tile + kQueries * kRow;  // two of each
  Bf16* const v_tiles = k_tiles + 2 * kKeys * kRow;
  float* const offsets = reinterpret_cast<float*>(v_tiles + 2 * kKeys * kRow);

  const HeadTile tile = head_tile(args.Sq, kQueries, args.H);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int g = lane / 4, t = lane % 4;
  const int warp_row = thread / kWarp * 16 * kM;  // the warp's first query within the tile
  const float* const bias =
      args.key_bias != nullptr ? args.key_bias + tile.b * args.bias_stride : nullptr;
  const int num_tiles = (args.Skv + kKeys - 1) / kKeys;

  TileSource<2, kQueries, kDim, kThreads> queries({args.q, args.d_o}, tile, tile.first, args.Sq,
                                                  args.D);
  TileSource<2, kKeys, kDim, kThreads> keys({args.k, args.v}, tile, 0, args.Skv, args.D);
  queries.start_next(q_tile, kQueries * kRow);
  keys.start_next(k_tiles, 2 * kKeys * kRow);
  copy_async_commit();
  if (thread < kKeys) offsets[thread] = key_offset(bias, thread, args.Skv);

  float lse[kM][2], delta[kM][2];  // of rows g and g + 8
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t head = tile.rows_before(args.H, args.Sq);
      const int query = tile.first + warp_row + m * 16 + half * 8 + g;
      lse[m][half] = lse_log2(args.lse + head, query, args.Sq);
      delta[m][half] = query < args.Sq ? args.delta[head + query] : 0.0f;
    }
  }
  const std::uint32_t q_at = shared_address(q_tile + warp_row * kRow) + lane_offset_rows<kDim>();
  const std::uint32_t do_at = q_at + shared_bytes(kQueries, kDim);
  const std::uint32_t k_at = shared_address(k_tiles);
  const std::uint32_t v_at = shared_address(v_tiles);
  float dq[kM][kDim / 8][4] = {};

  for (int j = 0; j < num_tiles; ++j) {
    copy_async_wait<0>();
    __syncthreads();  // tile j is there, and everyone is done with the tile before it
    const int stage = j % 2, other = 1 - stage, stage_bytes = stage * shared_bytes(kKeys, kDim);
    if (j + 1 < num_tiles) {
      keys.start_next(k_tiles + other * kKeys * kRow, 2 * kKeys * kRow);
      if (thread < kKeys) {
        offsets[other * kKeys + thread] = key_offset(bias, (j + 1) * kKeys + thread, args.Skv);
      }
    }
    copy_async_commit();

    float p[kM][kN][4];
    multiply_rows<kDim>(q_at, k_at + stage_bytes + lane_offset_columns<kDim>(), p);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 offset =
          *reinterpret_cast<const float2*>(offsets + stage * kKeys + n * 8 + 2 * t);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float score = fmaf(p[m][n][e], args.scale_log2, e % 2 == 0 ? offset.x : offset.y);
          p[m][n][e] = exp2_fast(score - lse[m][e / 2]);
        }
      }
    }
    float dp[kM][kN][4];
    multiply_rows<kDim>(do_at, v_at + stage_bytes + lane_offset_columns<kDim>(), dp);
    std::uint32_t ds[kM][kN / 2][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) p[m][n][e] *= dp[m][n][e] - delta[m][e / 2];
      }
    }
    accumulators_as_a(p, ds);
    multiply_add<kDim>(ds, k_at + stage_bytes + lane_offset_rows<kDim>(), dq);
  }
  copy_async_wait<0>();
  __syncthreads();  // Q has landed, also where there are no keys: its tile becomes dQ's

  const HeadTile own = head_tile(args.Sq, kQueries, args.H);
  float factor[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m) factor[m][0] = factor[m][1] = args.scale;
  store_rows<kDim>(dq, factor, q_tile + warp_row * kRow, args.dq, own, own.first + warp_row,
                   args.Sq, args.D);
}

// --- dK and dV -----------------------------------------------------------------------------------

// Scores are transposed here, keys by queries. Above a head dim of 128 the registers hold one of
// the two gradients: one launch computes dK, another dV.
template <int kPaddedDim, bool kWithDk, bool kWithDv>
struct KeyTiles {
  static constexpr int kDim = kPaddedDim;
  static constexpr bool kDk = kWithDk, kDv = kWithDv;
  static constexpr int kM = kDim <= 64 ? 2 : 1;  // blocks of 16 keys of a warp
  static constexpr int kWarps = kDim <= 128 ? 4 : 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlocksPerSm = kDim <= 128 ? 2 : 1;
  static constexpr int kKeys = 16 * kM * kWarps;
  static constexpr int kQueries = kDim == 96 || kDim == 128 ? 64 : 32;
  static constexpr int kSharedBytes = shared_bytes(2 * kKeys + 4 * kQueries, kDim) +
                                      4 * kQueries * static_cast<int>(sizeof(float));
};

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, Tiles::kBlocksPerSm)
    attention_dkdv_kernel(const BackwardArguments args) {
  constexpr int kDim = Tiles::kDim, kM = Tiles::kM, kKeys = Tiles::kKeys;
  constexpr int kQueries = Tiles::kQueries, kThreads = Tiles::kThreads;
  constexpr int kRow = shared_row(kDim), kN = kQueries / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  Bf16* const k_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* const v_tile = k_tile + kKeys * kRow;
  Bf16* const q_tiles = v_tile + kKeys * kRow;  // two of each
  Bf16* const do_tiles = q_tiles + 2 * kQueries * kRow;
  float* const lses = reinterpret_cast<float*>(do_tiles + 2 * kQueries * kRow);
  float* const deltas = lses + 2 * kQueries;

  const HeadTile tile = head_tile(args.Skv, kKeys, args.H);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int g = lane / 4, t = lane % 4;
  const int warp_row = thread / kWarp * 16 * kM;  // the warp's first key within the tile
  const int num_tiles = (args.Sq + kQueries - 1) / kQueries;
  const std::int64_t head = tile.rows_before(args.H, args.Sq);
  const auto start_statistics = [&](int i, int stage) {
    const int query = i * kQueries + thread;
    if (thread < kQueries) {
      lses[stage * kQueries + thread] = lse_log2(args.lse + head, query, args.Sq);
      deltas[stage * kQueries + thread] = query < args.Sq ? args.delta[head + query] : 0.0f;
    }
  };

  TileSource<2, kKeys, kDim, kThreads> keys({args.k, args.v}, tile, tile.first, args.Skv, args.D);
  TileSource<2, kQueries, kDim, kThreads> queries({args.q, args.d_o}, tile, 0, args.Sq, args.D);
  keys.start_next(k_tile, kKeys * kRow);
  queries.start_next(q_tiles, 2 * kQueries * kRow);
  copy_async_commit();
  start_statistics(0, 0);

  float offset[kM][2];  // of keys g and g + 8
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* const bias =
          args.key_bias != nullptr ? args.key_bias + tile.b * args.bias_stride : nullptr;
      offset[m][half] = key_offset(bias, tile.first + warp_row + m * 16 + half * 8 + g, args.Skv);
    }
  }
  const std::uint32_t k_at = shared_address(k_tile + warp_row * kRow) + lane_offset_rows<kDim>();
  const std::uint32_t v_at = k_at + shared_bytes(kKeys, kDim);
  const std::uint32_t q_at = shared_address(q_tiles);
  const std::uint32_t do_at = shared_address(do_tiles);
  // The one that is not wanted is never touched, and so takes no registers.
  float dk[kM][kDim / 8][4] = {}, dv[kM][kDim / 8][4] = {};

  for (int i = 0; i < num_tiles; ++i) {
    copy_async_wait<0>();
    __syncthreads();  // tile i is there, and everyone is done with the tile before it
    const int stage = i % 2, other = 1 - stage, stage_bytes = stage * shared_bytes(kQueries, kDim);
    if (i + 1 < num_tiles) {
      queries.start_next(q_tiles + other * kQueries * kRow, 2 * kQueries * kRow);
      start_statistics(i + 1, other);
    }
    copy_async_commit();

    float p[kM][kN][4];
    multiply_rows<kDim>(k_at, q_at + stage_bytes + lane_offset_columns<kDim>(), p);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 l = *reinterpret_cast<const float2*>(lses + stage * kQueries + n * 8 + 2 * t);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float score = fmaf(p[m][n][e], args.scale_log2, offset[m][e / 2]);
          p[m][n][e] = exp2_fast(score - (e % 2 == 0 ? l.x : l.y));
        }
      }
    }
    std::uint32_t fragments[kM][kN / 2][4];
    if constexpr (Tiles::kDv) {
      accumulators_as_a(p, fragments);
      multiply_add<kDim>(fragments, do_at + stage_bytes + lane_offset_rows<kDim>(), dv);
    }
    if constexpr (Tiles::kDk) {
      float dp[kM][kN][4];
      multiply_rows<kDim>(v_at, do_at + stage_bytes + lane_offset_columns<kDim>(), dp);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const float2 d =
            *reinterpret_cast<const float2*>(deltas + stage * kQueries + n * 8 + 2 * t);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
          for (int e = 0; e < 4; ++e) p[m][n][e] *= dp[m][n][e] - (e % 2 == 0 ? d.x : d.y);
        }
      }
      accumulators_as_a(p, fragments);
      multiply_add<kDim>(fragments, q_at + stage_bytes + lane_offset_rows<kDim>(), dk);
    }
  }
  copy_async_wait<0>();
  __syncthreads();  // K and V have landed, also where there are no queries: their tiles are reused

  const HeadTile own = head_tile(args.Skv, kKeys, args.H);
  const int first = own.first + warp_row;
  float factor[kM][2];
  if constexpr (Tiles::kDk) {
#pragma unroll
    for (int m = 0; m < kM; ++m) factor[m][0] = factor[m][1] = args.scale;
    store_rows<kDim>(dk, factor, k_tile + warp_row * kRow, args.dk, own, first, args.Skv, args.D);
  }
  if constexpr (Tiles::kDv) {
#pragma unroll
    for (int m = 0; m < kM; ++m) factor[m][0] = factor[m][1] = 1;
    store_rows<kDim>(dv, factor, v_tile + warp_row * kRow, args.dv, own, first, args.Skv, args.D);
  }
}

template <typename Tiles>
void launch_dkdv(const BackwardArguments& arguments, std::int64_t B, const Stream& stream) {
  const auto kernel = attention_dkdv_kernel<Tiles>;
  allow_shared_bytes(kernel, Tiles::kSharedBytes);
  kernel<<<num_head_tiles(B, arguments.H, arguments.Skv, Tiles::kKeys), Tiles::kThreads,
           Tiles::kSharedBytes, native(stream)>>>(arguments);
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void attention_backward_mma(const AttentionBackward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1);
  launch_delta<Bf16>(args.o, args.d_o, args.delta, stream);
  const BackwardArguments arguments{
      .q = heads_view<const Bf16>(args.q),
      .k = heads_view<const Bf16>(args.k),
      .v = heads_view<const Bf16>(args.v),
      .d_o = heads_view<const Bf16>(args.d_o),
      .dq = heads_view<Bf16>(args.dq),
      .dk = heads_view<Bf16>(args.dk),
      .dv = heads_view<Bf16>(args.dv),
      .key_bias = args.key_bias ? args.key_bias.f32() : nullptr,
      .lse = args.lse.f32(),
      .delta = args.delta.f32(),
      .bias_stride = args.key_bias ? args.key_bias.stride(0) : 0,
      .Sq = static_cast<int>(Sq),
      .Skv = static_cast<int>(Skv),
      .H = static_cast<int>(H),
      .D = static_cast<int>(D),
      .scale = args.scale,
      .scale_log2 = args.scale * kLog2E};
  with_padded_dim<32, 64, 96, 128, 192, 256>(D, [&](auto dim) {
    if (B * H * Sq > 0) {
      using Tiles = QueryTiles<dim()>;
      const auto kernel = attention_dq_kernel<Tiles>;
      allow_shared_bytes(kernel, Tiles::kSharedBytes);
      kernel<<<num_head_tiles(B, H, Sq, Tiles::kQueries), Tiles::kThreads, Tiles::kSharedBytes,
               native(stream)>>>(arguments);
      DSV_CUDA_LAUNCHED();
    }
    if (B * H * Skv == 0) return;
    if constexpr (dim() <= 128) {
      launch_dkdv<KeyTiles<dim(), true, true>>(arguments, B, stream);
    } else {
      launch_dkdv<KeyTiles<dim(), true, false>>(arguments, B, stream);
      launch_dkdv<KeyTiles<dim(), false, true>>(arguments, B, stream);
    }
  });
}

}  // namespace dsv::kernels::cuda
