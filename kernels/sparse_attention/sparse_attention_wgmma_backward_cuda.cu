// Sparse attention backward on Hopper, bf16, blocks of keys: what goes before the two passes
// (backward_plan.cuh), and their rounds.
#include "cuda/raw_pack.cuh"
#include "sparse_attention/backward_plan.cuh"
#include "sparse_attention/sparse_attention_cuda.h"

namespace dsv::kernels::cuda {
namespace {

// Room for dS. More is used up in fewer rounds, each of which ends with multiprocessors that have
// nothing left to do; less is there for the rest of the step.
constexpr std::int64_t kRoomBytes = std::int64_t{4} << 30;

constexpr int kRowWarps = 8;  // of a block

// delta = <o, do>, and lse as the pass over keys wants it: kDim / 8 lanes take a row.
template <int kDim>
__global__ void __launch_bounds__(256)
    sparse_statistics_kernel(HeadsView<const Bf16> o, HeadsView<const Bf16> d_o, const float* lse,
                             float* delta, float* scaled_lse, int Sq, int H, std::int64_t num_rows,
                             float inverse_scale) {
  constexpr int kLanes = kDim / 8, kRows = 256 / kLanes;
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * kRows + static_cast<int>(threadIdx.x) / kLanes;
  const int column = static_cast<int>(threadIdx.x) % kLanes * 8;
  float sum = 0;
  if (row < num_rows) {
    const int head = static_cast<int>(row / Sq), query = static_cast<int>(row % Sq);
    const auto a = load_raw<8>(o.row_of(head / H, head % H, query) + column);
    const auto b = load_raw<8>(d_o.row_of(head / H, head % H, query) + column);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(a[i], b[i], sum);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, step);
  }
  if (row < num_rows && column == 0) {
    delta[row] = sum;
    scaled_lse[row] = lse[row] == -INFINITY ? INFINITY : lse[row] * inverse_scale;
  }
}

// Of each row, by a warp: selected blocks before each word, and the row's number of slices.
__global__ void __launch_bounds__(kRowWarps* kWarp)
    count_slices_kernel(SelectionView selection, BackwardPlan plan, int num_rows) {
  const int row = static_cast<int>(blockIdx.x) * kRowWarps + static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (row >= num_rows) return;
  const std::int64_t first = static_cast<std::int64_t>(row) * selection.W;
  int total = 0;
  for (int w = lane; w - lane < selection.W; w += kWarp) {
    const int count =
        w < selection.W ? __popc(block_bits(selection.bits[first + w], w, selection.N)) : 0;
    int before = count;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, step);
      if (lane >= step) before += other;
    }
    if (w < selection.W)
      plan.before[first + w] = static_cast<std::uint32_t>(total + before - count);
    total += __shfl_sync(0xffffffffu, before, kWarp - 1);
  }
  const int g = row % selection.G;
  const int halves = num_halves(selection.group_start[g + 1] - selection.group_start[g]);
  if (lane == 0) plan.row_slices[row] = static_cast<std::uint32_t>(total * halves);
}

// A head's tiles of keys by falling number of groups, of equals the first one first: a tile that
// every group has selected does not start when all others are done. A block has a head.
constexpr int kOrderThreads = 1024;
__global__ void __launch_bounds__(kOrderThreads)
    order_tiles_kernel(SelectionView selection, BackwardPlan plan, int tiles) {
  const int head = static_cast<int>(blockIdx.x);
  int* const groups = plan.tile_groups + static_cast<std::int64_t>(head) * tiles;
  for (int tile = static_cast<int>(threadIdx.x); tile < tiles; tile += kOrderThreads) {
    const std::uint32_t* const column =
        selection.column_of(head, tile * static_cast<int>(kTileBlocks));
    int count = 0;
    for (int w = 0; w < selection.group_words; ++w) {
      std::uint32_t any = 0;
#pragma unroll
      for (int i = 0; i < kTileBlocks; ++i) any |= column[i * selection.group_words + w];
      count += __popc(any);
    }
    groups[tile] = count;
  }
  __syncthreads();
  for (int tile = static_cast<int>(threadIdx.x); tile < tiles; tile += kOrderThreads) {
    const int count = groups[tile];
    int place = 0;
    for (int other = 0; other < tiles; ++other) {
      place += groups[other] > count || (groups[other] == count && other < tile) ? 1 : 0;
    }
    plan.order[static_cast<std::int64_t>(head) * tiles + place] = tile;
  }
}

// Sums up the rows' slices, and cuts rows into rounds, each as long as fits into the room. One
// block.
constexpr int kCutThreads = 1024;
__global__ void __launch_bounds__(kCutThreads)
    cut_rows_kernel(BackwardPlan plan, int num_rows, int num_rounds, std::uint32_t room_slices) {
  __shared__ std::uint32_t warp_totals[kWarp];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  std::uint32_t base = 0;
  for (int first = 0; first < num_rows; first += kCutThreads) {
    const int row = first + thread;
    const std::uint32_t count = row < num_rows ? plan.row_slices[row] : 0;
    std::uint32_t before = count;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const std::uint32_t other = __shfl_up_sync(0xffffffffu, before, step);
      if (lane >= step) before += other;
    }
    if (lane == kWarp - 1) warp_totals[warp] = before;
    __syncthreads();
    std::uint32_t total = 0, of_warps = 0;
    for (int i = 0; i < kWarp; ++i) {
      if (i < warp) of_warps += warp_totals[i];
      total += warp_totals[i];
    }
    if (row < num_rows) plan.row_slices[row] = base + of_warps + before - count;
    base += total;
    __syncthreads();
  }
  if (thread == 0) plan.row_slices[num_rows] = base;
  __syncthreads();
  for (int i = thread; i < 2 * num_rounds; i += kCutThreads) plan.next_item[i] = 0;
  if (thread != 0) return;
  int cut = 0;
  plan.cuts[0] = 0;
  for (int round = 0; round < num_rounds; ++round) {
    const std::uint32_t most = plan.row_slices[cut] + room_slices;
    int low = cut, high = num_rows;  // the last row at which the slices before it still fit
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (plan.row_slices[middle] <= most) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    cut = low;
    plan.cuts[round + 1] = cut;
  }
}

// Hands out parts of the scratch.
class Parts {
 public:
  template <typename T>
  void add(T*& part, std::int64_t count) {
    offsets_[num_++] = {reinterpret_cast<void**>(&part), total_};
    total_ = round_up(total_ + count * static_cast<std::int64_t>(sizeof(T)), 1024);
  }
  void place(const Stream& stream) const {
    unsigned char* const base = scratch<unsigned char>(stream, total_);
    for (int i = 0; i < num_; ++i) *offsets_[i].part = base + offsets_[i].at;
  }

 private:
  struct Offset {
    void** part;
    std::int64_t at;
  };
  Offset offsets_[9];
  int num_ = 0;
  std::int64_t total_ = 0;
};

}  // namespace

bool sparse_attention_backward_wgmma(const SparseAttentionBackward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  if (!args.block_start || (D != 64 && D != 128) || args.scale <= 0) return false;
  BackwardArguments arguments{.selection = selection_view(args),
                              .q = heads_view<const Bf16>(args.q),
                              .k = heads_view<const Bf16>(args.k),
                              .v = heads_view<const Bf16>(args.v),
                              .d_o = heads_view<const Bf16>(args.d_o),
                              .dq = heads_view<Bf16>(args.dq),
                              .dk = heads_view<Bf16>(args.dk),
                              .dv = heads_view<Bf16>(args.dv),
                              .delta = args.delta.f32(),
                              .Sq = static_cast<int>(Sq),
                              .H = static_cast<int>(H),
                              .scale = args.scale,
                              .scale_log2 = args.scale * kLog2E};
  const auto o = heads_view<const Bf16>(args.o);
  const SelectionView& selection = arguments.selection;
  const std::int64_t rows = B * H * selection.G, blocks_of_row = selection.N;
  if (rows == 0 || blocks_of_row == 0 || Sq == 0) return false;
  if (!(o.packable && arguments.q.packable && arguments.k.packable && arguments.v.packable &&
        arguments.d_o.packable && arguments.dq.packable && arguments.dk.packable &&
        arguments.dv.packable)) {
    return false;
  }
  // Slices are counted in 32 bits.
  const std::int64_t most_of_row = 2 * blocks_of_row, most = rows * most_of_row;
  if (most >= std::int64_t{1} << 32 || rows >= std::int64_t{1} << 31) return false;
  const std::int64_t room = std::min(most, std::max(kRoomBytes / kSliceBytes, 2 * most_of_row));
  // Every round but the last is full but for less than a row.
  const std::int64_t rounds = room >= most ? 1 : ceil_div(most, room - most_of_row) + 1;
  const std::int64_t tiles = ceil_div(blocks_of_row, kTileBlocks);
  BackwardPlan& plan = arguments.plan;
  Parts parts;
  parts.add(plan.slices, room * kSliceBytes);
  parts.add(plan.before, rows * selection.W);
  parts.add(plan.row_slices, rows + 1);
  parts.add(plan.cuts, rounds + 1);
  parts.add(plan.next_item, 2 * rounds);
  parts.add(plan.tile_groups, B * H * tiles);
  parts.add(plan.order, B * H * tiles);
  parts.add(plan.lse, B * H * Sq);
  parts.add(plan.carry, rounds == 1 ? 0 : 2 * tiles * 2 * 64 * D);
  parts.place(stream);

  const auto statistics = [&](auto dim) {
    constexpr int kRows = 256 / (dim() / 8);
    sparse_statistics_kernel<dim()><<<num_blocks(B * H * Sq, kRows), 256, 0, native(stream)>>>(
        o, arguments.d_o, args.lse.f32(), args.delta.f32(), plan.lse, static_cast<int>(Sq),
        static_cast<int>(H), B * H * Sq, 1 / args.scale);
    DSV_CUDA_LAUNCHED();
  };
  if (D == 64) {
    statistics(std::integral_constant<int, 64>{});
  } else {
    statistics(std::integral_constant<int, 128>{});
  }
  count_slices_kernel<<<num_blocks(rows, kRowWarps), kRowWarps * kWarp, 0, native(stream)>>>(
      selection, plan, static_cast<int>(rows));
  DSV_CUDA_LAUNCHED();
  cut_rows_kernel<<<1, kCutThreads, 0, native(stream)>>>(
      plan, static_cast<int>(rows), static_cast<int>(rounds), static_cast<std::uint32_t>(room));
  DSV_CUDA_LAUNCHED();
  order_tiles_kernel<<<narrow<std::int32_t>(B * H), kOrderThreads, 0, native(stream)>>>(
      selection, plan, static_cast<int>(tiles));
  DSV_CUDA_LAUNCHED();
  const int sms = session_of(stream).num_sms;
  for (int round = 0; round < static_cast<int>(rounds); ++round) {
    launch_sparse_dkdv(arguments, static_cast<int>(D), round, sms, native(stream));
    launch_sparse_dq(arguments, static_cast<int>(D), round, sms, native(stream));
  }
  return true;
}

}  // namespace dsv::kernels::cuda
