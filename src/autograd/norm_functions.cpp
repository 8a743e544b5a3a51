#include "dsv/autograd/functions.h"

namespace dsv::autograd {
namespace {

// Row i of a modulation table [B, n, C] as (B, C) with the row stride of the table.
Tensor modulation_row(const Tensor& table, int i) {
  return table.select(1, i);
}

// Adds a (B, C) gradient to row i of the gradient of a modulation table.
void add_modulation_grad(const Context& ctx, const Variable& table, int i, const Tensor& d) {
  const Tensor all = table.grad_or_zeros(ctx);
  ctx.kernels.axpby({.x = d, .y = modulation_row(all, i), .a = 1, .b = 1}, ctx.stream);
}

void check_modulation(const char* op, const Variable& x, const Variable& table, int i) {
  DSV_CHECK(x.shape().num_dims() == 3, "[{}] expected x [B, S, C], got {}", op, x.shape());
  if (!table) return;
  const Shape& m = table.shape();
  DSV_CHECK(m.num_dims() == 3 && m[0] == x.dim(0) && m[2] == x.dim(2) && i >= 0 && i < m[1],
            "[{}] modulation {} row {} does not fit x {}", op, m, i, x.shape());
}

}  // namespace

Variable layer_norm(const Context& ctx, const Variable& x, const Param& weight, const Param& bias,
                    const Modulation& modulation, float eps) {
  const Variable& table = modulation.table;
  check_modulation("layer_norm", x, table, modulation.shift_idx);
  check_modulation("layer_norm", x, table, modulation.scale_idx);
  const std::int64_t batch = x.dim(0), tokens = x.dim(1), width = x.dim(2);
  DSV_CHECK(!weight.defined() || weight.master.num_elements() == width,
            "[layer_norm] weight has {} values, x is {}", weight.master.num_elements(), x.shape());
  const Variable y(ctx.arena.empty(x.shape(), ctx.compute_dtype), ctx.tape != nullptr);
  const Tensor mean = ctx.arena.empty({batch, tokens}), rstd = ctx.arena.empty({batch, tokens});
  const Tensor scale = table ? modulation_row(table.value(), modulation.scale_idx) : Tensor();
  const Tensor shift = table ? modulation_row(table.value(), modulation.shift_idx) : Tensor();
  ctx.kernels.layer_norm_forward({.x = x.value(),
                                  .weight = weight.master,
                                  .bias = bias.master,
                                  .scale = scale,
                                  .shift = shift,
                                  .y = y.value(),
                                  .mean = mean,
                                  .rstd = rstd,
                                  .eps = eps},
                                 ctx.stream);
  if (ctx.tape == nullptr) return y;

  ctx.tape->record([=](const Context& c) {
    const Tensor dy = y.take_grad();
    if (!dy.defined()) return;
    const bool modulated = table && table.needs_grad();
    const Tensor dscale = modulated ? c.arena.empty({batch, width}) : Tensor();
    const Tensor dshift = modulated ? c.arena.empty({batch, width}) : Tensor();
    const Variable::GradSlot dx = x.grad_slot(c);
    c.kernels.layer_norm_backward({.x = x.value(),
                                   .weight = weight.master,
                                   .bias = bias.master,
                                   .scale = scale,
                                   .mean = mean,
                                   .rstd = rstd,
                                   .dy = dy,
                                   .dx = dx.tensor,
                                   .dweight = weight.grad,
                                   .dbias = bias.grad,
                                   .dscale = dscale,
                                   .dshift = dshift,
                                   .accumulate_dx = dx.accumulate},
                                  c.stream);
    if (modulated) {
      add_modulation_grad(c, table, modulation.scale_idx, dscale);
      add_modulation_grad(c, table, modulation.shift_idx, dshift);
    }
  });
  return y;
}

Variable gated_residual(const Context& ctx, const Variable& x, const Variable& h,
                        const Variable& modulation, int gate_idx) {
  check_modulation("gated_residual", x, modulation, gate_idx);
  DSV_CHECK(x.shape() == h.shape(), "[gated_residual] x is {}, h is {}", x.shape(), h.shape());
  const Variable y(ctx.arena.like(x.value()), ctx.tape != nullptr);
  const Tensor gate = modulation ? modulation_row(modulation.value(), gate_idx) : Tensor();
  ctx.kernels.gated_residual_forward({.x = x.value(), .h = h.value(), .gate = gate, .y = y.value()},
                                     ctx.stream);
  if (ctx.tape == nullptr) return y;

  ctx.tape->record([=](const Context& c) {
    Tensor dy = y.take_grad();
    if (!dy.defined()) return;
    const bool modulated = modulation && modulation.needs_grad();
    const Tensor dgate = modulated ? c.arena.empty({x.dim(0), x.dim(2)}) : Tensor();
    const Tensor dh = c.arena.like(h.value());
    c.kernels.gated_residual_backward(
        {.h = h.value(), .gate = gate, .dy = dy, .dh = dh, .dgate = dgate}, c.stream);
    h.add_grad(c, dh);
    if (modulated) add_modulation_grad(c, modulation, gate_idx, dgate);
    x.add_grad(c, std::move(dy));
  });
  return y;
}

}  // namespace dsv::autograd
