// dQ of sparse attention on Hopper: dS, which the pass over keys has left in memory
// (backward_plan.cuh), times K. An item is a group of a head. One warpgroup copies K, and lets the
// copy engine bring dS, whose slices of a group follow each other; two others multiply, 64 queries
// each.
#include "sparse_attention/backward_plan.cuh"
#include "sparse_attention/selected_keys.cuh"

namespace dsv::kernels::cuda {
namespace {

constexpr int kTileKeys = 128;  // slots of eight selected blocks
constexpr int kTileSlices = kTileKeys / static_cast<int>(kMaxBlockKeys);
constexpr int kSlots = 3;
constexpr int kConsumers = 2;

struct TileNote {
  int row, last;  // row -1: no more items
};

template <int kDim>
struct DqShared {
  static constexpr int kBlockBytes = kTileKeys * kSwizzledRow;  // of 64 columns
  unsigned char k[kSlots][kDim / 64 * kBlockBytes];
  unsigned char ds[kSlots][kTileSlices * kConsumers * kSliceBytes];
  SelectedKeysStorage keys;
  TileNote notes[kSlots];
  int item;
  std::uint64_t full[kSlots], empty[kSlots];
};

struct CopyBarrier {
  __device__ void operator()() const { named_sync(1, kWarpgroup); }
};

__device__ inline int group_size(const SelectionView& selection, int g) {
  return selection.group_start[g + 1] - selection.group_start[g];
}

template <int kDim>
__device__ inline void copy_tiles(const BackwardArguments& args, int round,
                                  DqShared<kDim>& shared) {
  const SelectionView& selection = args.selection;
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = args.plan.cuts[round], end_row = args.plan.cuts[round + 1];
  RingPlace<kSlots> place;
  const auto wait_empty = [&] {
    barrier_wait(shared_address(&shared.empty[place.slot]), place.parity ^ 1);
  };
  int* const next_item = args.plan.next_item + 2 * round + 1;
  int upcoming = 0;
  if (thread == 0) upcoming = atomicAdd(next_item, 1);
  for (;;) {
    if (thread == 0) shared.item = upcoming;
    CopyBarrier{}();
    const int row = first_row + shared.item;
    CopyBarrier{}();
    if (row >= end_row) break;
    if (thread == 0) upcoming = atomicAdd(next_item, 1);
    const int head = row / selection.G, g = row % selection.G;
    const HeadTile at{head / args.H, head % args.H, 0};
    const int halves = num_halves(group_size(selection, g));
    const unsigned char* from =
        args.plan.slices +
        static_cast<std::int64_t>(args.plan.row_slices[row] - args.plan.row_slices[first_row]) *
            kSliceBytes;
    SelectedKeys<CopyBarrier, true> keys(selection, selection.row_of(head, g), thread, shared.keys,
                                         CopyBarrier{});
    for (bool more = true; more;) {
      const int num_slots = keys.template next_tile<kTileKeys>();
      more = keys.more();
      const int bytes = num_slots / static_cast<int>(kMaxBlockKeys) * halves * kSliceBytes;
      wait_empty();
      // Where a last tile has fewer blocks, the products are with zeros.
      for (int i = bytes + thread * 16; i < kTileSlices * halves * kSliceBytes;
           i += kWarpgroup * 16) {
        *reinterpret_cast<uint4*>(shared.ds[place.slot] + i) = make_uint4(0, 0, 0, 0);
      }
      if (thread == 0) {
        const std::uint32_t full = shared_address(&shared.full[place.slot]);
        shared.notes[place.slot] = {row, !more};
        barrier_arrive_expect(full, bytes);
        if (bytes > 0) bulk_load(shared_address(shared.ds[place.slot]), from, bytes, full);
        from += bytes;
      }
      start_gathered<kDim, kTileKeys, true>(
          args.k, at, thread, shared_address(shared.k[place.slot]), keys.positions(), num_slots);
      fence_async_proxy();  // the zeros, too
      barrier_arrive_when_copied(shared_address(&shared.full[place.slot]));
      place.advance();
    }
  }
  wait_empty();
  if (thread == 0) shared.notes[place.slot] = {-1, 1};
  announce(shared.full[place.slot], thread);
}

template <int kDim>
__device__ inline void sum_tiles(const BackwardArguments& args, DqShared<kDim>& shared) {
  const SelectionView& selection = args.selection;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int consumer = thread / kWarpgroup - 1;
  RingPlace<kSlots> place;
  for (;;) {
    float dq[kDim / 8][4] = {};
    TileNote note;
    do {
      wait_full(shared.full[place.slot], place.parity);
      note = shared.notes[place.slot];
      if (note.row < 0) return;
      // A second half that the group does not have is some other slice: its sums go nowhere.
      const int halves = num_halves(group_size(selection, note.row % selection.G));
      const std::uint32_t ds = shared_address(shared.ds[place.slot]) + consumer * kSliceBytes;
      const std::uint32_t k = shared_address(shared.k[place.slot]);
      const auto multiply = [&](int i) {
        wgmma_shared<1, 1>(wgmma_operand(ds + i * halves * kSliceBytes),
                           wgmma_operand(k + i * kSliceBytes, DqShared<kDim>::kBlockBytes), 1, dq);
      };
      // Memory sets the pace: products need not overlap from tile to tile.
      settle(dq);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kTileSlices; ++i) multiply(i);
      wgmma_commit();
      wgmma_wait<0>();
      settle(dq);
      if (lane == 0) barrier_arrive(shared_address(&shared.empty[place.slot]));
      place.advance();
    } while (!note.last);
    const int head = note.row / selection.G, g = note.row % selection.G;
    const int first = selection.group_start[g] + consumer * kHalf;
    const int end = selection.group_start[g + 1];
    store_warpgroup<kDim>(dq, {args.scale, args.scale}, args.dq, {head / args.H, head % args.H, 0},
                          [&](int r) { return first + r < end ? first + r : -1; });
  }
}

template <int kDim>
__global__ void __launch_bounds__(3 * kWarpgroup, 1)
    sparse_dq_wgmma_kernel(const __grid_constant__ BackwardArguments args, int round) {
  extern __shared__ __align__(1024) unsigned char bytes[];
  auto& shared = *reinterpret_cast<DqShared<kDim>*>(bytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots; ++i) {
      barrier_init(shared_address(&shared.full[i]), kCopyArrivals);
      barrier_init(shared_address(&shared.empty[i]), 4 * kConsumers);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    copy_tiles<kDim>(args, round, shared);
  } else {
    sum_tiles<kDim>(args, shared);
  }
}

template <int kDim>
void launch(const BackwardArguments& args, int round, int blocks, cudaStream_t stream) {
  const auto kernel = sparse_dq_wgmma_kernel<kDim>;
  constexpr int kBytes = static_cast<int>(sizeof(DqShared<kDim>));
  allow_shared_bytes(kernel, kBytes);
  kernel<<<blocks, 3 * kWarpgroup, kBytes, stream>>>(args, round);
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void launch_sparse_dq(const BackwardArguments& args, int D, int round, int blocks,
                      cudaStream_t stream) {
  D == 64 ? launch<64>(args, round, blocks, stream) : launch<128>(args, round, blocks, stream);
}

}  // namespace dsv::kernels::cuda
