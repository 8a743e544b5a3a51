#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void bit_transpose(const BitTranspose& args, const Stream&) {
  const std::int64_t R = args.in.dim(0), G = args.in.dim(1), in_words = args.in.dim(2);
  const std::int64_t N = args.out.dim(1), out_words = args.out.dim(2);
  const std::uint32_t* const in = args.in.u32();
  std::uint32_t* const out = args.out.u32();
  for (std::int64_t r = 0; r < R; ++r) {
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t w = 0; w < out_words; ++w) {
        std::uint32_t word = 0;
        for (std::int64_t g = 32 * w; g < std::min(G, 32 * w + 32); ++g) {
          word |= (in[(r * G + g) * in_words + n / 32] >> (n % 32) & 1u) << (g % 32);
        }
        out[(r * N + n) * out_words + w] = word;
      }
    }
  }
}

}  // namespace dsv::kernels::reference
