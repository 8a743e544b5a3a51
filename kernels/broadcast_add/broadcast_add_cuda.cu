// A thread has one pack of columns: the row's part stays in its registers while it goes down the
// rows; backward it adds up its columns, so no partial sums are stored.
#include "cuda/row_columns.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

// Most threads of a block of a ColumnGrid.
constexpr int kThreads = 256;

template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads)
    forward(const T* x, const float* row_values, T* y, RowChunks chunks, ColumnGrid grid) {
  const std::int64_t column = grid.column<kPack>(), N = grid.C;
  if (column >= N) return;
  const auto rows = chunks[grid.chunk()];
  float added[kPack];
  load_parameter_pack<kPack>(row_values + column, added);
  for_row_runs(rows.begin, rows.end, [&](std::int64_t row, auto n) {
    float values[n][kPack];
#pragma unroll
    for (int r = 0; r < n; ++r) load_pack<kPack>(x + (row + r) * N + column, values[r]);
#pragma unroll
    for (int r = 0; r < n; ++r) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) values[r][i] += added[i];
      store_pack<kPack>(y + (row + r) * N + column, values[r]);
    }
  });
}

// Blocks of rows are added up first, so that a long sum does not lose its small terms.
template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads)
    backward(const T* dy, float* drow, std::int64_t B, ColumnGrid grid) {
  constexpr std::int64_t kRows = 64;
  const std::int64_t column = grid.column<kPack>(), N = grid.C;
  if (column >= N) return;
  float total[kPack] = {};
  for (std::int64_t begin = 0; begin < B; begin += kRows) {
    float sum[kPack] = {};
    for_row_runs(begin, min(begin + kRows, B), [&](std::int64_t row, auto n) {
      float values[n][kPack];
#pragma unroll
      for (int r = 0; r < n; ++r) load_pack<kPack>(dy + (row + r) * N + column, values[r]);
#pragma unroll
      for (int r = 0; r < n; ++r) {
#pragma unroll
        for (int i = 0; i < kPack; ++i) sum[i] += values[r][i];
      }
    });
#pragma unroll
    for (int i = 0; i < kPack; ++i) total[i] += sum[i];
  }
  float before[kPack];
  load_pack<kPack>(drow + column, before);
#pragma unroll
  for (int i = 0; i < kPack; ++i) total[i] += before[i];
  store_pack<kPack>(drow + column, total);
}

}  // namespace

void broadcast_add_forward(const BroadcastAddForward& args, const Stream& stream) {
  require_f32("broadcast_add", {&args.row});
  DSV_CHECK(args.y.dtype() == args.x.dtype(), "[broadcast_add] x is {}, y is {}", args.x.dtype(),
            args.y.dtype());
  const std::int64_t B = args.x.dim(0), N = args.x.dim(1);
  if (B * N == 0) return;
  with_dtype("broadcast_add", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = kPackOf<T>;
    const T* x = data<T>(args.x);
    T* y = data<T>(args.y);
    const auto launch = [&](auto kernel, int pack) {
      const ColumnGrid grid(N, pack);
      // As few chunks of rows as keep the device busy: each reads the row again.
      const std::int64_t wanted = std::max<std::int64_t>(1, 2048 / grid.blocks_per_row);
      const RowChunks chunks(1, B, wanted, 1, B);
      kernel<<<grid.num_blocks(chunks.total), grid.threads, 0, native(stream)>>>(x, args.row.f32(),
                                                                                 y, chunks, grid);
    };
    if (is_packable(x, N, kPack) && is_packable(y, N, kPack)) {
      launch(forward<T, kPack>, kPack);
    } else {
      launch(forward<T, 1>, 1);
    }
    DSV_CUDA_LAUNCHED();
  });
}

void broadcast_add_backward(const BroadcastAddBackward& args, const Stream& stream) {
  require_f32("broadcast_add", {&args.drow});
  const std::int64_t B = args.dy.dim(0), N = args.dy.dim(1);
  if (B * N == 0) return;
  with_dtype("broadcast_add", args.dy.dtype(), [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = kPackOf<T>;
    const T* dy = data<T>(args.dy);
    float* drow = args.drow.f32();
    const auto launch = [&](auto kernel, int pack) {
      const ColumnGrid grid(N, pack);
      kernel<<<grid.num_blocks(1), grid.threads, 0, native(stream)>>>(dy, drow, B, grid);
    };
    if (is_packable(dy, N, kPack) && is_packable(drow, kPack, kPack)) {
      launch(backward<T, kPack>, kPack);
    } else {
      launch(backward<T, 1>, 1);
    }
    DSV_CUDA_LAUNCHED();
  });
}

}  // namespace dsv::kernels::cuda
