// Moves that prepare operands of the register tile: rows side by side, or turned into columns.
#if defined(DSV_KERNELS_CPU_PACK_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV_KERNELS_CPU_PACK_INL_H
#undef DSV_KERNELS_CPU_PACK_INL_H
#else
#define DSV_KERNELS_CPU_PACK_INL_H
#endif

#include <algorithm>

#include "cpu/map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// to[r * to_stride + c] = from[r * from_stride + c] for num_columns columns, then 0 up to `width`.
HWY_INLINE void pack_rows(const float* HWY_RESTRICT from, std::int64_t from_stride,
                          std::int64_t num_rows, std::int64_t num_columns,
                          float* HWY_RESTRICT to, std::int64_t to_stride, std::int64_t width) {
  const F32 d;
  const hn::CappedTag<float, 4> quad;  // a strip of A is 12 or 6 wide
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto quad_lanes = static_cast<std::int64_t>(hn::Lanes(quad));
  for (std::int64_t r = 0; r < num_rows; ++r, from += from_stride, to += to_stride) {
    std::int64_t c = 0;
    for (; c + lanes <= num_columns; c += lanes) hn::StoreU(hn::LoadU(d, from + c), d, to + c);
    for (; c + quad_lanes <= num_columns; c += quad_lanes) {
      hn::StoreU(hn::LoadU(quad, from + c), quad, to + c);
    }
    for (; c < num_columns; ++c) to[c] = from[c];
    for (; c < width; ++c) to[c] = 0;
  }
}

// to[c * to_stride + r] = from[r * from_stride + c] for num_rows rows, then 0 up to `width` of r.
HWY_INLINE void pack_transposed(const float* HWY_RESTRICT from, std::int64_t from_stride,
                                std::int64_t num_rows, std::int64_t num_columns,
                                float* HWY_RESTRICT to, std::int64_t to_stride,
                                std::int64_t width) {
  std::int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  // Four rows at a time through 128-bit vectors; reading stays inside each row.
  const hn::CappedTag<float, 4> d;
  const hn::CappedTag<double, 2> pairs;
  for (; r + 4 <= num_rows; r += 4) {
    const float* row = from + r * from_stride;
    std::int64_t c = 0;
    for (; c + 4 <= num_columns; c += 4) {
      const auto r0 = hn::LoadU(d, row + c), r1 = hn::LoadU(d, row + from_stride + c);
      const auto r2 = hn::LoadU(d, row + 2 * from_stride + c);
      const auto r3 = hn::LoadU(d, row + 3 * from_stride + c);
      const auto lo01 = hn::BitCast(pairs, hn::InterleaveLower(d, r0, r1));
      const auto hi01 = hn::BitCast(pairs, hn::InterleaveUpper(d, r0, r1));
      const auto lo23 = hn::BitCast(pairs, hn::InterleaveLower(d, r2, r3));
      const auto hi23 = hn::BitCast(pairs, hn::InterleaveUpper(d, r2, r3));
      float* out = to + c * to_stride + r;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, lo01, lo23)), d, out);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, lo01, lo23)), d, out + to_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, hi01, hi23)), d, out + 2 * to_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, hi01, hi23)), d, out + 3 * to_stride);
    }
    for (; c < num_columns; ++c) {
      for (std::int64_t i = 0; i < 4; ++i) to[c * to_stride + r + i] = row[i * from_stride + c];
    }
  }
#endif
  for (; r < num_rows; ++r) {
    for (std::int64_t c = 0; c < num_columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  }
  for (; r < width; ++r) {
    for (std::int64_t c = 0; c < num_columns; ++c) to[c * to_stride + r] = 0;
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
