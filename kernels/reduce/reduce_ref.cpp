#include <cmath>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void sum_squares(const SumSquares& args, const Stream&) {
  const View x = flat(args.x), out(args.out);
  double sum = 0, non_finite = 0;
  for (std::int64_t e = 0; e < args.x.num_elements(); ++e) {
    const double value = x(e);
    if (std::isfinite(value))
      sum += value * value;
    else
      ++non_finite;
  }
  out(0) = sum;
  out(1) = non_finite;
}

}  // namespace dsv::kernels::reference
