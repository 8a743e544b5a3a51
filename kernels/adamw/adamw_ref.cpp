#include <cmath>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void adamw(const AdamW& args, const Stream&) {
  const View param(args.param), grad(args.grad), m(args.m), v(args.v), ema(args.ema),
      copy(args.copy);
  const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  for (const AdamWSegment& segment : args.segments) {
    const double shrink = 1 - args.lr * static_cast<double>(segment.weight_decay);
    for (std::int64_t i = segment.begin; i < segment.end; ++i) {
      const double g = grad(i) * args.grad_scale;
      const double m_new = args.beta1 * m(i) + (1 - args.beta1) * g;
      const double v_new = args.beta2 * v(i) + (1 - args.beta2) * g * g;
      const double p_new = param(i) * shrink - args.lr * (m_new / correction1) /
                                                   (std::sqrt(v_new / correction2) + args.eps);
      m(i) = m_new;
      v(i) = v_new;
      param(i) = p_new;
      // Both follow the parameter as stored.
      if (ema) ema(i) = args.ema_decay * ema(i) + (1 - args.ema_decay) * param(i);
      if (copy) copy(i) = param(i);
    }
  }
}

}  // namespace dsv::kernels::reference
