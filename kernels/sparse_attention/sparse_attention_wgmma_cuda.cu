// Sparse attention forward on Hopper, bf16: blocks of three warpgroups, of which one decodes the
// group's bits and copies rows of Q, K, and V to shared memory while the two others multiply, 64
// queries each. Blocks stay, and take a group after the other. Products of a tile of keys overlap
// with the softmax of the one before, in each warpgroup and between the two.
// Source: FlashAttention-3 (Shah et al., arXiv 2407.08608) for the schedule of the products.
#include "sparse_attention/pipeline.cuh"
#include "sparse_attention/selected_keys.cuh"
#include "sparse_attention/sparse_attention_cuda.h"

namespace dsv::kernels::cuda {
namespace {

struct ForwardArguments {
  SelectionView selection;
  HeadsView<const Bf16> q, k, v;
  HeadsView<Bf16> o;
  float* lse;
  int* next_item;  // 0 at the start
  int num_items, Sq, H;
  float scale_log2;  // scores in units of log2 e, for exp2
};

// Groups of up to 64 queries have smaller blocks, two to a multiprocessor.
template <int kHeadDim, int kNumConsumers>
struct ForwardShape {
  static constexpr int kDim = kHeadDim, kConsumers = kNumConsumers;
  static constexpr int kQueries = 64 * kConsumers, kKeys = 64 * kConsumers;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  static constexpr int kBlocksPerSm = kConsumers == 1 ? 2 : 1;
  static constexpr int kCopyRegisters = kConsumers == 1 ? 40 : 56;
  static constexpr int kRegisters = kConsumers == 1 ? 216 : 224;
  static constexpr int kSlots = 5;
  static constexpr int kBlockBytes = kKeys * kSwizzledRow;  // of 64 columns, of Q and of a slot
  static constexpr int kSlotBytes = kDim / 64 * kBlockBytes;
};

// What a slot with keys says of them: group (`item`), how many, and whether they are its last.
struct SlotNote {
  int item, num_keys, last;
};

template <typename Shape>
struct ForwardShared {
  unsigned char q[Shape::kSlotBytes];
  unsigned char slots[Shape::kSlots][Shape::kSlotBytes];
  SelectedKeysStorage keys;
  SlotNote notes[Shape::kSlots];
  int item;
  std::uint64_t full[Shape::kSlots], empty[Shape::kSlots], q_full, q_empty;
};

struct CopyBarrier {
  __device__ void operator()() const { named_sync(1, kWarpgroup); }
};

template <typename Shape>
__device__ inline void copy_tiles(const ForwardArguments& args, ForwardShared<Shape>& shared) {
  constexpr int kDim = Shape::kDim, kKeys = Shape::kKeys;
  const int thread = static_cast<int>(threadIdx.x);
  RingPlace<Shape::kSlots> place;
  const auto close = [&] {
    announce(shared.full[place.slot], thread);
    place.advance();
  };
  const auto wait_empty = [&] {
    barrier_wait(shared_address(&shared.empty[place.slot]), place.parity ^ 1);
  };
  int upcoming = 0;  // of thread 0: asked for one item ahead of its use
  if (thread == 0) upcoming = atomicAdd(args.next_item, 1);
  for (int q_parity = 1;;) {
    if (thread == 0) shared.item = upcoming;
    CopyBarrier{}();
    const int item = shared.item;
    CopyBarrier{}();
    if (item >= args.num_items) break;
    if (thread == 0) upcoming = atomicAdd(args.next_item, 1);
    const GroupTile tile = group_tile(args.selection, item, Shape::kQueries, args.H);
    if (tile.at.first >= tile.end) continue;
    SelectedKeys keys(args.selection, args.selection.row_of(tile.head, tile.g), thread, shared.keys,
                      CopyBarrier{});
    barrier_wait(shared_address(&shared.q_empty), q_parity);
    q_parity ^= 1;
    start_range<kDim, Shape::kQueries>(args.q, tile.at, thread, shared_address(shared.q),
                                       tile.at.first, tile.end - tile.at.first);
    announce(shared.q_full, thread);
    bool more = true;
    while (more) {
      const int num_keys = keys.template next_tile<kKeys>();
      more = keys.more();
      wait_empty();
      start_gathered<kDim, kKeys>(args.k, tile.at, thread, shared_address(shared.slots[place.slot]),
                                  keys.positions(), num_keys);
      if (thread == 0) shared.notes[place.slot] = {item, num_keys, !more};
      close();
      wait_empty();
      start_gathered<kDim, kKeys>(args.v, tile.at, thread, shared_address(shared.slots[place.slot]),
                                  keys.positions(), num_keys);
      close();
    }
  }
  wait_empty();
  if (thread == 0) shared.notes[place.slot] = {-1, 0, 1};
  close();
}

template <typename Shape, bool kTurns>
__device__ inline void attend(const ForwardArguments& args, ForwardShared<Shape>& shared) {
  constexpr int kDim = Shape::kDim, kKeys = Shape::kKeys, kN = kKeys / 8;
  constexpr int kBlockBytes = Shape::kBlockBytes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, t = lane % 4;
  const int group = thread / kWarpgroup - 1;
  const std::uint32_t q_at = shared_address(shared.q) + group * 64 * kSwizzledRow;
  RingPlace<Shape::kSlots> place;
  const auto slot_at = [&](int slot) { return shared_address(shared.slots[slot]); };
  const auto await = [&](const RingPlace<Shape::kSlots>& at) {
    wait_full(shared.full[at.slot], at.parity);
  };
  const auto arrive = [&](std::uint64_t& barrier) {
    if (lane == 0) barrier_arrive(shared_address(&barrier));
  };
  // The warpgroups take turns in starting products, so that one has its softmax meanwhile.
  const auto await_turn = [&] {
    if constexpr (kTurns) named_sync(2 + group, 2 * kWarpgroup);
  };
  const auto pass_turn = [&] {
    if constexpr (kTurns) named_arrive(2 + (group ^ 1), 2 * kWarpgroup);
  };
  if (kTurns && group == 1) named_arrive(2, 2 * kWarpgroup);

  for (int q_parity = 0;; q_parity ^= 1) {
    await(place);
    SlotNote note = shared.notes[place.slot];
    if (note.item < 0) break;
    float o[kDim / 8][4], s[kN][4];
    float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};  // of rows g and g + 8; this lane's share
    std::uint32_t p[kKeys / 16][4];

    // From scores to weights; the factors by which what was summed before goes down.
    const auto weigh = [&](int num_keys, float(&keep)[2]) {
      if (num_keys < kKeys) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (n * 8 + 2 * t + e % 2 >= num_keys) s[n][e] = -INFINITY;
          }
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = max[half];
#pragma unroll
        for (int n = 0; n < kN; ++n) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        const float offset = top == -INFINITY ? 0.0f : top * args.scale_log2;
        keep[half] = exp2_fast(fmaf(max[half], args.scale_log2, -offset));
        max[half] = top;
        float part = 0;
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[n][e] = exp2_fast(fmaf(s[n][e], args.scale_log2, -offset));
            part += s[n][e];
          }
        }
        sum[half] = fmaf(sum[half], keep[half], part);
      }
    };
    const auto round_weights = [&] {
#pragma unroll
      for (int n = 0; n < kN; n += 2) accumulators_as_a(s[n], s[n + 1], p[n / 2]);
    };

    wait_full(shared.q_full, q_parity);
    await_turn();
    wgmma_fence();
    start_multiply_rows<kDim>(q_at, kBlockBytes, slot_at(place.slot), kBlockBytes, 0, s);
    wgmma_commit();
    pass_turn();
    wgmma_wait<0>();
    arrive(shared.empty[place.slot]);
    if (note.last) arrive(shared.q_empty);
    place.advance();
    float keep[2];
    weigh(note.num_keys, keep);
    round_weights();
    int add = 0;
    while (!note.last) {
      const RingPlace<Shape::kSlots> values = place;
      place.advance();
      await(place);
      note = shared.notes[place.slot];
      await_turn();
      wgmma_fence();
      start_multiply_rows<kDim>(q_at, kBlockBytes, slot_at(place.slot), kBlockBytes, 0, s);
      wgmma_commit();
      await(values);
      start_multiply_add(p, slot_at(values.slot), kBlockBytes, add, o);
      wgmma_commit();
      add = 1;
      pass_turn();
      wgmma_wait<1>();
      arrive(shared.empty[place.slot]);
      if (note.last) arrive(shared.q_empty);
      place.advance();
      weigh(note.num_keys, keep);
      wgmma_wait<0>();
      arrive(shared.empty[values.slot]);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) o[n][e] *= keep[e / 2];
      }
      round_weights();
    }
    await(place);
    wgmma_fence();
    start_multiply_add(p, slot_at(place.slot), kBlockBytes, add, o);
    wgmma_commit();
    const GroupTile tile = group_tile(args.selection, note.item, Shape::kQueries, args.H);
    const int first = tile.at.first + group * 64;
    float inverse[2];
    float* const lse = args.lse + tile.at.rows_before(args.H, args.Sq);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const bool none = total == 0;  // not: NaN
      inverse[half] = none ? 0.0f : 1.0f / total;
      const int row = first + thread % kWarpgroup / kWarp * 16 + half * 8 + lane / 4;
      if (t == 0 && row < tile.end) {
        lse[row] = none ? -INFINITY : fmaf(max[half], args.scale_log2, log2f(total)) * kLn2;
      }
    }
    wgmma_wait<0>();
    arrive(shared.empty[place.slot]);
    place.advance();
    store_warpgroup<kDim>(o, inverse, args.o, tile.at,
                          [&](int r) { return first + r < tile.end ? first + r : -1; });
  }
}

template <typename Shape, bool kTurns>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    sparse_forward_wgmma_kernel(const __grid_constant__ ForwardArguments args) {
  extern __shared__ __align__(1024) unsigned char bytes[];
  auto& shared = *reinterpret_cast<ForwardShared<Shape>*>(bytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kSlots; ++i) {
      barrier_init(shared_address(&shared.full[i]), kCopyArrivals);
      barrier_init(shared_address(&shared.empty[i]), 4 * Shape::kConsumers);
    }
    barrier_init(shared_address(&shared.q_full), kCopyArrivals);
    barrier_init(shared_address(&shared.q_empty), 4 * Shape::kConsumers);
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<Shape::kCopyRegisters>();
    copy_tiles<Shape>(args, shared);
  } else {
    take_registers<Shape::kRegisters>();
    attend<Shape, kTurns>(args, shared);
  }
}

template <int kDim, int kConsumers>
void launch(ForwardArguments arguments, std::int64_t B, const Stream& stream) {
  using Shape = ForwardShape<kDim, kConsumers>;
  arguments.num_items = num_group_tiles(B, arguments.H, arguments.selection.G, Shape::kQueries);
  const auto kernel = sparse_forward_wgmma_kernel<Shape, (kConsumers > 1)>;
  constexpr int kBytes = static_cast<int>(sizeof(ForwardShared<Shape>));
  allow_shared_bytes(kernel, kBytes);
  DSV_CUDA(cudaMemsetAsync(arguments.next_item, 0, sizeof(int), native(stream)));
  const int blocks = Shape::kBlocksPerSm * session_of(stream).num_sms;
  kernel<<<std::min(blocks, arguments.num_items), Shape::kThreads, kBytes, native(stream)>>>(
      arguments);
  DSV_CUDA_LAUNCHED();
}

}  // namespace

bool sparse_attention_forward_wgmma(const SparseAttentionForward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  ForwardArguments arguments{.selection = selection_view(args),
                             .q = heads_view<const Bf16>(args.q),
                             .k = heads_view<const Bf16>(args.k),
                             .v = heads_view<const Bf16>(args.v),
                             .o = heads_view<Bf16>(args.o),
                             .lse = args.lse.f32(),
                             .Sq = static_cast<int>(Sq),
                             .H = static_cast<int>(H),
                             .scale_log2 = args.scale * kLog2E};
  const bool packable =
      arguments.q.packable && arguments.k.packable && arguments.v.packable && arguments.o.packable;
  if ((D != 64 && D != 128) || !packable || args.scale <= 0) return false;
  if (B * H * Sq == 0) return true;
  arguments.next_item = scratch<int>(stream, 1);
  // Groups are as large as the caller's cubes; the average tells one from two of them.
  const bool small = Sq <= 64 * std::int64_t{arguments.selection.G};
  if (D == 64) {
    small ? launch<64, 1>(arguments, B, stream) : launch<64, 2>(arguments, B, stream);
  } else {
    small ? launch<128, 1>(arguments, B, stream) : launch<128, 2>(arguments, B, stream);
  }
  return true;
}

}  // namespace dsv::kernels::cuda
