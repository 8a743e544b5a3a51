// Sparse attention backward in bf16 on tensor cores, warp by warp, in passes of one writer each:
// delta; dQ, where a block has a tile of a group's queries and walks over the keys that the group
// has selected; dK and dV, where a block has a tile of keys and walks over the groups that have
// selected any of them, and masks the pairs that were not selected. The loops are those of
// attention/attention_mma_backward_cuda.cu.
#include "sparse_attention/gathered_tiles.cuh"
#include "sparse_attention/selected_keys.cuh"
#include "sparse_attention/selecting_groups.cuh"
#include "sparse_attention/sparse_attention_cuda.h"

namespace dsv::kernels::cuda {
namespace {

struct BackwardArguments {
  SelectionView selection;
  HeadsView<const Bf16> q, k, v, d_o;
  HeadsView<Bf16> dq, dk, dv;
  const float *lse, *delta;
  int Sq, num_slots, H, D;
  float scale, scale_log2;  // the latter: scores in units of log2 e, for exp2
};

// lse in units of log2 e, from which weights are exp2(score - lse): +inf, and so weights of 0, for
// rows without any key and for queries that only fill up a tile.
__device__ inline float lse_log2(const float* lse, int query, int end) {
  const float natural = query < end ? lse[query] : -INFINITY;
  return natural == -INFINITY ? INFINITY : natural * kLog2E;
}

// --- dQ ------------------------------------------------------------------------------------------

template <int kPaddedDim>
struct QueryTiles {
  static constexpr int kDim = kPaddedDim;
  static constexpr int kM = kDim <= 64 ? 2 : 1;  // blocks of 16 queries of a warp
  static constexpr int kWarps = kDim <= 64 ? 4 : 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlocksPerSm = kDim <= 64 ? 2 : 1;
  static constexpr int kQueries = 16 * kM * kWarps;
  static constexpr int kKeys = kDim <= 128 ? 64 : 32;
  static constexpr int kTileBytes = shared_bytes(2 * kQueries + 4 * kKeys, kDim);
  static constexpr int kSharedBytes = kTileBytes + static_cast<int>(sizeof(SelectedKeysStorage));
};

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, Tiles::kBlocksPerSm)
    sparse_dq_kernel(const __grid_constant__ BackwardArguments args) {
  constexpr int kDim = Tiles::kDim, kM = Tiles::kM, kKeys = Tiles::kKeys;
  constexpr int kQueries = Tiles::kQueries, kThreads = Tiles::kThreads;
  constexpr int kRow = shared_row(kDim), kN = kKeys / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  Bf16* const q_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* const do_tile = q_tile + kQueries * kRow;
  Bf16* const k_tiles = do_tile + kQueries * kRow;  // two of each
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
  gather_rows<2, kQueries, kDim, kThreads>(
      {args.q, args.d_o}, tile.at, args.D,
      [&](int r) { return tile.at.first + r < tile.end ? tile.at.first + r : -1; }, q_tile,
      kQueries * kRow);
  if (num_next > 0) start_keys(0);
  copy_async_commit();

  float lse[kM][2], delta[kM][2];  // of rows g and g + 8
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t head = tile.at.rows_before(args.H, args.Sq);
      const int query = tile.at.first + warp_row + m * 16 + half * 8 + g;
      lse[m][half] = lse_log2(args.lse + head, query, tile.end);
      delta[m][half] = query < tile.end ? args.delta[head + query] : 0.0f;
    }
  }
  const std::uint32_t q_at = shared_address(q_tile + warp_row * kRow) + lane_offset_rows<kDim>();
  const std::uint32_t do_at = q_at + shared_bytes(kQueries, kDim);
  const std::uint32_t k_at = shared_address(k_tiles);
  const std::uint32_t v_at = shared_address(v_tiles);
  float dq[kM][kDim / 8][4] = {};

  for (int stage = 0; num_next > 0; stage ^= 1) {
    const int num_keys = num_next, stage_bytes = stage * shared_bytes(kKeys, kDim);
    copy_async_wait<0>();
    __syncthreads();  // the tile is there, and everyone is done with the tile before it
    num_next = keys.template next_tile<kKeys>();
    if (num_next > 0) start_keys(1 - stage);
    copy_async_commit();

    float p[kM][kN][4];
    multiply_rows<kDim>(q_at, k_at + stage_bytes + lane_offset_columns<kDim>(), p);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const bool there = n * 8 + 2 * t + e % 2 < num_keys;
          const float weight = exp2_fast(fmaf(p[m][n][e], args.scale_log2, -lse[m][e / 2]));
          p[m][n][e] = there ? weight : 0.0f;
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

  const GroupTile own = group_tile(args.selection, kQueries, args.H);
  float factor[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m) factor[m][0] = factor[m][1] = args.scale;
  store_rows<kDim>(dq, factor, q_tile + warp_row * kRow, args.dq, own.at, own.at.first + warp_row,
                   own.end, args.D);
}

// --- dK and dV -----------------------------------------------------------------------------------

// Scores are transposed here, keys by queries. A tile is 64 slots (key_slot). Above a head dim of
// 128 the registers hold one of the two gradients: one launch computes dK, another dV.
template <int kPaddedDim, bool kWithDk, bool kWithDv>
struct KeyTiles {
  static constexpr int kDim = kPaddedDim;
  static constexpr bool kDk = kWithDk, kDv = kWithDv;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlocksPerSm = kDim <= 128 ? 2 : 1;
  static constexpr int kSlots = 16 * kWarps;
  static constexpr int kQueries = 32;
  static constexpr int kSharedBytes = shared_bytes(2 * kSlots + 4 * kQueries, kDim) +
                                      4 * kQueries * static_cast<int>(sizeof(float));
};

// A warp's sums for 16 slots, times `factor`, to the keys in these slots.
template <int kDim>
__device__ inline void store_slots(const float (&c)[1][kDim / 8][4], float factor,
                                   const HeadsView<Bf16>& to, const BackwardArguments& args,
                                   const HeadTile& at, int first_slot) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = key_slot(args.selection, first_slot + half * 8 + g).key;
    if (key < 0) continue;
    Bf16* const row = to.row_of(at.b, at.h, key);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = n * 8 + 2 * t + e;
        if (column < args.D) row[column] = from_f32<Bf16>(factor * c[0][n][2 * half + e]);
      }
    }
  }
}

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, Tiles::kBlocksPerSm)
    sparse_dkdv_kernel(const __grid_constant__ BackwardArguments args) {
  constexpr int kDim = Tiles::kDim, kSlots = Tiles::kSlots;
  constexpr int kQueries = Tiles::kQueries, kThreads = Tiles::kThreads;
  constexpr int kRow = shared_row(kDim), kN = kQueries / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  Bf16* const k_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* const v_tile = k_tile + kSlots * kRow;
  Bf16* const q_tiles = v_tile + kSlots * kRow;  // two of each
  Bf16* const do_tiles = q_tiles + 2 * kQueries * kRow;
  float* const lses = reinterpret_cast<float*>(do_tiles + 2 * kQueries * kRow);
  float* const deltas = lses + 2 * kQueries;

  const int tiles = (args.num_slots + kSlots - 1) / kSlots;
  const int head = static_cast<int>(blockIdx.x) / tiles;
  const int first_slot = static_cast<int>(blockIdx.x) % tiles * kSlots;
  const HeadTile at{head / args.H, head % args.H, 0};
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int g = lane / 4, t = lane % 4;
  const int warp_row = thread / kWarp * 16;  // the warp's first slot within the tile
  const std::int64_t rows = at.rows_before(args.H, args.Sq);

  int blocks[2];  // of slots g and g + 8
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const KeySlot slot = key_slot(args.selection, first_slot + warp_row + half * 8 + g);
    blocks[half] = slot.key < 0 ? -1 : slot.block;
  }
  SelectingGroups<kSlots, kQueries, 2> groups(args.selection, head, first_slot, blocks);
  bool more = groups.next();
  const auto start_queries = [&](int stage) {
    const int first = groups.first, end = groups.end;
    gather_rows<2, kQueries, kDim, kThreads>(
        {args.q, args.d_o}, at, args.D, [&](int r) { return first + r < end ? first + r : -1; },
        q_tiles + stage * kQueries * kRow, 2 * kQueries * kRow);
    if (thread < kQueries) {
      const int query = first + thread;
      lses[stage * kQueries + thread] = lse_log2(args.lse + rows, query, end);
      deltas[stage * kQueries + thread] = query < end ? args.delta[rows + query] : 0.0f;
    }
  };
  gather_rows<2, kSlots, kDim, kThreads>(
      {args.k, args.v}, at, args.D,
      [&](int r) { return key_slot(args.selection, first_slot + r).key; }, k_tile, kSlots * kRow);
  if (more) start_queries(0);
  copy_async_commit();

  const std::uint32_t k_at = shared_address(k_tile + warp_row * kRow) + lane_offset_rows<kDim>();
  const std::uint32_t v_at = k_at + shared_bytes(kSlots, kDim);
  const std::uint32_t q_at = shared_address(q_tiles);
  const std::uint32_t do_at = shared_address(do_tiles);
  // The one that is not wanted is never touched, and so takes no registers.
  float dk[1][kDim / 8][4] = {}, dv[1][kDim / 8][4] = {};

  for (int stage = 0; more; stage ^= 1) {
    const bool selected[2] = {groups.selected[0], groups.selected[1]};
    const int stage_bytes = stage * shared_bytes(kQueries, kDim);
    copy_async_wait<0>();
    __syncthreads();  // the tile is there, and everyone is done with the tile before it
    more = groups.next();
    if (more) start_queries(1 - stage);
    copy_async_commit();

    float p[1][kN][4];
    multiply_rows<kDim>(k_at, q_at + stage_bytes + lane_offset_columns<kDim>(), p);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 l = *reinterpret_cast<const float2*>(lses + stage * kQueries + n * 8 + 2 * t);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float weight =
            exp2_fast(fmaf(p[0][n][e], args.scale_log2, -(e % 2 == 0 ? l.x : l.y)));
        p[0][n][e] = selected[e / 2] ? weight : 0.0f;
      }
    }
    std::uint32_t fragments[1][kN / 2][4];
    if constexpr (Tiles::kDv) {
      accumulators_as_a(p, fragments);
      multiply_add<kDim>(fragments, do_at + stage_bytes + lane_offset_rows<kDim>(), dv);
    }
    if constexpr (Tiles::kDk) {
      float dp[1][kN][4];
      multiply_rows<kDim>(v_at, do_at + stage_bytes + lane_offset_columns<kDim>(), dp);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const float2 d =
            *reinterpret_cast<const float2*>(deltas + stage * kQueries + n * 8 + 2 * t);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float ds = p[0][n][e] * (dp[0][n][e] - (e % 2 == 0 ? d.x : d.y));
          p[0][n][e] = selected[e / 2] ? ds : 0.0f;  // not: 0 times what an unwanted key holds
        }
      }
      accumulators_as_a(p, fragments);
      multiply_add<kDim>(fragments, q_at + stage_bytes + lane_offset_rows<kDim>(), dk);
    }
  }
  copy_async_wait<0>();
  __syncthreads();  // K and V have landed, also where there are no queries: their tiles are reused

  if constexpr (Tiles::kDk) {
    store_slots<kDim>(dk, args.scale, args.dk, args, at, first_slot + warp_row);
  }
  if constexpr (Tiles::kDv) store_slots<kDim>(dv, 1, args.dv, args, at, first_slot + warp_row);
}

template <typename Tiles>
void launch_dkdv(const BackwardArguments& arguments, std::int64_t B, const Stream& stream) {
  const auto kernel = sparse_dkdv_kernel<Tiles>;
  allow_shared_bytes(kernel, Tiles::kSharedBytes);
  kernel<<<num_head_tiles(B, arguments.H, arguments.num_slots, Tiles::kSlots), Tiles::kThreads,
           Tiles::kSharedBytes, native(stream)>>>(arguments);
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void sparse_attention_backward_mma(const SparseAttentionBackward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  launch_delta<Bf16>(args.o, args.d_o, args.delta, stream);
  const SelectionView selection = selection_view(args);
  const BackwardArguments arguments{.selection = selection,
                                    .q = heads_view<const Bf16>(args.q),
                                    .k = heads_view<const Bf16>(args.k),
                                    .v = heads_view<const Bf16>(args.v),
                                    .d_o = heads_view<const Bf16>(args.d_o),
                                    .dq = heads_view<Bf16>(args.dq),
                                    .dk = heads_view<Bf16>(args.dk),
                                    .dv = heads_view<Bf16>(args.dv),
                                    .lse = args.lse.f32(),
                                    .delta = args.delta.f32(),
                                    .Sq = static_cast<int>(Sq),
                                    .num_slots = narrow<std::int32_t>(num_key_slots(selection)),
                                    .H = static_cast<int>(H),
                                    .D = static_cast<int>(D),
                                    .scale = args.scale,
                                    .scale_log2 = args.scale * kLog2E};
  with_padded_dim<32, 64, 96, 128, 192, 256>(D, [&](auto dim) {
    if (B * H * Sq > 0) {
      using Tiles = QueryTiles<dim()>;
      const auto kernel = sparse_dq_kernel<Tiles>;
      allow_shared_bytes(kernel, Tiles::kSharedBytes);
      kernel<<<num_group_tiles(B, H, selection.G, Tiles::kQueries), Tiles::kThreads,
               Tiles::kSharedBytes, native(stream)>>>(arguments);
      DSV_CUDA_LAUNCHED();
    }
    if (B * H * arguments.num_slots == 0) return;
    if constexpr (dim() <= 128) {
      launch_dkdv<KeyTiles<dim(), true, true>>(arguments, B, stream);
    } else {
      launch_dkdv<KeyTiles<dim(), true, false>>(arguments, B, stream);
      launch_dkdv<KeyTiles<dim(), false, true>>(arguments, B, stream);
    }
  });
}

}  // namespace dsv::kernels::cuda
