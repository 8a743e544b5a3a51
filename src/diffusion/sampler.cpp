#include "dsv/diffusion/sampler.h"

namespace dsv::diffusion {
namespace {

// The velocity dx/dsigma = noise - x0 from the model's prediction: the first channels, sign undone.
Tensor velocity(const autograd::Context& ctx, model::Dit& dit, sparsity::Controller* attention,
                const Tensor& x, double sigma, const Tensor& text, const Tensor& mask) {
  const std::int64_t batch = x.dim(0);
  const Tensor t = ctx.arena.empty({batch});
  ctx.kernels.fill({.y = t, .value = static_cast<float>(1000 * sigma)}, ctx.stream);
  const autograd::Variable prediction =
      dit.forward(ctx, {.latents = x,
                        .timesteps = t,
                        .text = text,
                        .text_mask = mask,
                        .attention = attention});
  const Tensor v = ctx.arena.like(x);
  const std::int64_t used = x.num_elements() / batch;
  ctx.kernels.axpby({.x = prediction.value().reshape({batch, -1}).slice(1, 0, used),
                     .y = v.reshape({batch, used}),
                     .a = target_sign(dit.config().family),
                     .b = 0},
                    ctx.stream);
  return v;
}

}  // namespace

Tensor sample_euler(const autograd::Context& ctx, model::Dit& dit, const SampleRequest& request,
                    const std::function<void(int, int)>& on_step) {
  DSV_CHECK(ctx.tape == nullptr, "[sampler] generation records no tape");
  DSV_CHECK(static_cast<std::int64_t>(request.noise_ids.size()) == request.latents[0],
            "[sampler] {} noise ids for {} clips", request.noise_ids.size(), request.latents[0]);
  const Tensor x = ctx.arena.empty(request.latents);
  for (std::size_t b = 0; b < request.noise_ids.size(); ++b) {
    ctx.kernels.random_fill({.y = x.select(0, static_cast<std::int64_t>(b)),
                             .key = {.seed = request.seed,
                                     .purpose = RngPurpose::kSampler,
                                     .sample = request.noise_ids[b]}},
                            ctx.stream);
  }
  const std::vector<double> sigmas = sampling_schedule(request.num_steps, request.shift);
  for (int i = 0; i < request.num_steps; ++i) {
    const double sigma = sigmas[static_cast<std::size_t>(i)];
    const double step = sigmas[static_cast<std::size_t>(i) + 1] - sigma;
    const Tensor v = velocity(ctx, dit, request.attention, x, sigma, request.text, request.text_mask);
    if (request.cfg_scale != 1.0) {
      const Tensor null = velocity(ctx, dit, request.attention, x, sigma, request.null_text,
                                   request.null_mask);
      const auto scale = static_cast<float>(request.cfg_scale);
      ctx.kernels.axpby({.x = null, .y = v, .a = 1 - scale, .b = scale}, ctx.stream);
    }
    ctx.kernels.axpby({.x = v, .y = x, .a = static_cast<float>(step), .b = 1}, ctx.stream);
    if (on_step) on_step(i + 1, request.num_steps);
  }
  return x;
}

}  // namespace dsv::diffusion
