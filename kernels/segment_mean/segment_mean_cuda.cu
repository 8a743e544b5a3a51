// A block takes one segment and 256 columns, one a thread: rows are read and written in whole lines.
#include "cuda/launch.cuh"
#include "cuda/vector.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct Args {
  const T* x;
  T* y;
  const std::int32_t* start;
  std::int64_t x_batch, x_row, y_batch, y_row, C;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) segment_mean_kernel(const __grid_constant__ Args<T> a) {
  const std::int64_t c = std::int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (c >= a.C) return;
  const int first = a.start[blockIdx.x], end = a.start[blockIdx.x + 1];
  const T* const x = a.x + blockIdx.z * a.x_batch + c;
  T* const y = a.y + blockIdx.z * a.y_batch + c;
  float sum = 0;
  for (int i = first; i < end; ++i) sum += to_f32(x[i * a.x_row]);
  const T mean = from_f32<T>(sum / static_cast<float>(end - first));
  for (int i = first; i < end; ++i) y[i * a.y_row] = mean;
}

}  // namespace

void segment_mean(const SegmentMean& args, const Stream& stream) {
  require_session(stream);
  const std::int64_t B = args.x.dim(0), C = args.x.dim(2), N = args.start.dim(0) - 1;
  if (args.x.num_elements() == 0) return;
  with_dtype("segment_mean", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    const dim3 grid(static_cast<unsigned>(N), num_blocks(C, kThreads), static_cast<unsigned>(B));
    segment_mean_kernel<T><<<grid, kThreads, 0, native(stream)>>>({.x = data<T>(args.x),
                                                                   .y = data<T>(args.y),
                                                                   .start = args.start.i32(),
                                                                   .x_batch = args.x.stride(0),
                                                                   .x_row = args.x.stride(1),
                                                                   .y_batch = args.y.stride(0),
                                                                   .y_row = args.y.stride(1),
                                                                   .C = C});
    DSV_CUDA_LAUNCHED();
  });
}

}  // namespace dsv::kernels::cuda
