// Plain matrix products and column sums: f32 parity mode, and bf16 shapes that cuBLASLt refuses.
#include "cuda/launch.cuh"
#include "cuda/raw_pack.cuh"
#include "linear/linear_cuda.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kTile = 64;   // of rows and of columns of c per block
constexpr int kDepth = 16;  // of k per round through shared memory
constexpr int kThreads = 256;
constexpr int kPer = 4;  // kPer x kPer elements of c per thread

template <typename T>
struct Operand {
  const T* data;
  std::int64_t row, column;
};

// A kTile x kDepth piece of an operand into tile[k][i], zeros outside. Neighbouring threads read
// along whichever dim is contiguous.
template <typename T>
__device__ void fetch(const Operand<T>& x, std::int64_t first_row, std::int64_t num_rows,
                      std::int64_t first_k, std::int64_t num_k, float (*tile)[kTile + 1]) {
  const bool along_k = x.column == 1;
  for (int e = static_cast<int>(threadIdx.x); e < kTile * kDepth; e += kThreads) {
    const int i = along_k ? e / kDepth : e % kTile;
    const int k = along_k ? e % kDepth : e / kTile;
    const std::int64_t r = first_row + i, c = first_k + k;
    tile[k][i] = r < num_rows && c < num_k ? to_f32(x.data[r * x.row + c * x.column]) : 0.0f;
  }
}

template <typename TA, typename TB, typename TC>
__global__ void __launch_bounds__(kThreads)
    gemm_kernel(std::int64_t M, std::int64_t N, std::int64_t K, Operand<TA> a, Operand<TB> b,
                const TB* bias, TC* c, std::int64_t c_row, bool accumulate) {
  __shared__ float a_tile[kDepth][kTile + 1], b_tile[kDepth][kTile + 1];
  const std::int64_t m0 = std::int64_t{blockIdx.x} * kTile, n0 = std::int64_t{blockIdx.y} * kTile;
  const int ty = static_cast<int>(threadIdx.x) / 16, tx = static_cast<int>(threadIdx.x) % 16;
  float sum[kPer][kPer] = {};
  for (std::int64_t k0 = 0; k0 < K; k0 += kDepth) {
    fetch(a, m0, M, k0, K, a_tile);
    fetch(b, n0, N, k0, K, b_tile);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      float x[kPer], y[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[i] = a_tile[k][ty + 16 * i];
#pragma unroll
      for (int j = 0; j < kPer; ++j) y[j] = b_tile[k][tx + 16 * j];
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
#pragma unroll
        for (int j = 0; j < kPer; ++j) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const std::int64_t m = m0 + ty + 16 * i;
    if (m >= M) continue;
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      const std::int64_t n = n0 + tx + 16 * j;
      if (n >= N) continue;
      float value = sum[i][j];
      if (bias != nullptr) value += to_f32(bias[n]);
      TC& out = c[m * c_row + n];
      out = from_f32<TC>(accumulate ? to_f32(out) + value : value);
    }
  }
}

// --- Column sums ----------------------------------------------------------------------------------

constexpr int kChunk = 256;  // rows added up in f32 by one block
constexpr int kWide = 8;     // columns per thread where rows are aligned

// partial[chunk, n] = sum over the chunk's rows. Threads of one block: 32 columns' worth of lanes
// times 8 groups of rows, which are added in order.
template <typename T, int kColumns>
__global__ void __launch_bounds__(256)
    column_partials(const T* x, std::int64_t rows, std::int64_t N, std::int64_t stride,
                    float* partial) {
  constexpr int kGroups = 8;
  __shared__ float shared[kGroups][32 * kColumns];
  const int lane = static_cast<int>(threadIdx.x) % 32, group = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t n0 = (std::int64_t{blockIdx.y} * 32 + lane) * kColumns;
  const std::int64_t begin = std::int64_t{blockIdx.x} * kChunk + group * (kChunk / kGroups);
  const std::int64_t end = min(rows, begin + kChunk / kGroups);
  float sum[kColumns] = {};
  if (n0 < N) {
#pragma unroll 4
    for (std::int64_t r = begin; r < end; ++r) {
      float value[kColumns];
      load_pack<kColumns>(x + r * stride + n0, value);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sum[i] += value[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kColumns; ++i) shared[group][lane * kColumns + i] = sum[i];
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < 32 * kColumns; c += 256) {
    const std::int64_t n = std::int64_t{blockIdx.y} * 32 * kColumns + c;
    if (n >= N) continue;
    float total = 0;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) total += shared[g][c];
    partial[std::int64_t{blockIdx.x} * N + n] = total;
  }
}

__global__ void add_partials(const float* partial, std::int64_t num_chunks, std::int64_t N,
                             float* out) {
  const std::int64_t n = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= N) return;
  double sum = static_cast<double>(out[n]);
  for (std::int64_t c = 0; c < num_chunks; ++c) sum += static_cast<double>(partial[c * N + n]);
  out[n] = static_cast<float>(sum);
}

}  // namespace

void gemm_simt(const SimtGemm& g, const Stream& stream) {
  if (g.M == 0 || g.N == 0) return;
  const dim3 grid(num_blocks(g.M, kTile), num_blocks(g.N, kTile));
  with_dtypes("linear", g.a.dtype, g.c_type, [&](auto operand, auto result) {
    using T = decltype(operand);
    using C = decltype(result);
    const auto view = [](const SimtOperand& x) {
      return Operand<T>{static_cast<const T*>(x.data), x.row, x.column};
    };
    gemm_kernel<T, T, C><<<grid, kThreads, 0, native(stream)>>>(
        g.M, g.N, g.K, view(g.a), view(g.b), static_cast<const T*>(g.bias.data),
        static_cast<C*>(g.c), g.c_row, g.accumulate);
    DSV_CUDA_LAUNCHED();
  });
}

void add_column_sums(const Tensor& x, const Tensor& out, const Stream& stream) {
  const std::int64_t rows = x.dim(0), N = x.dim(1), stride = x.stride(0);
  if (rows == 0 || N == 0) return;
  const std::int64_t num_chunks = num_blocks(rows, kChunk);
  float* partial = scratch<float>(stream, num_chunks * N);
  with_dtype("linear", x.dtype(), [&](auto element) {
    using T = decltype(element);
    const bool wide = N % kWide == 0 && is_packable(data<T>(x), stride, kWide) && sizeof(T) == 2;
    const auto launch = [&](auto kernel, int columns) {
      const dim3 grid(static_cast<unsigned>(num_chunks), num_blocks(N, 32 * columns));
      kernel<<<grid, 256, 0, native(stream)>>>(data<T>(x), rows, N, stride, partial);
      DSV_CUDA_LAUNCHED();
    };
    if (wide) {
      launch(column_partials<T, kWide>, kWide);
    } else {
      launch(column_partials<T, 1>, 1);
    }
  });
  add_partials<<<num_blocks(N, 256), 256, 0, native(stream)>>>(partial, num_chunks, N,
                                                               out.f32());
  DSV_CUDA_LAUNCHED();
}

}  // namespace dsv::kernels::cuda
