// Learning rate at a step: linear warm-up, then constant, cosine, or linear decay.
#pragma once

#include "dsv/optim/optim_config.h"

namespace dsv::optim {

// step counts from 0; total_steps ends the decay when decay_steps is 0. The first step of a warm-up
// of n has lr / n, step n - 1 the full lr.
double learning_rate(const OptimConfig& config, std::int64_t step, std::int64_t total_steps);

}  // namespace dsv::optim
