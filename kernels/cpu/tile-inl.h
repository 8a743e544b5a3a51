// The register tile that every matrix product of the cpu filling is made of: a few rows times a few
// vectors of columns, summed over the depth in registers, one multiply-add after the other from 0.
// What an element becomes depends on its own row and column alone, never on where it lies in a tile.
#if defined(DSV_KERNELS_CPU_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV_KERNELS_CPU_TILE_INL_H
#undef DSV_KERNELS_CPU_TILE_INL_H
#else
#define DSV_KERNELS_CPU_TILE_INL_H
#endif

#include "cpu/map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// Accumulators, one row of B, and a broadcast element of A fill the registers: 24 + 2 + 1 of 32
// with AVX-512, 12 + 2 + 1 of 16 with AVX2.
#if HWY_TARGET <= HWY_AVX3
constexpr int kTileRows = 12;
#elif HWY_TARGET != HWY_SCALAR
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 3;
#endif
constexpr int kTileVectors = 2;
constexpr std::int64_t kLanes = hn::MaxLanes(F32());
constexpr std::int64_t kTileColumns = kTileVectors * kLanes;

// How A lies in memory: a(r, k) = a[r * stride + k], or a[k * stride + r].
enum class Operand { kRowMajor, kDepthMajor };

// acc[r][v] = sum_k a(r, k) * b[k * b_stride + v * lanes ...], k in [0, depth).
template <Operand kA, int kRows, int kVectors>
HWY_INLINE void multiply_tile(std::int64_t depth, const float* HWY_RESTRICT a,
                              std::int64_t a_stride, const float* HWY_RESTRICT b,
                              std::int64_t b_stride, VecF32 (&acc)[kRows][kVectors]) {
  const F32 d;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[r][v] = hn::Zero(d);
  }
  // Rows are reached from a few pointers at small multiples of the stride: one pointer per row would
  // not fit in the registers.
  constexpr int kGroup = 3;
  const float* rows[(kRows + kGroup - 1) / kGroup];
#pragma GCC unroll 16
  for (int g = 0; g * kGroup < kRows; ++g) rows[g] = a + g * kGroup * a_stride;
#pragma GCC unroll 1
  for (std::int64_t k = 0; k < depth; ++k) {
    VecF32 row_of_b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row_of_b[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float* at = kA == Operand::kRowMajor ? rows[r / kGroup] + r % kGroup * a_stride : a + r;
      const VecF32 element = hn::Set(d, *at);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        acc[r][v] = hn::MulAdd(element, row_of_b[v], acc[r][v]);
      }
    }
    b += b_stride;
    if constexpr (kA == Operand::kRowMajor) {
#pragma GCC unroll 16
      for (int g = 0; g * kGroup < kRows; ++g) ++rows[g];
    } else {
      a += a_stride;
    }
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
