// Sparse attention forward in bf16 on tensor cores, warp by warp: the loop of
// attention/attention_mma_cuda.cu over the keys that a group has selected, packed into whole tiles.
#include "sparse_attention/gathered_tiles.cuh"
#include "sparse_attention/selected_keys.cuh"
#include "sparse_attention/sparse_attention_cuda.h"

namespace dsv::kernels::cuda {
namespace {

struct ForwardArguments {
  SelectionView selection;
  HeadsView<const Bf16> q, k, v;
  HeadsView<Bf16> o;
  float* lse;
  int Sq, H, D;
  float scale_log2;  // scores in units of log2 e, for exp2
};

template <int kPaddedDim>
struct ForwardTiles {
  static constexpr int kDim = kPaddedDim;
  static constexpr int kM = kDim <= 64 ? 2 : 1;  // blocks of 16 queries of a warp
  static constexpr int kWarps = kDim <= 64 ? 4 : 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlocksPerSm = kDim <= 64 ? 2 : 1;
  static constexpr int kQueries = 16 * kM * kWarps;
  static constexpr int kKeys = 64;
  static constexpr int kTileBytes = shared_bytes(kQueries + 4 * kKeys, kDim);
  static constexpr int kSharedBytes = kTileBytes + static_cast<int>(sizeof(SelectedKeysStorage));
};

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, Tiles::kBlocksPerSm)
    sparse_forward_kernel(const __grid_constant__ ForwardArguments args) {
  constexpr int kDim = Tiles::kDim, kM = Tiles::kM, kKeys = Tiles::kKeys;
  constexpr int kQueries = Tiles::kQueries, kThreads = Tiles::kThreads;
  constexpr int kRow = shared_row(kDim), kN = kKeys / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  Bf16* const q_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* const k_tiles = q_tile + kQueries * kRow;  // two of each
  Bf16* const v_tiles = k_tiles + 2 * kKeys * kRow;
  auto& storage = *reinterpret_cast<SelectedKeysStorage*>(shared + Tiles::kTileBytes);

  const GroupTile tile = group_tile(args.selection, kQueries, args.H);
  if (tile.at.first >= tile.end) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int g = lane / 4, t = lane % 4;
  const int warp_row = thread / kWarp * 16 * kM;  // the warp's first query within the tile

  SelectedKeys keys(args.selection, args.selection.row_of(tile.head, tile.g), thread, storage,
                    BlockBarrier{});
  int num_next = keys.template next_tile<kKeys>();
  const auto start_keys = [&](int stage) {
    gather_rows<2, kKeys, kDim, kThreads>(
        {args.k, args.v}, tile.at, args.D,
        [&](int r) { return r < num_next ? keys.position(r) : -1; }, k_tiles + stage * kKeys * kRow,
        2 * kKeys * kRow);
  };
  gather_rows<1, kQueries, kDim, kThreads>(
      {args.q}, tile.at, args.D,
      [&](int r) { return tile.at.first + r < tile.end ? tile.at.first + r : -1; }, q_tile, 0);
  if (num_next > 0) start_keys(0);
  copy_async_commit();

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

  for (int stage = 0; num_next > 0; stage ^= 1) {
    const int num_keys = num_next, stage_bytes = stage * shared_bytes(kKeys, kDim);
    copy_async_wait<0>();
    __syncthreads();  // the tile is there, and everyone is done with the tile before it
    num_next = keys.template next_tile<kKeys>();
    if (num_next > 0) start_keys(1 - stage);
    copy_async_commit();

    float s[kM][kN][4];
    multiply_rows<kDim>(q_at, k_at + stage_bytes, s);
    float top[kM][2];
#pragma unroll
    for (int m = 0; m < kM; ++m) top[m][0] = max[m][0], top[m][1] = max[m][1];
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const bool there = n * 8 + 2 * t + e % 2 < num_keys;
          s[m][n][e] = there ? s[m][n][e] * args.scale_log2 : -INFINITY;
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

  const GroupTile own = group_tile(args.selection, kQueries, args.H);
  const int first = own.at.first + warp_row;
  float* const lse = args.lse + own.at.rows_before(args.H, args.Sq);
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
      if (t == 0 && row < own.end) {
        lse[row] = none ? -INFINITY : (max[m][half] + log2f(total)) * kLn2;
      }
    }
  }
  store_rows<kDim>(o, inverse, q_tile + warp_row * kRow, args.o, own.at, first, own.end, args.D);
}

}  // namespace

void sparse_attention_forward_mma(const SparseAttentionForward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  if (B * H * Sq == 0) return;
  const ForwardArguments arguments{.selection = selection_view(args),
                                   .q = heads_view<const Bf16>(args.q),
                                   .k = heads_view<const Bf16>(args.k),
                                   .v = heads_view<const Bf16>(args.v),
                                   .o = heads_view<Bf16>(args.o),
                                   .lse = args.lse.f32(),
                                   .Sq = static_cast<int>(Sq),
                                   .H = static_cast<int>(H),
                                   .D = static_cast<int>(D),
                                   .scale_log2 = args.scale * kLog2E};
  with_padded_dim<32, 64, 96, 128, 192, 256>(D, [&](auto dim) {
    using Tiles = ForwardTiles<dim()>;
    const auto kernel = sparse_forward_kernel<Tiles>;
    allow_shared_bytes(kernel, Tiles::kSharedBytes);
    kernel<<<num_group_tiles(B, H, arguments.selection.G, Tiles::kQueries), Tiles::kThreads,
             Tiles::kSharedBytes, native(stream)>>>(arguments);
    DSV_CUDA_LAUNCHED();
  });
}

}  // namespace dsv::kernels::cuda
