// Squares of 32 x 32 bits, turned in five steps that swap ever smaller quarters.
#include <algorithm>

#include "cpu/parallel.h"
#include "tables/entries.h"

namespace dsv::kernels::cpu {
namespace {

// Bit j of word i becomes bit i of word j.
void transpose_square(std::uint32_t (&rows)[32]) {
  constexpr std::uint32_t kLeft[5] = {0x0000ffff, 0x00ff00ff, 0x0f0f0f0f, 0x33333333, 0x55555555};
  for (int step = 0; step < 5; ++step) {
    const int half = 16 >> step;
    const std::uint32_t left = kLeft[step];
    for (int quarter = 0; quarter < 32; quarter += 2 * half) {
      for (int i = quarter; i < quarter + half; ++i) {
        const std::uint32_t swapped = (rows[i] >> half ^ rows[i + half]) & left;
        rows[i] ^= swapped << half;
        rows[i + half] ^= swapped;
      }
    }
  }
}

}  // namespace

void bit_transpose(const BitTranspose& args, const Stream& stream) {
  const std::int64_t R = args.in.dim(0), G = args.in.dim(1), in_words = args.in.dim(2);
  const std::int64_t N = args.out.dim(1), out_words = args.out.dim(2);
  if (R * N * out_words == 0) return;
  const std::uint32_t* const in = args.in.u32();
  std::uint32_t* const out = args.out.u32();
  // A strip is one word of the input's rows: it becomes 32 whole rows of the output.
  constexpr std::int64_t kSquaresPerShare = 64;
  const std::int64_t grain = std::max<std::int64_t>(1, kSquaresPerShare / out_words);
  parallel_for(stream, R * in_words, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t strip = begin; strip < end; ++strip) {
      const std::int64_t r = strip / in_words, w = strip % in_words;
      const std::int64_t num_rows = std::min<std::int64_t>(32, N - 32 * w);
      for (std::int64_t square = 0; square < out_words; ++square) {
        std::uint32_t words[32] = {};
        const std::int64_t num_groups = std::min<std::int64_t>(32, G - 32 * square);
        const std::uint32_t* from = in + (r * G + 32 * square) * in_words + w;
        for (std::int64_t g = 0; g < num_groups; ++g, from += in_words) words[g] = *from;
        transpose_square(words);
        std::uint32_t* to = out + (r * N + 32 * w) * out_words + square;
        for (std::int64_t n = 0; n < num_rows; ++n, to += out_words) *to = words[n];
      }
    }
  });
}

}  // namespace dsv::kernels::cpu
