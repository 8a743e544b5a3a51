#include <algorithm>
#include <cmath>
#include <vector>

#include "score_stats/score_reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void attention_profile(const AttentionProfile& args, const Stream&) {
  const std::int64_t B = args.q.dim(0), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1), R = args.rows.dim(0);
  const std::int64_t Gs = args.block_mass.dim(2), N = args.block_mass.dim(3);
  const View stats(args.stats), block_mass(args.block_mass), bin_mass(args.bin_mass);
  std::vector<double> blocks;
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      const View q = head_of(args.q, b, h), k = head_of(args.k, b, h);
      for (std::int64_t g = 0; g < Gs; ++g) {
        blocks.assign(static_cast<std::size_t>(N), 0);
        std::int64_t num_rows = 0;
        for (std::int64_t n = g * (R / Gs); n < (g + 1) * (R / Gs); ++n) {
          std::int32_t counts[kNumProfileBins] = {};
          double masses[kNumProfileBins] = {};
          const std::int64_t i = args.rows.i32()[n], num_keys = i < 0 ? 0 : Skv;
          num_rows += i >= 0;
          for (std::int64_t j = 0; j < num_keys; ++j) {
            const double below = stats(b, h, n, kMax) - args.scale * dot_rows(q, i, k, j, D);
            const double p = std::exp(-below) / stats(b, h, n, kSumExp);
            const auto bin = static_cast<std::size_t>(
                std::clamp(below / kProfileBinWidth, 0.0, kNumProfileBins - 1.0));
            ++counts[bin];
            masses[bin] += p;
            blocks[static_cast<std::size_t>(block_of(args.block_start, j))] += p;
          }
          for (std::int64_t i_bin = 0; i_bin < kNumProfileBins; ++i_bin) {
            args.bin_count.i32()[((b * H + h) * R + n) * kNumProfileBins + i_bin] = counts[i_bin];
            bin_mass(b, h, n, i_bin) = masses[i_bin];
          }
        }
        for (std::int64_t n = 0; n < N; ++n) {
          block_mass(b, h, g, n) =
              num_rows > 0 ? blocks[static_cast<std::size_t>(n)] / static_cast<double>(num_rows)
                           : 0;
        }
      }
    }
  }
}

}  // namespace dsv::kernels::reference
