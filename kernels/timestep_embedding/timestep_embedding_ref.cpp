#include <cmath>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void timestep_embedding(const TimestepEmbedding& args, const Stream&) {
  const View t(args.t), y(args.y);
  const std::int64_t B = args.y.dim(0), half = args.y.dim(1) / 2;
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle =
          t(b) * std::exp(-std::log(10000.0) * static_cast<double>(i) / static_cast<double>(half));
      y(b, i) = std::cos(angle);
      y(b, half + i) = std::sin(angle);
    }
  }
}

}  // namespace dsv::kernels::reference
