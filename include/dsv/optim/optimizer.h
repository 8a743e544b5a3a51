// The optimizer step over a ParamStore: global-norm clip, fused AdamW, EMA.
#pragma once

#include <string>

#include "dsv/autograd/param_store.h"
#include "dsv/optim/optim_config.h"

namespace dsv::optim {

struct GradNorm {
  double norm = 0;  // over all finite elements, before clipping
  std::int64_t num_nonfinite = 0;
  std::string first_nonfinite;  // the unit that holds the first one; "" if none
};

// Of the gradients as they lie in the store, which must be the same on all dp ranks.
GradNorm gradient_norm(const autograd::Context& ctx, const autograd::ParamStore& store);

// min(1, max_norm / (norm + 1e-6)) as PyTorch's clip_grad_norm_; 1 when max_norm is 0.
double clip_scale(double norm, double max_norm);

// EMA decay at update n (counted from 1): min(config.ema_decay, (1 + n) / (10 + n)).
double ema_decay_at(const OptimConfig& config, std::int64_t update);

// One AdamW update of every unit: update counts from 1. Gradients are read, not cleared.
void adamw_step(const autograd::Context& ctx, autograd::ParamStore& store,
                const OptimConfig& config, double lr, double grad_scale, std::int64_t update);

}  // namespace dsv::optim
