// Data parallelism: gradients are sums of per-sample sums, added over ranks once per step.
#pragma once

#include "dsv/autograd/param_store.h"

namespace dsv::parallel {

// Adds the gradients of all dp ranks, unit by unit, in ascending rank order (f32).
void sync_gradients(const autograd::Context& ctx, autograd::ParamStore& store);

// Gives every dp rank rank 0's master weights, moments, and EMA: after loading or initialising.
void broadcast_state(const autograd::Context& ctx, autograd::ParamStore& store);

}  // namespace dsv::parallel
