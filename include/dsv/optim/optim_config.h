// Settings of the optimizer and its schedule.
#pragma once

#include <cstdint>

namespace dsv::optim {

enum class Schedule { kConstant, kCosine, kLinear };

struct OptimConfig {
  double lr = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;  // decoupled; norms, biases, and tables are exempt
  double grad_clip = 1.0;      // global norm; 0: off (the norm is still measured)
  Schedule schedule = Schedule::kConstant;
  std::int64_t warmup_steps = 100;  // linear from 0
  std::int64_t decay_steps = 0;     // length of cosine/linear after warm-up; 0: up to run.steps
  double min_lr_ratio = 0.0;        // floor of the decay, as a share of lr
  bool ema = true;
  double ema_decay = 0.999;  // min(ema_decay, (1 + n) / (10 + n)) at update n
};

}  // namespace dsv::optim
