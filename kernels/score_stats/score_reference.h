// What the reference fillings of score_stats share.
#pragma once

#include <cstdint>

#include "reference.h"

namespace dsv::kernels::reference {

// One head of one sample: (B, S, H, D) -> (S, D). Undefined stays undefined.
inline View head_of(const Tensor& x, std::int64_t b, std::int64_t h) {
  return View(x ? x.select(2, h).select(0, b) : x);
}

inline double dot_rows(const View& a, std::int64_t a_row, const View& b, std::int64_t b_row,
                       std::int64_t D) {
  double sum = 0;
  for (std::int64_t d = 0; d < D; ++d) sum += a(a_row, d) * b(b_row, d);
  return sum;
}

// The block that holds a key.
inline std::int64_t block_of(const Tensor& block_start, std::int64_t key) {
  if (!block_start) return key;
  std::int64_t n = 0;
  while (block_start.i32()[n + 1] <= key) ++n;
  return n;
}

}  // namespace dsv::kernels::reference
