#include "dsv/optim/optimizer.h"

#include <algorithm>
#include <cmath>

#include "dsv/tensor/transfer.h"

namespace dsv::optim {

GradNorm gradient_norm(const autograd::Context& ctx, const autograd::ParamStore& store) {
  GradNorm out;
  double squares = 0;
  // One transfer for all units: each waits for the device.
  const auto num_units = static_cast<std::int64_t>(store.units().size());
  const Tensor device = ctx.arena.empty({num_units, 2}, DType::kF64);
  std::vector<double> host(static_cast<std::size_t>(2 * num_units));
  for (std::int64_t i = 0; i < num_units; ++i) {
    ctx.kernels.sum_squares({.x = store.units()[static_cast<std::size_t>(i)].grad,
                             .out = device.select(0, i)},
                            ctx.stream);
  }
  transfer(device, Tensor(host.data(), DType::kF64, {num_units, 2}), ctx.stream);
  for (std::size_t i = 0; i < store.units().size(); ++i) {
    squares += host[2 * i];
    const double nonfinite = host[2 * i + 1];
    if (nonfinite > 0 && out.num_nonfinite == 0) out.first_nonfinite = store.units()[i].name;
    out.num_nonfinite += static_cast<std::int64_t>(nonfinite);
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
