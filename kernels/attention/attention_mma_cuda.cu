// Attention forward in bf16 on tensor cores. A block has a tile of queries and walks over all keys;
// each of its warps has kM times 16 queries to itself. Scores, maxima, sums, and outputs stay in
// registers (f32); K and V come through shared memory, the next tile while this one is worked on.
// Source: FlashAttention-2 (Dao, arXiv 2307.08691).
#include "attention/attention_cuda.h"
#include "attention/attention_tiles.cuh"

namespace dsv::kernels::cuda {
namespace {

struct ForwardArguments {
  HeadsView<const Bf16> q, k, v;
  HeadsView<Bf16> o;
  const float* key_bias;  // null: none
  float* lse;
  std::int64_t bias_stride;
  int Sq, Skv, H, D;
  float scale_log2;  // scores in units of log2 e, for exp2
};

// kM: two blocks of 16 queries share every fragment of K and V that a warp loads; above a head dim
// of 128 the registers hold the outputs of one block only. kKeys: as many as spill nothing.
template <int kPaddedDim>
struct ForwardTiles {
  static constexpr int kDim = kPaddedDim;
  static constexpr int kM = kDim <= 128 ? 2 : 1;
  static constexpr int kWarps = kDim <= 128 ? 4 : 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlocksPerSm = kDim <= 128 ? 2 : 1;
  static constexpr int kQueries = 16 * kM * kWarps;
  static constexpr int kKeys = kDim == 128 ? 48 : 64;
  static constexpr int kSharedBytes =
      shared_bytes(kQueries + 4 * kKeys, kDim) + 2 * kKeys * static_cast<int>(sizeof(float));
};

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, Tiles::kBlocksPerSm)
    attention_forward_kernel(const ForwardArguments args) {
  constexpr int kDim = Tiles::kDim, kM = Tiles::kM, kKeys = Tiles::kKeys;
  constexpr int kQueries = Tiles::kQueries, kThreads = Tiles::kThreads;
  constexpr int kRow = shared_row(kDim), kN = kKeys / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  Bf16* const q_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* const k_tiles = q_tile + kQueries * kRow;  // two of each
  Bf16* const v_tiles = k_tiles + 2 * kKeys * kRow;
  float* const offsets = reinterpret_cast<float*>(v_tiles + 2 * kKeys * kRow);

  const HeadTile tile = head_tile(args.Sq, kQueries, args.H);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int g = lane / 4, t = lane % 4;
  const int warp_row = thread / kWarp * 16 * kM;  // the warp's first query within the tile
  const float* const bias =
      args.key_bias != nullptr ? args.key_bias + tile.b * args.bias_stride : nullptr;
  const int num_tiles = (args.Skv + kKeys - 1) / kKeys;

  TileSource<1, kQueries, kDim, kThreads> queries({args.q}, tile, tile.first, args.Sq, args.D);
  TileSource<2, kKeys, kDim, kThreads> keys({args.k, args.v}, tile, 0, args.Skv, args.D);
  queries.start_next(q_tile, 0);
  keys.start_next(k_tiles, 2 * kKeys * kRow);
  copy_async_commit();
  if (thread < kKeys) offsets[thread] = key_offset(bias, thread, args.Skv);

  const std::uint32_t q_at = shared_address(q_tile + warp_row * kRow) + lane_offset_rows<kDim>();
  const std::uint32_t k_at = shared_address(k_tiles) + lane_offset_columns<kDim>();
  const std::uint32_t v_at = shared_address(v_tiles) + lane_offset_rows<kDim>();
  float o[kM][kDim / 8][4] = {};
  float max[kM][2], sum[kM][2];  // of rows g and g + 8; the sum is this lane's share
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    max[m][0] = max[m][1] = kLowest;
    sum[m][0] = sum[m][1] = 0;
  }

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

    float s[kM][kN][4];
    multiply_rows<kDim>(q_at, k_at + stage_bytes, s);
    float top[kM][2];
#pragma unroll
    for (int m = 0; m < kM; ++m) top[m][0] = max[m][0], top[m][1] = max[m][1];
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 offset =
          *reinterpret_cast<const float2*>(offsets + stage * kKeys + n * 8 + 2 * t);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          s[m][n][e] = fmaf(s[m][n][e], args.scale_log2, e % 2 == 0 ? offset.x : offset.y);
          top[m][e / 2] = fmaxf(top[m][e / 2], s[m][n][e]);
        }
      }
    }

    float keep[kM][2];
    bool risen = false;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& most = top[m][half];
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        keep[m][half] = exp2_fast(max[m][half] - most);
        risen |= most != max[m][half];
        max[m][half] = most;
        sum[m][half] *= keep[m][half];
      }
    }
    // After the first tiles maxima rarely rise, and every factor is 1.
    if (__any_sync(0xffffffffu, risen)) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) o[m][n][e] *= keep[m][e / 2];
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      std::uint32_t p[kM][1][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          float& weight = s[m][n + e / 4][e % 4];
          weight = exp2_fast(weight - max[m][e % 4 / 2]);
          sum[m][e % 4 / 2] += weight;
        }
        accumulators_as_a(s[m][n], s[m][n + 1], p[m][0]);
      }
      multiply_add<kDim>(p, v_at + stage_bytes + n * 8 * 2 * kRow, o);
    }
  }
  copy_async_wait<0>();
  __syncthreads();  // Q has landed, also where there are no keys: its tile becomes the output's

  const HeadTile own = head_tile(args.Sq, kQueries, args.H);
  const int first = own.first + warp_row;
  float* const lse = args.lse + own.rows_before(args.H, args.Sq);
  float inverse[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[m][half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const bool none = total == 0;  // not: NaN
      inverse[m][half] = none ? 0.0f : 1.0f / total;
      const int row = first + m * 16 + half * 8 + g;
      if (t == 0 && row < args.Sq) {
        lse[row] = none ? -INFINITY : (max[m][half] + log2f(total)) * kLn2;
      }
    }
  }
  store_rows<kDim>(o, inverse, q_tile + warp_row * kRow, args.o, own, first, args.Sq, args.D);
}

}  // namespace

void attention_forward_mma(const AttentionForward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  if (B * H * Sq == 0) return;
  const ForwardArguments arguments{
      .q = heads_view<const Bf16>(args.q),
      .k = heads_view<const Bf16>(args.k),
      .v = heads_view<const Bf16>(args.v),
      .o = heads_view<Bf16>(args.o),
      .key_bias = args.key_bias ? args.key_bias.f32() : nullptr,
      .lse = args.lse.f32(),
      .bias_stride = args.key_bias ? args.key_bias.stride(0) : 0,
      .Sq = static_cast<int>(Sq),
      .Skv = static_cast<int>(args.k.dim(1)),
      .H = static_cast<int>(H),
      .D = static_cast<int>(D),
      .scale_log2 = args.scale * kLog2E};
  with_padded_dim<32, 64, 96, 128, 192, 256>(D, [&](auto dim) {
    using Tiles = ForwardTiles<dim()>;
    const auto kernel = attention_forward_kernel<Tiles>;
    allow_shared_bytes(kernel, Tiles::kSharedBytes);
    kernel<<<num_head_tiles(B, H, Sq, Tiles::kQueries), Tiles::kThreads, Tiles::kSharedBytes,
             native(stream)>>>(arguments);
    DSV_CUDA_LAUNCHED();
  });
}

}  // namespace dsv::kernels::cuda
