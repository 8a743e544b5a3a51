// dK, dV, and dS of sparse attention on Hopper. An item is a tile of four blocks of keys, 64 slots,
// and all groups of the round that have selected any of the four. One warpgroup copies halves of
// groups to shared memory; two others take them in turn, transposed: warp w of either has the 16
// slots of block w, so that an unselected block is a matter of whole warps. The two partial sums
// are added at the end of the item. dS goes to memory for the pass over queries
// (backward_plan.cuh).
#include "sparse_attention/backward_plan.cuh"

namespace dsv::kernels::cuda {
namespace {

constexpr int kTileKeys = 64;
constexpr int kRing = 2;  // slots of each consumer
constexpr int kConsumers = 2;

struct HalfNote {
  int blocks;           // bit w: the group has selected block w; -1: no more halves
  std::uint32_t slice;  // of the first selected block
  int stride;           // slices from block to block
};
struct ItemNote {
  int head, tile;  // head -1: no more items
};

template <int kDim>
struct DkdvShared {
  static constexpr int kBlockBytes = kTileKeys * kSwizzledRow;  // of 64 columns
  static constexpr int kTileBytes = kDim / 64 * kBlockBytes;
  struct Keys {
    unsigned char k[kTileBytes], v[kTileBytes];
  };
  struct Half {
    unsigned char q[kTileBytes], d_o[kTileBytes];
  };
  Keys keys[2];
  Half halves[kConsumers][kRing];
  unsigned char slices[kConsumers * 4][kSliceBytes];  // a warp's dS on its way to memory
  float lse[kConsumers][kRing][kHalf], delta[kConsumers][kRing][kHalf];
  HalfNote notes[kConsumers][kRing];
  ItemNote items[2];
  int item;
  std::uint64_t full[kConsumers][kRing], empty[kConsumers][kRing], keys_full[2], keys_empty[2];
};

struct CopyBarrier {
  __device__ void operator()() const { named_sync(1, kWarpgroup); }
};

template <int kDim>
__device__ inline void copy_halves(const BackwardArguments& args, int round,
                                   DkdvShared<kDim>& shared) {
  const SelectionView& selection = args.selection;
  const int tiles = selection.N / static_cast<int>(kTileBlocks);
  RingPlace<kRing> places[kConsumers];
  RingPlace<2> keys;
  // `consumer` is known at compile time where it is called, and so in which place.
  const auto wait_empty = [&](int consumer) {
    const RingPlace<kRing> place = consumer == 0 ? places[0] : places[1];
    barrier_wait(shared_address(&shared.empty[consumer][place.slot]), place.parity ^ 1);
    return place.slot;
  };
  const auto close = [&](int consumer, int slot) {
    announce(shared.full[consumer][slot], fresh_thread());
    consumer == 0 ? places[0].advance() : places[1].advance();
  };
  int upcoming = 0;
  if (threadIdx.x == 0) upcoming = atomicAdd(args.plan.next_item + 2 * round, 1);
  for (;;) {
    const int thread = fresh_thread();
    if (thread == 0) shared.item = upcoming;
    CopyBarrier{}();
    const int item = shared.item;
    CopyBarrier{}();
    const int first_row = args.plan.cuts[round], end_row = args.plan.cuts[round + 1];
    const int first_head = first_row / selection.G;
    const int num_items =
        first_row == end_row ? 0 : ((end_row - 1) / selection.G - first_head + 1) * tiles;
    barrier_wait(shared_address(&shared.keys_empty[keys.slot]), keys.parity ^ 1);
    if (item >= num_items) {
      if (thread == 0) shared.items[keys.slot] = {-1, 0};
      announce(shared.keys_full[keys.slot], thread);
      return;
    }
    if (thread == 0) upcoming = atomicAdd(args.plan.next_item + 2 * round, 1);
    const int item_head = first_head + item / tiles;
    const int tile = args.plan.order[static_cast<std::int64_t>(first_head) * tiles + item];
    const HeadTile at{item_head / args.H, item_head % args.H, 0};
    const int first_block_of_item = tile * static_cast<int>(kTileBlocks);

    if (thread == 0) shared.items[keys.slot] = {item_head, tile};
    const CopyShare<kDim, kTileKeys> share(thread);
    const std::uint32_t k_to = shared_address(shared.keys[keys.slot].k) + share.to;
    const std::uint32_t v_to = shared_address(shared.keys[keys.slot].v) + share.to;
#pragma unroll 1
    for (int r = 0; r < kTileKeys; r += share.kStep) {
      const int key = key_slot(selection, tile * kTileKeys + r + share.row).key;
      const bool there = key >= 0;
      copy_async_16(k_to + r * kSwizzledRow, args.k.row_of(at.b, at.h, max(key, 0)) + share.column,
                    there);
      copy_async_16(v_to + r * kSwizzledRow, args.v.row_of(at.b, at.h, max(key, 0)) + share.column,
                    there);
    }
    announce(shared.keys_full[keys.slot], thread);
    keys.advance();

    const std::int64_t queries = at.rows_before(args.H, args.Sq);
    const int first_group = max(first_row - item_head * selection.G, 0);
    const int end_group = min(end_row - item_head * selection.G, selection.G);
    int consumer = 0;
    for (int w = first_group / 32; w * 32 < end_group; ++w) {
      // Lane i finds out about group 32 w + i; then the groups' turns come.
      const int head = fresh(item_head), first_block = fresh(first_block_of_item);
      const int word_of_tile = first_block / 32, bit_of_tile = first_block % 32;
      const int g = w * 32 + fresh_thread() % kWarp;
      int blocks = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        blocks |= static_cast<int>(selection.column_of(head, first_block + i)[w] >> g % 32 & 1)
                  << i;
      }
      if (g < first_group || g >= end_group) blocks = 0;
      int first = 0, count = 0;
      std::uint32_t slice = 0;
      if (blocks != 0) {
        first = selection.group_start[g];
        count = selection.group_start[g + 1] - first;
        const int row = head * selection.G + g;
        const std::uint32_t bits = selection.row_of(head, g)[word_of_tile];
        slice = args.plan.row_slices[row] - args.plan.row_slices[args.plan.cuts[round]] +
                (args.plan.before[static_cast<std::int64_t>(row) * selection.W + word_of_tile] +
                 __popc(bits & ((1u << bit_of_tile) - 1))) *
                    num_halves(count);
      }
      for (std::uint32_t left = __ballot_sync(0xffffffffu, blocks != 0); left != 0;
           left &= left - 1) {
        const int from = __ffs(static_cast<int>(left)) - 1;
        const int group_first = __shfl_sync(0xffffffffu, first, from);
        const int group_count = __shfl_sync(0xffffffffu, count, from);
        const int group_blocks = __shfl_sync(0xffffffffu, blocks, from);
        const std::uint32_t group_slice = __shfl_sync(0xffffffffu, slice, from);
        for (int half = 0; half * kHalf < group_count; ++half) {
          const int slot = wait_empty(consumer), thread = fresh_thread();
          const int begin = group_first + half * kHalf, size = group_count - half * kHalf;
          auto& to = shared.halves[consumer][slot];
          start_range<kDim, kHalf>(args.q, at, thread, shared_address(to.q), begin, size);
          start_range<kDim, kHalf>(args.d_o, at, thread, shared_address(to.d_o), begin, size);
          const int query = thread % kHalf;
          const bool there = query < size;
          const float* const statistic = thread < kHalf ? args.plan.lse : args.delta;
          copy_async_4(shared_address(thread < kHalf ? &shared.lse[consumer][slot][query]
                                                     : &shared.delta[consumer][slot][query]),
                       statistic + queries + (there ? begin + query : 0), there);
          if (thread == 0) {
            shared.notes[consumer][slot] = {group_blocks, group_slice + half,
                                            num_halves(group_count)};
          }
          close(consumer, slot);
          consumer ^= 1;
        }
      }
    }
    for (int i = 0; i < kConsumers; ++i) {
      const int slot = wait_empty(i);
      if (thread == 0) shared.notes[i][slot] = {-1, 0, 0};
      close(i, slot);
    }
  }
}

// A warp's dS of its block and a half, if the group has selected the block, on its way to memory.
template <int kDim>
__device__ inline void store_slice(const BackwardArguments& args, DkdvShared<kDim>& shared,
                                   int slot, const std::uint32_t (&ds)[kHalf / 16][4]) {
  const int lane = fresh_thread() % kWarp, warp = fresh_thread() / kWarp - 4;
  const HalfNote note = shared.notes[warp / 4][slot];
  if ((note.blocks >> warp % 4 & 1) == 0) return;
  const std::uint32_t slice = shared_address(shared.slices[warp]);
  if (lane == 0) bulk_wait_read<0>();
  __syncwarp();
#pragma unroll
  for (int k = 0; k < kHalf / 16; ++k) {
    store_matrices(slice + swizzled(lane / 8 % 2 * 8 + lane % 8, 2 * k + lane / 16), ds[k]);
  }
  fence_async_proxy();
  __syncwarp();
  if (lane == 0) {
    const int before = __popc(note.blocks & ((1 << warp % 4) - 1));
    const std::int64_t number = note.slice + static_cast<std::int64_t>(before) * note.stride;
    bulk_store(args.plan.slices + number * kSliceBytes, slice, kSliceBytes);
    bulk_commit();
  }
}

// A half: the sums go up, dS goes to memory.
template <int kDim>
__device__ inline void add_half(const BackwardArguments& args, DkdvShared<kDim>& shared, int slot,
                                int keys_slot, int valid, float (&dk)[kDim / 8][4],
                                float (&dv)[kDim / 8][4]) {
  constexpr int kBlockBytes = DkdvShared<kDim>::kBlockBytes, kN = kHalf / 8;
  const int thread = fresh_thread(), lane = thread % kWarp, t = lane % 4;
  const int consumer = thread / kWarpgroup - 1, warp = thread / kWarp % 4;
  const std::uint32_t k_at = shared_address(shared.keys[keys_slot].k);
  const std::uint32_t v_at = k_at + DkdvShared<kDim>::kTileBytes;
  const std::uint32_t q_at = shared_address(shared.halves[consumer][slot].q);
  const std::uint32_t do_at = q_at + DkdvShared<kDim>::kTileBytes;
  // The products begin at what is to be subtracted from them, so that it takes no registers later:
  // scores at -lse (in units of an unscaled score), dP at -delta.
  float p[kN][4], dp[kN][4];
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    const float2 lse = *reinterpret_cast<const float2*>(&shared.lse[consumer][slot][n * 8 + 2 * t]);
    const float2 delta =
        *reinterpret_cast<const float2*>(&shared.delta[consumer][slot][n * 8 + 2 * t]);
    p[n][0] = p[n][2] = -lse.x, p[n][1] = p[n][3] = -lse.y;
    dp[n][0] = dp[n][2] = -delta.x, dp[n][1] = dp[n][3] = -delta.y;
  }
  settle(p);
  settle(dp);
  wgmma_fence();
  start_multiply_rows<kDim>(k_at, kBlockBytes, q_at, kBlockBytes, 1, p);
  wgmma_commit();
  start_multiply_rows<kDim>(v_at, kBlockBytes, do_at, kBlockBytes, 1, dp);
  wgmma_commit();
  wgmma_wait<1>();
  const bool selected = (shared.notes[consumer][slot].blocks >> warp & 1) != 0;
  const bool on[2] = {selected && (valid & 1) != 0, selected && (valid & 2) != 0};
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float weight = exp2_fast(p[n][e] * args.scale_log2);
      p[n][e] = on[e / 2] ? weight : 0.0f;
    }
  }
  wgmma_wait<0>();
  // Both at once: what goes into the last two products takes half the registers of what it is made
  // of.
  std::uint32_t weights[kN / 2][4], ds[kN / 2][4];
#pragma unroll
  for (int n = 0; n < kN; n += 2) {
    accumulators_as_a(p[n], p[n + 1], weights[n / 2]);
#pragma unroll
    for (int e = 0; e < 8; ++e) p[n + e / 4][e % 4] *= dp[n + e / 4][e % 4];
    accumulators_as_a(p[n], p[n + 1], ds[n / 2]);
  }
  wgmma_fence();
  start_multiply_add(weights, do_at, kBlockBytes, 1, dv);
  start_multiply_add(ds, q_at, kBlockBytes, 1, dk);
  wgmma_commit();
  store_slice<kDim>(args, shared, slot, ds);
  wgmma_wait<0>();
}

// Slots of a warp's block, of the tile that a consumer has.
struct BlockOfTile {
  int first, size;
  __device__ BlockOfTile(const SelectionView& selection, int tile, int warp) {
    const int* const start = selection.block_start + tile * static_cast<int>(kTileBlocks) + warp;
    first = start[0];
    size = start[1] - first;
  }
};

// The sums of an item: the first warpgroup gets all of dV and stores it, the second all of dK,
// through the memory of the item's keys. Of a head that cuts divide, each round adds to what the
// one before left.
template <int kDim>
__device__ inline void finish_item(const BackwardArguments& args, int round,
                                   DkdvShared<kDim>& shared, int keys_slot,
                                   float (&dk)[kDim / 8][4], float (&dv)[kDim / 8][4]) {
  constexpr int kSums = kDim / 8 * 4;
  const SelectionView& selection = args.selection;
  const int thread = fresh_thread() % kWarpgroup;
  const int consumer = fresh_thread() / kWarpgroup - 1;
  const ItemNote item = shared.items[keys_slot];
  float* const exchange = reinterpret_cast<float*>(shared.keys[keys_slot].k) + thread;
  const auto both = [] { named_sync(2, kConsumers * kWarpgroup); };
  const auto give = [&](const float(&sums)[kDim / 8][4]) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) exchange[i * kWarpgroup] = sums[i / 4][i % 4];
  };
  const auto take = [&](float(&sums)[kDim / 8][4]) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i / 4][i % 4] += exchange[i * kWarpgroup];
  };
  both();
  if (consumer == 1) give(dv);
  both();
  if (consumer == 0) take(dv);
  both();
  if (consumer == 0) give(dk);
  both();
  if (consumer == 1) take(dk);
  __syncwarp();
  if (thread % kWarp == 0) barrier_arrive(shared_address(&shared.keys_empty[keys_slot]));
  if (consumer == 1) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) dv[i / 4][i % 4] = dk[i / 4][i % 4];
  }

  const int first_row = item.head * selection.G, end_row = first_row + selection.G;
  const auto carry = [&](int odd) {
    const std::int64_t tiles = selection.N / kTileBlocks;
    return args.plan.carry + ((odd * tiles + item.tile) * 2 + consumer) * (kTileKeys * kDim) +
           thread;
  };
  if (args.plan.cuts[round] > first_row) {
    const float* const from = carry((round & 1) ^ 1);
#pragma unroll
    for (int i = 0; i < kSums; ++i) dv[i / 4][i % 4] += from[i * kWarpgroup];
  }
  if (args.plan.cuts[round + 1] < end_row) {
    float* const to = carry(round & 1);
#pragma unroll
    for (int i = 0; i < kSums; ++i) to[i * kWarpgroup] = dv[i / 4][i % 4];
    return;
  }
  const HeadTile at{item.head / args.H, item.head % args.H, 0};
  const float factor = consumer == 0 ? 1 : args.scale;
  const BlockOfTile block(selection, item.tile, thread / kWarp);
  store_warpgroup<kDim>(dv, {factor, factor}, consumer == 0 ? args.dv : args.dk, at,
                        [&](int r) { return r % 16 < block.size ? block.first + r % 16 : -1; });
}

template <int kDim>
__device__ inline void sum_halves(const BackwardArguments& args, int round,
                                  DkdvShared<kDim>& shared) {
  // Items and halves are counted; both rings have two slots.
  static_assert(kRing == 2);
  for (int items = 0, halves = 0;; ++items) {
    wait_full(shared.keys_full[items % 2], items / 2 % 2);
    if (shared.items[items % 2].head < 0) break;
    // A bit for each of the slots g and g + 8 of the warp's block: whether it has a key.
    const int warp = fresh_thread() / kWarp % 4, row = fresh_thread() % kWarp / 4;
    const int size = BlockOfTile(args.selection, shared.items[items % 2].tile, warp).size;
    const int valid = (row < size ? 1 : 0) | (row + 8 < size ? 2 : 0);
    float dk[kDim / 8][4] = {}, dv[kDim / 8][4] = {};
    int wanted = 0;  // bit w: some group has selected block w
    for (bool done = false; !done; ++halves) {
      const int consumer = fresh_thread() / kWarpgroup - 1, slot = halves % 2;
      wait_full(shared.full[consumer][slot], halves / 2 % 2);
      const int blocks = shared.notes[consumer][slot].blocks;
      done = blocks < 0;
      if (!done) wanted |= blocks;
      if (!done) add_half<kDim>(args, shared, slot, items % 2, valid, dk, dv);
      if (fresh_thread() % kWarp == 0) {
        barrier_arrive(shared_address(&shared.empty[fresh_thread() / kWarpgroup - 1][slot]));
      }
    }
    // Weights of 0 times what the keys of an unwanted block hold may be anything.
    if ((wanted >> (fresh_thread() / kWarp % 4) & 1) == 0) {
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) dk[n][e] = dv[n][e] = 0;
      }
    }
    finish_item<kDim>(args, round, shared, items % 2, dk, dv);
  }
  if (fresh_thread() % kWarp == 0) bulk_wait<0>();
}

template <int kDim>
__global__ void __launch_bounds__(3 * kWarpgroup, 1)
    sparse_dkdv_wgmma_kernel(const __grid_constant__ BackwardArguments args, int round) {
  extern __shared__ __align__(1024) unsigned char bytes[];
  auto& shared = *reinterpret_cast<DkdvShared<kDim>*>(bytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kConsumers; ++i) {
      for (int j = 0; j < kRing; ++j) {
        barrier_init(shared_address(&shared.full[i][j]), kCopyArrivals);
        barrier_init(shared_address(&shared.empty[i][j]), 4);
      }
    }
    for (int j = 0; j < 2; ++j) {
      barrier_init(shared_address(&shared.keys_full[j]), kCopyArrivals);
      barrier_init(shared_address(&shared.keys_empty[j]), 4 * kConsumers);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<56>();
    copy_halves<kDim>(args, round, shared);
  } else {
    take_registers<224>();
    sum_halves<kDim>(args, round, shared);
  }
}

template <int kDim>
void launch(const BackwardArguments& args, int round, int blocks, cudaStream_t stream) {
  const auto kernel = sparse_dkdv_wgmma_kernel<kDim>;
  constexpr int kBytes = static_cast<int>(sizeof(DkdvShared<kDim>));
  allow_shared_bytes(kernel, kBytes);
  kernel<<<blocks, 3 * kWarpgroup, kBytes, stream>>>(args, round);
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void launch_sparse_dkdv(const BackwardArguments& args, int D, int round, int blocks,
                        cudaStream_t stream) {
  D == 64 ? launch<64>(args, round, blocks, stream) : launch<128>(args, round, blocks, stream);
}

}  // namespace dsv::kernels::cuda
