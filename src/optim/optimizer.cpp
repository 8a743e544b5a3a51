#include "dsv/optim/optimizer.h"

#include <algorithm>
#include <cmath>

#include "dsv/tensor/transfer.h"

namespace dsv::optim {

GradNorm gradient_norm(const autograd::Context& ctx, const autograd::ParamStore& store) {
  GradNorm out;
  double squares = 0;
  for (const autograd::ParamUnit& unit : store.units()) {
    const Tensor device = ctx.arena.empty({2}, DType::kF64);
    ctx.kernels.sum_squares({.x = unit.grad, .out = device}, ctx.stream);
    double host[2] = {0, 0};
    transfer(device, Tensor(host, DType::kF64, {2}), ctx.stream);
    squares += host[0];
    if (host[1] > 0 && out.num_nonfinite == 0) out.first_nonfinite = unit.name;
    out.num_nonfinite += static_cast<std::int64_t>(host[1]);
  }
  out.norm = std::sqrt(squares);
  return out;
}

double clip_scale(double norm, double max_norm) {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

double ema_decay_at(const OptimConfig& config, std::int64_t update) {
  const auto n = static_cast<double>(update);
  return std::min(config.ema_decay, (1 + n) / (10 + n));
}

void adamw_step(const autograd::Context& ctx, autograd::ParamStore& store,
                const OptimConfig& config, double lr, double grad_scale, std::int64_t update) {
  for (const autograd::ParamUnit& unit : store.units()) {
    // Neighbours with the same decay make one segment.
    std::vector<kernels::AdamWSegment> segments;
    for (const autograd::ParamEntry& entry : unit.entries) {
      const auto decay = static_cast<float>(entry.spec.decay ? config.weight_decay : 0.0);
      if (!segments.empty() && segments.back().end == entry.begin &&
          segments.back().weight_decay == decay) {
        segments.back().end = entry.end;
      } else {
        segments.push_back({entry.begin, entry.end, decay});
      }
    }
    ctx.kernels.adamw({.param = unit.master,
                       .grad = unit.grad,
                       .m = unit.m,
                       .v = unit.v,
                       .ema = unit.ema,
                       .copy = unit.copy,
                       .segments = segments,
                       .lr = lr,
                       .beta1 = config.beta1,
                       .beta2 = config.beta2,
                       .eps = config.eps,
                       .grad_scale = grad_scale,
                       .ema_decay = ema_decay_at(config, update),
                       .step = update},
                      ctx.stream);
  }
}

}  // namespace dsv::optim
