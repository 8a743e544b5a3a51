#include "dsv/optim/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace dsv::optim {

double learning_rate(const OptimConfig& config, std::int64_t step, std::int64_t total_steps) {
  if (step < config.warmup_steps) {
    return config.lr * static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  if (config.schedule == Schedule::kConstant) return config.lr;
  const std::int64_t length =
      config.decay_steps > 0 ? config.decay_steps : total_steps - config.warmup_steps;
  const double done = std::clamp(static_cast<double>(step - config.warmup_steps) /
                                     static_cast<double>(std::max<std::int64_t>(1, length)),
                                 0.0, 1.0);
  const double remaining = config.schedule == Schedule::kCosine
                               ? 0.5 * (1 + std::cos(std::numbers::pi * done))
                               : 1 - done;
  return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * remaining);
}

}  // namespace dsv::optim
