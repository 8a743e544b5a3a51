#include "dsv/parallel/grad_sync.h"

namespace dsv::parallel {

void sync_gradients(const autograd::Context& ctx, autograd::ParamStore& store) {
  for (const autograd::ParamUnit& unit : store.units())
    ctx.mesh.world->all_reduce(unit.grad, comm::ReduceOp::kSum);
}

void broadcast_state(const autograd::Context& ctx, autograd::ParamStore& store) {
  for (const autograd::ParamUnit& unit : store.units()) {
    for (const Tensor& state : {unit.master, unit.m, unit.v, unit.ema}) {
      if (state.defined()) ctx.mesh.world->broadcast(state, 0);
    }
  }
  store.refresh_copies(ctx);
}

}  // namespace dsv::parallel
