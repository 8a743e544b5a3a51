#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void fill(const Fill& args, const Stream&) {
  const View y = flat(args.y);
  for (std::int64_t e = 0; e < args.y.num_elements(); ++e) y(e) = args.value;
}

void axpby(const Axpby& args, const Stream&) {
  const bool rows_apart = !args.x.is_contiguous() || !args.y.is_contiguous();
  const Tensor x_rows = rows_apart ? args.x : args.x.reshape({1, -1});
  const Tensor y_rows = rows_apart ? args.y : args.y.reshape({1, -1});
  const View x(x_rows), y(y_rows);
  const double a = args.a, b = args.b;
  for (std::int64_t r = 0; r < x_rows.dim(0); ++r) {
    for (std::int64_t c = 0; c < x_rows.dim(1); ++c) {
      y(r, c) = b == 0 ? a * x(r, c) : a * x(r, c) + b * y(r, c);
    }
  }
}

void cast(const Cast& args, const Stream&) {
  const View x = flat(args.x), y = flat(args.y);
  for (std::int64_t e = 0; e < args.x.num_elements(); ++e) y(e) = x(e);
}

}  // namespace dsv::kernels::reference
