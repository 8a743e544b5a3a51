// Bytes are bytes: every dtype takes the same path. Rows come from anywhere, where the processor
// does not look ahead by itself, so the head of a row is asked for a few rows before its turn.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/arguments.h"
#include "cpu/parallel.h"
#include "tables/entries.h"

namespace dsv::kernels::cpu {

void gather_rows(const GatherRows& args, const Stream& stream) {
  const std::int64_t B = args.y.dim(0), N = args.y.dim(1), C = args.y.dim(2);
  if (B * N * C == 0) return;
  const std::int64_t size = size_of(args.x.dtype()), row_bytes = C * size;
  const std::int32_t* const index = args.index.i32();
  const char* const x = static_cast<const char*>(args.x.raw());
  char* const y = static_cast<char*>(args.y.raw());
  const auto row_of_x = [&](std::int64_t b, std::int64_t i) {
    return x + (b * args.x.stride(0) + index[i] * args.x.stride(1)) * size;
  };
  constexpr std::int64_t kRowsAhead = 4, kLine = 64, kLinesAhead = 16;
  const std::int64_t ahead_bytes = std::min(row_bytes, kLinesAhead * kLine);
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / C);
  parallel_for(stream, B * N, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t b = row / N, i = row % N;
      if (i + kRowsAhead < N) {
        const char* const ahead = row_of_x(b, i + kRowsAhead);
        for (std::int64_t at = 0; at < ahead_bytes; at += kLine) __builtin_prefetch(ahead + at);
      }
      std::memcpy(y + (b * args.y.stride(0) + i * args.y.stride(1)) * size, row_of_x(b, i),
                  static_cast<std::size_t>(row_bytes));
    }
  });
}

}  // namespace dsv::kernels::cpu
