#include <cfloat>

#include "cuda/f64_sums.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kRun = 8;  // packs of a thread in flight

// partials[chunk] = {sum of x^2, number of non-finite elements}.
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kChunkThreads)
    square_chunks(const T* x, std::int64_t n, std::int64_t chunk, double* partials) {
  constexpr int kPack = kPackOf<T>;
  LanesSum sum;
  int non_finite = 0;
  const auto add = [&](float value, int lane) {
    const bool finite = fabsf(value) <= FLT_MAX;
    sum.add_square(static_cast<double>(finite ? value : 0.0f), lane);
    non_finite += !finite;
  };
  const std::int64_t begin = blockIdx.x * chunk;
  for_own_packs<kPack, kRun>(
      begin, min(begin + chunk, n),
      [&](std::int64_t i, auto num_packs) {
        float values[num_packs][kPack];
        load_packs<kAligned>(x + i, values);
#pragma unroll
        for (int r = 0; r < num_packs; ++r) {
#pragma unroll
          for (int e = 0; e < kPack; ++e) add(values[r][e], e);
        }
      },
      [&](std::int64_t i, int lane) { add(to_f32(x[i]), lane); });
  __shared__ double shared_sum[kChunkThreads / kWarp];
  __shared__ int shared_count[kChunkThreads / kWarp];
  const double total = block_sum<kChunkThreads>(sum.total(), shared_sum);
  const int count = block_sum<kChunkThreads>(non_finite, shared_count);
  if (threadIdx.x != 0) return;
  partials[2 * std::int64_t{blockIdx.x}] = total;
  partials[2 * std::int64_t{blockIdx.x} + 1] = count;
}

__global__ void __launch_bounds__(kLastThreads)
    add_chunks(const double* partials, std::int64_t num_chunks, double* out) {
  const double sum = last_sum(partials, num_chunks, 2);
  const double non_finite = last_sum(partials + 1, num_chunks, 2);
  if (threadIdx.x != 0) return;
  out[0] = sum;
  out[1] = non_finite;
}

}  // namespace

void sum_squares(const SumSquares& args, const Stream& stream) {
  const std::int64_t n = args.x.num_elements(), chunk = chunk_of(n), chunks = ceil_div(n, chunk);
  double* const partials = scratch<double>(stream, 2 * chunks);
  if (n > 0) {
    with_dtype("sum_squares", args.x.dtype(), [&](auto type) {
      using T = decltype(type);
      const T* x = data<T>(args.x);
      const auto launch = [&](auto kernel) {
        kernel<<<narrow<int>(chunks), kChunkThreads, 0, native(stream)>>>(x, n, chunk, partials);
        DSV_CUDA_LAUNCHED();
      };
      is_packable(x, 0, kPackOf<T>) ? launch(square_chunks<T, true>)
                                    : launch(square_chunks<T, false>);
    });
  }
  add_chunks<<<1, kLastThreads, 0, native(stream)>>>(partials, chunks, args.out.f64());
  DSV_CUDA_LAUNCHED();
}

}  // namespace dsv::kernels::cuda
