#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void gated_residual_forward(const GatedResidualForward& args, const Stream&) {
  const View x(args.x), h(args.h), gate(args.gate), y(args.y);
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t s = 0; s < S; ++s) {
      for (std::int64_t c = 0; c < C; ++c) {
        y(b, s, c) =
            x(b, s, c) + (gate ? gate(b, c) * h(b, s, c) : static_cast<double>(h(b, s, c)));
      }
    }
  }
}

void gated_residual_backward(const GatedResidualBackward& args, const Stream&) {
  const View h(args.h), gate(args.gate), dy(args.dy), dh(args.dh), dgate(args.dgate);
  const std::int64_t B = args.dy.dim(0), S = args.dy.dim(1), C = args.dy.dim(2);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t c = 0; c < C; ++c) {
      double sum = 0;
      for (std::int64_t s = 0; s < S; ++s) {
        if (dgate) sum += dy(b, s, c) * h(b, s, c);
        dh(b, s, c) = gate ? gate(b, c) * dy(b, s, c) : static_cast<double>(dy(b, s, c));
      }
      if (dgate) dgate(b, c) = sum;
    }
  }
}

}  // namespace dsv::kernels::reference
