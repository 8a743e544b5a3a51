// Tensor-core products of bf16 with f32 accumulation, warp by warp (mma.sync), and what feeds them:
// ldmatrix from shared memory, cp.async into it.
//
// Fragments of one product, C (16 x 8) += A (16 x 16) B (16 x 8). With g = lane / 4, t = lane % 4,
// a lane holds (row, columns) or, of B, (rows, column):
//   A, 4 registers of 2 bf16:  0: (g, 2t 2t+1)     1: (g+8, 2t 2t+1)
//                              2: (g, 2t+8 2t+9)   3: (g+8, 2t+8 2t+9)
//   B, 2 registers of 2 bf16:  0: (2t 2t+1, g)     1: (2t+8 2t+9, g)
//   C, 4 f32:                  0, 1: (g, 2t 2t+1)  2, 3: (g+8, 2t 2t+1)
// The lower half of a register is the element of the lower index. Two blocks of C side by side, in
// bf16, are therefore the A of a product over their columns (accumulators_as_a).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace dsv::kernels::cuda {

// --- Instructions --------------------------------------------------------------------------------

// The address that the instructions below take.
__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// Starts copying 16 bytes to shared memory, both sides 16-byte aligned; not `there`: zeros instead,
// and the source does not matter.
__device__ inline void copy_async_16(std::uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}
// All 16 bytes are there.
__device__ inline void copy_async_16(std::uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
}
// The same for 4 bytes.
__device__ inline void copy_async_4(std::uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from),
               "r"(there ? 4 : 0)
               : "memory");
}
// Closes this thread's group of copies; waits until at most kPending of its groups are under way.
// Other threads see a copy after the copying thread's wait and a barrier.
__device__ inline void copy_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int kPending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of bf16. Lane l gives the address of row l % 8 (16 bytes, aligned) of matrix
// l / 8. Register m becomes (g, 2t 2t+1) of matrix m; transposed: (2t 2t+1, g).
__device__ inline void load_matrices(std::uint32_t address, std::uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_matrices_transposed(std::uint32_t address, std::uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// The reverse: lane l gives the address of row l % 8 of matrix l / 8, all of which are stored.
__device__ inline void store_matrices(std::uint32_t address, const std::uint32_t (&in)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(address),
               "r"(in[0]), "r"(in[1]), "r"(in[2]), "r"(in[3])
               : "memory");
}

// c += a b.
__device__ inline void mma(const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                           float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x to about 2^-22 relative: 1 at 0, 0 at -inf and wherever the result is below 2^-126.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Both rounded to bf16, `low` in the lower half.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// --- Matrices in shared memory -------------------------------------------------------------------
// (rows, kDim) bf16, a row of kDim / 8 + 1 chunks of 16 bytes. kDim is a multiple of 16, so the
// number of chunks is odd, and eight rows of one column lie in eight different groups of banks:
// ldmatrix has no conflicts, and addresses are a lane's own plus a constant.

constexpr int shared_row(int kDim) { return kDim + 8; }  // elements
constexpr int shared_bytes(int num_rows, int kDim) { return 2 * num_rows * shared_row(kDim); }

// What a lane adds to the address of a block's first element: for A (16 rows, 16 of depth), and for
// B whose rows are the depth (16 of depth, 16 columns: two blocks), which is loaded transposed;
template <int kDim>
__device__ inline std::uint32_t lane_offset_rows() {
  const std::uint32_t lane = threadIdx.x % 32;
  return 2 * (lane % 16 * shared_row(kDim) + lane / 16 * 8);
}
// for B whose rows are the columns of the product (16 columns: two blocks; 16 of depth).
template <int kDim>
__device__ inline std::uint32_t lane_offset_columns() {
  const std::uint32_t lane = threadIdx.x % 32;
  return 2 * ((lane / 16 * 8 + lane % 8) * shared_row(kDim) + lane / 8 % 2 * 8);
}

// c (16 kM, 8 kN) = A B^T over kDim: A (16 kM, kDim) at `a`, which includes lane_offset_rows, and B
// (8 kN, kDim) at `b`, which includes lane_offset_columns.
template <int kDim, int kM, int kN>
__device__ inline void multiply_rows(std::uint32_t a, std::uint32_t b, float (&c)[kM][kN][4]) {
  constexpr int kRow = 2 * shared_row(kDim);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) c[m][n][0] = c[m][n][1] = c[m][n][2] = c[m][n][3] = 0;
  }
  // Not all at once: fragments loaded far ahead would push accumulators out of the registers.
  constexpr int kUnroll = kDim <= 64 ? 2 : 4;
#pragma unroll kUnroll
  for (int k = 0; k < kDim / 16; ++k) {
    std::uint32_t fa[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) load_matrices(a + m * 16 * kRow + k * 32, fa[m]);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      std::uint32_t fb[4];
      load_matrices(b + n * 8 * kRow + k * 32, fb);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma(fa[m], fb[0], fb[1], c[m][n]);
        mma(fa[m], fb[2], fb[3], c[m][n + 1]);
      }
    }
  }
}

// Two blocks of C side by side, rounded to bf16, as the A of a product over their columns.
__device__ inline void accumulators_as_a(const float (&left)[4], const float (&right)[4],
                                         std::uint32_t (&a)[4]) {
  a[0] = pack_bf16(left[0], left[1]);
  a[1] = pack_bf16(left[2], left[3]);
  a[2] = pack_bf16(right[0], right[1]);
  a[3] = pack_bf16(right[2], right[3]);
}

// All blocks of (16 kM, 8 kN).
template <int kM, int kN>
__device__ inline void accumulators_as_a(const float (&c)[kM][kN][4],
                                         std::uint32_t (&a)[kM][kN / 2][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; n += 2) accumulators_as_a(c[m][n], c[m][n + 1], a[m][n / 2]);
  }
}

// c (16 kM, kDim) += A B: A (16 kM, 16 kK) in fragments, B (16 kK, kDim) at `b`, which includes
// lane_offset_rows.
template <int kDim, int kM, int kK>
__device__ inline void multiply_add(const std::uint32_t (&a)[kM][kK][4], std::uint32_t b,
                                    float (&c)[kM][kDim / 8][4]) {
  constexpr int kRow = 2 * shared_row(kDim);
#pragma unroll
  for (int k = 0; k < kK; ++k) {
#pragma unroll
    for (int n = 0; n < kDim / 8; n += 2) {
      std::uint32_t fb[4];
      load_matrices_transposed(b + k * 16 * kRow + n * 16, fb);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma(a[m][k], fb[0], fb[1], c[m][n]);
        mma(a[m][k], fb[2], fb[3], c[m][n + 1]);
      }
    }
  }
}

}  // namespace dsv::kernels::cuda
