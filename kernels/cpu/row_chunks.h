// Sums over rows that must not depend on the number of threads: rows are cut into chunks by the
// shape alone, each chunk adds up its own row of partial sums in f32, and the partial sums are
// added in order, in f64.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/arguments.h"

namespace dsv::kernels::cpu {

inline constexpr std::int64_t kRowsPerChunk = 64;

inline std::int64_t num_row_chunks(std::int64_t rows) {
  return (rows + kRowsPerChunk - 1) / kRowsPerChunk;
}

// How many chunks of rows of C elements are worth a thread.
inline std::int64_t chunk_grain(std::int64_t C) {
  return std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, kRowsPerChunk * C));
}
// The same for single rows.
inline std::int64_t row_grain(std::int64_t C) {
  return std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, C));
}

// A few columns of partial sums (num_chunks, stride) added up.
inline constexpr std::int64_t kColumns = 64;
struct ColumnSums {
  double sum[kColumns];

  ColumnSums(const float* partials, std::int64_t num_chunks, std::int64_t stride,
             std::int64_t num_columns) {
    std::fill(sum, sum + num_columns, 0.0);
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) {
      const float* row = partials + chunk * stride;
      for (std::int64_t c = 0; c < num_columns; ++c) sum[c] += static_cast<double>(row[c]);
    }
  }
};

}  // namespace dsv::kernels::cpu
