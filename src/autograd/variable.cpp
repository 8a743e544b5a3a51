#include "dsv/autograd/variable.h"

#include <utility>

namespace dsv::autograd {

Variable::Variable(Tensor value, bool needs_grad) : node_(std::make_shared<Node>()) {
  node_->value = std::move(value);
  node_->needs_grad = needs_grad;
}

void Variable::add_grad(const Context& ctx, Tensor dy) const {
  if (!needs_grad()) return;
  DSV_CHECK(dy.shape() == shape(), "[autograd] gradient of shape {} for a value of shape {}",
            dy.shape(), shape());
  if (!has_grad()) {
    node_->grad = std::move(dy);
    return;
  }
  ctx.kernels.axpby({.x = dy, .y = node_->grad, .a = 1, .b = 1}, ctx.stream);
}

Variable::GradSlot Variable::grad_slot(const Context& ctx) const {
  if (!needs_grad()) return {};
  if (has_grad()) return {node_->grad, true};
  node_->grad = ctx.arena.empty(shape(), node_->value.dtype());
  return {node_->grad, false};
}

Tensor Variable::grad_or_zeros(const Context& ctx) const {
  const GradSlot slot = grad_slot(ctx);
  if (slot.tensor.defined() && !slot.accumulate) {
    ctx.kernels.fill({.y = slot.tensor, .value = 0}, ctx.stream);
  }
  return slot.tensor;
}

Tensor Variable::take_grad() const {
  return std::exchange(node_->grad, Tensor());
}

}  // namespace dsv::autograd
