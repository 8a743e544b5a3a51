#include "dsv/autograd/functions.h"

namespace dsv::autograd {
namespace {

// [..., K] as (rows, K).
Tensor as_rows(const Tensor& x) {
  return x.reshape({-1, x.dim(-1)});
}

}  // namespace

Variable linear(const Context& ctx, const Variable& x, const Param& weight, const Param& bias,
                Activation activation) {
  const std::int64_t num_out = weight.master.dim(0);
  const std::int64_t num_in = weight.master.num_elements() / num_out;
  DSV_CHECK(x.dim(-1) == num_in, "[linear] weight {} expects {} channels, x is {}",
            weight.master.shape(), num_in, x.shape());
  DSV_CHECK(!bias.defined() || bias.master.num_elements() == num_out,
            "[linear] bias has {} values, weight {} rows", bias.master.num_elements(), num_out);
  const DType dtype = x.value().dtype();
  const Tensor w = weight.as(dtype).reshape({num_out, num_in});
  Shape shape = x.shape();
  shape[-1] = num_out;
  const Variable y(ctx.arena.empty(shape, dtype), ctx.tape != nullptr);
  const bool keep_pre = activation != Activation::kNone;
  const Tensor pre = keep_pre ? ctx.arena.empty(shape, dtype) : Tensor();
  ctx.kernels.linear_forward({.x = as_rows(x.value()),
                              .weight = w,
                              .bias = bias.defined() ? bias.as(dtype) : Tensor(),
                              .y = as_rows(y.value()),
                              .activation = activation,
                              .pre_activation = keep_pre ? as_rows(pre) : Tensor()},
                             ctx.stream);
  if (ctx.tape == nullptr) return y;

  ctx.tape->record([x, y, w, weight, bias, pre, activation, num_out, num_in](const Context& c) {
    Tensor dy = y.take_grad();
    if (!dy.defined()) return;
    if (activation != Activation::kNone) {
      c.kernels.activation_backward({.x = pre, .dy = dy, .dx = dy, .kind = activation}, c.stream);
    }
    const Variable::GradSlot dx = x.grad_slot(c);
    const Tensor dweight =
        weight.grad.defined() ? weight.grad.reshape({num_out, num_in}) : Tensor();
    c.kernels.linear_backward({.x = as_rows(x.value()),
                               .weight = w,
                               .dy = as_rows(dy),
                               .dx = dx.tensor.defined() ? as_rows(dx.tensor) : Tensor(),
                               .dweight = dweight,
                               .dbias = bias.grad,
                               .accumulate_dx = dx.accumulate},
                              c.stream);
  });
  return y;
}

Variable activation(const Context& ctx, const Variable& x, Activation kind) {
  const Variable y(ctx.arena.like(x.value()), ctx.tape != nullptr);
  ctx.kernels.activation_forward({.x = x.value(), .y = y.value(), .kind = kind}, ctx.stream);
  if (ctx.tape == nullptr) return y;
  ctx.tape->record([x, y, kind](const Context& c) {
    const Tensor dy = y.take_grad();
    if (!dy.defined() || !x.needs_grad()) return;
    c.kernels.activation_backward({.x = x.value(), .dy = dy, .dx = dy, .kind = kind}, c.stream);
    x.add_grad(c, dy);
  });
  return y;
}

Variable geglu(const Context& ctx, const Variable& x) {
  Shape shape = x.shape();
  shape[-1] = div_exact(shape[-1], 2);
  const Variable y(ctx.arena.empty(shape, x.value().dtype()), ctx.tape != nullptr);
  ctx.kernels.geglu_forward({.x = as_rows(x.value()), .y = as_rows(y.value())}, ctx.stream);
  if (ctx.tape == nullptr) return y;
  ctx.tape->record([x, y](const Context& c) {
    const Tensor dy = y.take_grad();
    if (!dy.defined() || !x.needs_grad()) return;
    const Tensor dx = c.arena.like(x.value());
    c.kernels.geglu_backward({.x = as_rows(x.value()), .dy = as_rows(dy), .dx = as_rows(dx)},
                             c.stream);
    x.add_grad(c, dx);
  });
  return y;
}

}  // namespace dsv::autograd
