// A row is words of the widest access that its address and length allow; a warp takes one row at a
// time, its lanes on neighbouring words, several words on their way before the first is stored.
#include "cuda/launch.cuh"
#include "cuda/vector.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kUnroll = 4;

struct Rows {
  const char* x;
  char* y;
  const std::int32_t* index;
  std::int64_t x_batch, x_row, y_batch, y_row;  // bytes
  std::int64_t num_words;                       // of a row
  std::int64_t num_rows, N;
};

template <typename Word>
__global__ void __launch_bounds__(kThreads) gather_rows_kernel(const __grid_constant__ Rows p) {
  const std::int64_t lane = threadIdx.x % kWarp, step = std::int64_t{gridDim.x} * kWarps;
  std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  for (; row < p.num_rows; row += step) {
    const std::int64_t b = row / p.N, i = row - b * p.N;
    const auto* from = reinterpret_cast<const Word*>(p.x + b * p.x_batch + p.index[i] * p.x_row);
    auto* to = reinterpret_cast<Word*>(p.y + b * p.y_batch + i * p.y_row);
    for (std::int64_t first = lane; first < p.num_words; first += kUnroll * kWarp) {
      Word word[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (first + u * kWarp < p.num_words) word[u] = from[first + u * kWarp];
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (first + u * kWarp < p.num_words) to[first + u * kWarp] = word[u];
      }
    }
  }
}

}  // namespace

void gather_rows(const GatherRows& args, const Stream& stream) {
  require_f32_or_bf16("gather_rows", {&args.x, &args.y});
  DSV_CHECK(args.x.dtype() == args.y.dtype(), "[gather_rows] x is {}, y is {}", args.x.dtype(),
            args.y.dtype());
  const std::int64_t B = args.y.dim(0), N = args.y.dim(1), C = args.y.dim(2);
  if (B * N * C == 0) return;
  const std::int64_t size = size_of(args.x.dtype());
  const auto launch = [&](auto type) {
    using Word = decltype(type);
    const Rows p{.x = static_cast<const char*>(args.x.raw()),
                 .y = static_cast<char*>(args.y.raw()),
                 .index = args.index.i32(),
                 .x_batch = args.x.stride(0) * size,
                 .x_row = args.x.stride(1) * size,
                 .y_batch = args.y.stride(0) * size,
                 .y_row = args.y.stride(1) * size,
                 .num_words = C * size / static_cast<std::int64_t>(sizeof(Word)),
                 .num_rows = B * N,
                 .N = N};
    gather_rows_kernel<Word>
        <<<grid_for(session_of(stream), B * N, kWarps), kThreads, 0, native(stream)>>>(p);
    DSV_CUDA_LAUNCHED();
  };
  const auto are_words = [&](std::int64_t bytes) {
    const auto divides = [&](std::int64_t n) { return n * size % bytes == 0; };
    const auto aligned = [&](const Tensor& t) {
      return reinterpret_cast<std::uintptr_t>(t.raw()) % static_cast<std::uintptr_t>(bytes) == 0 &&
             divides(t.stride(0)) && divides(t.stride(1));
    };
    return divides(C) && aligned(args.x) && aligned(args.y);
  };
  if (are_words(16)) return launch(uint4{});
  if (are_words(4)) return launch(std::uint32_t{});
  launch(std::uint16_t{});
}

}  // namespace dsv::kernels::cuda
