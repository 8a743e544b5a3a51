#include "dsv/autograd/functions.h"

namespace dsv::autograd {
namespace {

// x [..., row] as (rows, row.num_elements()).
Tensor over_row(const Tensor& x, const Tensor& row) {
  return x.reshape({-1, row.num_elements()});
}

}  // namespace

Variable broadcast_add(const Context& ctx, const Variable& x, const Param& row) {
  const Variable y(ctx.arena.like(x.value()), ctx.tape != nullptr);
  ctx.kernels.broadcast_add_forward({.x = over_row(x.value(), row.master),
                                     .row = row.master.reshape({-1}),
                                     .y = over_row(y.value(), row.master)},
                                    ctx.stream);
  if (ctx.tape == nullptr) return y;
  ctx.tape->record([x, y, row](const Context& c) {
    Tensor dy = y.take_grad();
    if (!dy.defined()) return;
    if (row.grad.defined()) {
      c.kernels.broadcast_add_backward(
          {.dy = over_row(dy, row.grad), .drow = row.grad.reshape({-1})}, c.stream);
    }
    x.add_grad(c, std::move(dy));
  });
  return y;
}

Variable broadcast_add(const Context& ctx, const Variable& x, const Tensor& row) {
  return broadcast_add(ctx, x, Param{.value = row, .master = row});
}

Variable repeat_rows(const Context& ctx, const Variable& x, std::int64_t n) {
  DSV_CHECK(x.shape().num_dims() == 2, "[repeat_rows] expected [B, C], got {}", x.shape());
  const Variable y(ctx.arena.empty({x.dim(0), n, x.dim(1)}, x.value().dtype()),
                   ctx.tape != nullptr);
  for (std::int64_t i = 0; i < n; ++i) {
    ctx.kernels.axpby({.x = x.value(), .y = y.value().select(1, i), .a = 1, .b = 0}, ctx.stream);
  }
  if (ctx.tape == nullptr) return y;
  ctx.tape->record([x, y, n](const Context& c) {
    const Tensor dy = y.take_grad();
    if (!dy.defined() || !x.needs_grad()) return;
    const Tensor dx = x.grad_or_zeros(c);
    for (std::int64_t i = 0; i < n; ++i) {
      c.kernels.axpby({.x = dy.select(1, i), .y = dx, .a = 1, .b = 1}, c.stream);
    }
  });
  return y;
}

Variable permute_rows(const Context& ctx, const Variable& x, const Tensor& index,
                      const Tensor& inverse) {
  DSV_CHECK(x.shape().num_dims() == 3 && index.shape() == Shape{x.dim(1)} &&
                inverse.shape() == index.shape(),
            "[permute_rows] index {} and its inverse {} do not fit rows [B, S, C] = {}",
            index.shape(), inverse.shape(), x.shape());
  const bool recorded = ctx.tape != nullptr && x.needs_grad();
  const Variable y(ctx.arena.like(x.value()), recorded);
  ctx.kernels.gather_rows({.x = x.value(), .index = index, .y = y.value()}, ctx.stream);
  if (!recorded) return y;
  ctx.tape->record([x, y, inverse](const Context& c) {
    const Tensor dy = y.take_grad();
    if (!dy.defined()) return;
    const Tensor dx = c.arena.like(dy);
    c.kernels.gather_rows({.x = dy, .index = inverse, .y = dx}, c.stream);
    x.add_grad(c, dx);
  });
  return y;
}

Variable cast(const Context& ctx, const Variable& x, DType dtype) {
  if (x.value().dtype() == dtype) return x;
  const Variable y(ctx.arena.empty(x.shape(), dtype), ctx.tape != nullptr);
  ctx.kernels.cast({.x = x.value(), .y = y.value()}, ctx.stream);
  if (ctx.tape == nullptr) return y;
  ctx.tape->record([x, y](const Context& c) {
    const Tensor dy = y.take_grad();
    if (!dy.defined() || !x.needs_grad()) return;
    const Tensor dx = c.arena.like(x.value());
    c.kernels.cast({.x = dy, .y = dx}, c.stream);
    x.add_grad(c, dx);
  });
  return y;
}

Variable reshape(const Context& ctx, const Variable& x, const Shape& shape) {
  const Variable y(x.value().reshape(shape), ctx.tape != nullptr);
  if (ctx.tape == nullptr) return y;
  ctx.tape->record([x, y](const Context& c) {
    Tensor dy = y.take_grad();
    if (dy.defined()) x.add_grad(c, dy.reshape(x.shape()));
  });
  return y;
}

Tensor patchify(const Context& ctx, const Tensor& video, const PatchGeometry& geometry,
                bool channels_last) {
  const auto& p = geometry.patch;
  DSV_CHECK(video.num_dims() == 5 && video.dim(2) == geometry.latent[0] &&
                video.dim(3) == geometry.latent[1] && video.dim(4) == geometry.latent[2],
            "[patchify] expected [B, C, {}, {}, {}], got {}", geometry.latent[0],
            geometry.latent[1], geometry.latent[2], video.shape());
  for (int axis = 0; axis < 3; ++axis) {
    DSV_CHECK(video.dim(2 + axis) % p[static_cast<std::size_t>(axis)] == 0,
              "[patchify] latent {} is no multiple of the patch {}x{}x{}", video.shape(), p[0],
              p[1], p[2]);
  }
  const Tensor tokens = ctx.arena.empty(
      {video.dim(0), geometry.num_tokens(), video.dim(1) * p[0] * p[1] * p[2]}, ctx.compute_dtype);
  ctx.kernels.patchify(
      {.video = video, .tokens = tokens, .patch = p, .channels_last = channels_last}, ctx.stream);
  return tokens;
}

Variable unpatchify(const Context& ctx, const Variable& tokens, const PatchGeometry& geometry,
                    std::int64_t channels) {
  const auto& p = geometry.patch;
  const Shape& s = tokens.shape();
  DSV_CHECK(
      s.num_dims() == 3 && s[1] == geometry.num_tokens() && s[2] == channels * p[0] * p[1] * p[2],
      "[unpatchify] tokens {} do not make {} channels of {} tokens", s, channels,
      geometry.num_tokens());
  const Variable video(
      ctx.arena.empty({s[0], channels, geometry.latent[0], geometry.latent[1], geometry.latent[2]}),
      ctx.tape != nullptr);
  ctx.kernels.unpatchify(
      {.video = video.value(), .tokens = tokens.value(), .patch = p, .channels_last = true},
      ctx.stream);
  if (ctx.tape == nullptr) return video;
  ctx.tape->record([tokens, video, p](const Context& c) {
    const Tensor dvideo = video.take_grad();
    if (!dvideo.defined()) return;
    const Tensor d = c.arena.like(tokens.value());
    c.kernels.patchify({.video = dvideo, .tokens = d, .patch = p, .channels_last = true}, c.stream);
    tokens.add_grad(c, d);
  });
  return video;
}

Tensor mse_loss(const Context& ctx, const Variable& pred, const Tensor& target,
                const Tensor& weight, float grad_scale) {
  const std::int64_t batch = target.dim(0), channels = target.dim(1);
  DSV_CHECK(pred.shape().num_dims() == 5 && pred.dim(0) == batch && pred.dim(1) >= channels &&
                pred.value().select(1, 0).shape() == target.select(1, 0).shape(),
            "[mse_loss] prediction {} does not fit target {}", pred.shape(), target.shape());
  // The first `channels` of each sample, as rows with the stride of a whole sample.
  const std::int64_t used = target.num_elements() / std::max<std::int64_t>(1, batch);
  const auto rows = [&](const Tensor& x) { return x.reshape({batch, -1}).slice(1, 0, used); };
  const Tensor flat_target = target.reshape({batch, used});
  const Tensor loss = ctx.arena.empty({batch});
  ctx.kernels.mse_loss_forward(
      {.pred = rows(pred.value()), .target = flat_target, .weight = weight, .loss = loss},
      ctx.stream);
  if (ctx.tape != nullptr && pred.needs_grad()) {
    const Tensor dpred = pred.grad_or_zeros(ctx);
    ctx.kernels.mse_loss_backward({.pred = rows(pred.value()),
                                   .target = flat_target,
                                   .weight = weight,
                                   .dpred = rows(dpred),
                                   .grad_scale = grad_scale},
                                  ctx.stream);
  }
  return loss;
}

}  // namespace dsv::autograd
