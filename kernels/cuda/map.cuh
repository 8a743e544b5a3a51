// Element-wise kernels: 16-byte accesses, several independent loads per thread, and a scalar path
// where addresses do not allow packs.
#pragma once

#include "cuda/divisor.cuh"
#include "cuda/launch.cuh"
#include "cuda/raw_pack.cuh"
#include "dsv/base/error.h"

namespace dsv::kernels::cuda {

constexpr int kMapThreads = 256;

template <int N, typename T>
__device__ inline Pack<T, N> read(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <typename T, int N>
__device__ inline void write(T* to, const Pack<T, N>& pack) {
  if constexpr (sizeof(pack) % 4 == 0) {
    store_raw(to, __builtin_bit_cast(RawPack<T, N>, pack));
  } else {
    *to = pack.at[0];
  }
}

// rows x columns elements in packs. With several rows, columns is a multiple of the pack.
struct MapExtent {
  std::int64_t columns, num_packs;
  Divisor packs_per_row;
};

// Every load of a thread comes before its first store, so that they wait for memory together; a
// thread stores only where it has loaded, so that outputs may alias inputs.
template <int N, bool kOneRow, typename Op>
__global__ void __launch_bounds__(kMapThreads, 4)
    map_kernel(const __grid_constant__ Op op, const __grid_constant__ MapExtent extent) {
  constexpr int kUnroll = Op::kUnroll;
  const std::int64_t block = std::int64_t{blockIdx.x} * (kMapThreads * kUnroll);
  const std::int64_t first = block + threadIdx.x;
  const auto row_of = [&](std::int64_t pack) {
    return kOneRow ? 0 : extent.packs_per_row.quotient(pack);
  };
  const auto column_of = [&](std::int64_t pack, std::int64_t row) {
    return (kOneRow ? pack : pack - row * extent.packs_per_row.divisor()) * N;
  };
  // The last pack of one row may be cut off: only the last block looks for it.
  if (block + kMapThreads * kUnroll < extent.num_packs) {
    decltype(op.template load<N>(0, 0)) in[kUnroll];
    std::int64_t row[kUnroll], column[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      row[u] = row_of(first + u * kMapThreads);
      column[u] = column_of(first + u * kMapThreads, row[u]);
      in[u] = op.template load<N>(row[u], column[u]);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) op.template finish<N>(row[u], column[u], in[u]);
    return;
  }
#pragma unroll 1
  for (std::int64_t pack = first; pack < extent.num_packs; pack += kMapThreads) {
    const std::int64_t row = row_of(pack), column = column_of(pack, row);
    if (column + N <= extent.columns) {
      op.template finish<N>(row, column, op.template load<N>(row, column));
      continue;
    }
#pragma unroll 1
    for (std::int64_t c = column; c < extent.columns; ++c) {
      op.template finish<1>(row, c, op.template load<1>(row, c));
    }
  }
}

template <int N, bool kOneRow, typename Op>
void launch_map(const Stream& stream, const Op& op, std::int64_t rows, std::int64_t columns) {
  const std::int64_t packs_per_row = (columns + N - 1) / N, num_packs = rows * packs_per_row;
  const unsigned blocks = num_blocks(num_packs, kMapThreads * Op::kUnroll);
  map_kernel<N, kOneRow><<<blocks, kMapThreads, 0, native(stream)>>>(
      op, MapExtent{columns, num_packs, Divisor(packs_per_row)});
  DSV_CUDA_LAUNCHED();
}

// Runs an Op over rows x columns elements. It has
//   kPack    elements of a pack: 16 bytes of its widest type
//   kUnroll  packs that a thread loads before it stores the first
//   load<N>(row, column)        reads what N elements need, as it is stored
//   finish<N>(row, column, in)  computes and stores them
// `packable`: packs of kPack elements at any (row, multiple of kPack) are aligned.
template <typename Op>
void map_rows(const Stream& stream, const Op& op, std::int64_t rows, std::int64_t columns,
              bool packable) {
  require_session(stream);
  if (rows == 0 || columns == 0) return;
  if (rows == 1) {
    packable ? launch_map<Op::kPack, true>(stream, op, 1, columns)
             : launch_map<1, true>(stream, op, 1, columns);
  } else if (packable && columns % Op::kPack == 0) {
    launch_map<Op::kPack, false>(stream, op, rows, columns);
  } else {
    launch_map<1, false>(stream, op, rows, columns);
  }
}

// The same over n elements in one row.
template <typename Op>
void map_flat(const Stream& stream, const Op& op, std::int64_t n, bool packable) {
  require_session(stream);
  if (n == 0) return;
  packable ? launch_map<Op::kPack, true>(stream, op, 1, n) : launch_map<1, true>(stream, op, 1, n);
}

// Throws unless all tensors are f32 or all are bf16.
inline void require_one_dtype(const char* op, std::initializer_list<const Tensor*> tensors) {
  require_f32_or_bf16(op, tensors);
  const DType first = (*tensors.begin())->dtype();
  for (const Tensor* t : tensors) {
    DSV_CHECK(t->dtype() == first, "[{}] expected one dtype, got {} and {}", op, first, t->dtype());
  }
}

}  // namespace dsv::kernels::cuda
