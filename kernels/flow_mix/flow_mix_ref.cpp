#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void flow_mix(const FlowMix& args, const Stream&) {
  const View x0(args.x0), noise(args.noise), sigma(args.sigma), x_t(args.x_t), target(args.target);
  const std::int64_t B = args.x0.dim(0), N = args.x0.dim(1);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t n = 0; n < N; ++n) {
      const double clean = x0(b, n), e = noise(b, n);  // read before the outputs, which may alias
      x_t(b, n) = (1 - sigma(b)) * clean + sigma(b) * e;
      target(b, n) = static_cast<double>(args.target_sign) * (e - clean);
    }
  }
}

}  // namespace dsv::kernels::reference
