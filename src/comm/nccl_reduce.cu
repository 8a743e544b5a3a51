#include "nccl_reduce.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

namespace dsv::comm {
namespace {

constexpr int kThreads = 256;
// That many of an H100's 132 multiprocessors hold at once with up to 64 registers a thread: more
// blocks would only queue.
constexpr int kBlocksPerMultiprocessor = 4;
constexpr std::int64_t kMaxBlocks = 132 * kBlocksPerMultiprocessor;
constexpr std::int64_t kPackBytes = 16;

// As reduce_in_order.cpp has them: integers wrap, and NaN wins.
struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    } else {
      return a + b;
    }
  }
};
struct Min {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b < a || b != b ? b : a;
  }
};
struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b > a || b != b ? b : a;
  }
};

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

template <typename T>
struct Parts {
  const std::byte* slots;
  std::int64_t stride;
  const T* own;
  int own_rank;
  int num_parts;

  __device__ const T* operator[](int p) const {
    return p == own_rank ? own : reinterpret_cast<const T*>(slots + p * stride);
  }
};

// Elements [i, i + N). A thread reads all parts of an element before it writes it, so `out` may be
// one of them.
template <typename T, typename Op, int N>
__device__ void reduce_at(const Parts<T>& parts, T* out, std::int64_t i) {
  using P = Pack<T, N>;
  P sum = *reinterpret_cast<const P*>(parts[0] + i);
#pragma unroll(N > 1 ? 4 : 2)
  for (int p = 1; p < parts.num_parts; ++p) {
    const P x = *reinterpret_cast<const P*>(parts[p] + i);
#pragma unroll
    for (int k = 0; k < N; ++k) sum.at[k] = Op()(sum.at[k], x.at[k]);
  }
  *reinterpret_cast<P*>(out + i) = sum;
}

template <typename T, typename Op, int N>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    reduce_kernel(const Parts<T> parts, T* out, std::int64_t num_elements) {
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  const std::int64_t num_packs = num_elements / N;
  for (std::int64_t i = first; i < num_packs; i += step) {
    reduce_at<T, Op, N>(parts, out, i * N);
  }
  if constexpr (N > 1) {  // what fills no pack
    for (std::int64_t i = num_packs * N + first; i < num_elements; i += step) {
      reduce_at<T, Op, 1>(parts, out, i);
    }
  }
}

bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % kPackBytes == 0; }

template <typename T, typename Op>
void launch(const Reduction& r, cudaStream_t stream) {
  constexpr int kPack = kPackBytes / sizeof(T);
  const Parts<T> parts{r.slots, r.stride, reinterpret_cast<const T*>(r.own), r.own_rank,
                       r.num_parts};
  auto* out = reinterpret_cast<T*>(r.out);
  const bool packs = is_aligned(r.slots) && r.stride % kPackBytes == 0 && is_aligned(r.own) &&
                     is_aligned(r.out);
  const std::int64_t pieces = ceil_div(r.num_elements, packs ? kPack : 1);
  const auto blocks = static_cast<unsigned>(std::min(kMaxBlocks, ceil_div(pieces, kThreads)));
  if (packs) {
    reduce_kernel<T, Op, kPack><<<blocks, kThreads, 0, stream>>>(parts, out, r.num_elements);
  } else {
    reduce_kernel<T, Op, 1><<<blocks, kThreads, 0, stream>>>(parts, out, r.num_elements);
  }
}

template <typename T>
void launch(const Reduction& r, cudaStream_t stream) {
  switch (r.op) {
    case ReduceOp::kSum: return launch<T, Sum>(r, stream);
    case ReduceOp::kMin: return launch<T, Min>(r, stream);
    case ReduceOp::kMax: return launch<T, Max>(r, stream);
  }
}

}  // namespace

const char* enqueue_reduction(const Reduction& r, const Stream& on) {
  if (r.num_elements == 0) return nullptr;
  const auto stream = static_cast<cudaStream_t>(on.native);
  switch (r.dtype) {
    case DType::kF32: launch<float>(r, stream); break;
    case DType::kF64: launch<double>(r, stream); break;
    case DType::kI32: launch<std::int32_t>(r, stream); break;
    case DType::kI64: launch<std::int64_t>(r, stream); break;
    case DType::kU32: launch<std::uint32_t>(r, stream); break;
    default: return "no reduction for this dtype";
  }
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace dsv::comm
