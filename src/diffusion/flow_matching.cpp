#include "dsv/diffusion/flow_matching.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "dsv/tensor/transfer.h"

namespace dsv::diffusion {
namespace {

// Inverse of the standard normal distribution: Newton steps on erfc from a logistic start;
// converges to double precision for u in (1e-12, 1 - 1e-12).
double normal_quantile(double u) {
  double x = std::log(u / (1 - u)) / 1.702;
  for (int i = 0; i < 60; ++i) {
    const double cdf = 0.5 * std::erfc(-x / std::numbers::sqrt2);
    const double pdf = std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi);
    const double step = std::clamp((cdf - u) / pdf, -1.0, 1.0);
    x -= step;
    if (std::fabs(step) < 1e-14 * (1 + std::fabs(x))) break;
  }
  return x;
}

Tensor upload(const autograd::Context& ctx, std::vector<float> values) {
  const Shape shape{static_cast<std::int64_t>(values.size())};
  const Tensor device = ctx.arena.empty(shape);
  transfer(Tensor(values.data(), DType::kF32, shape), device, ctx.stream);
  return device;
}

// Noise of sample b comes from keys[b]; sigma[b] mixes it in.
FlowBatch mix(const autograd::Context& ctx, const FlowConfig& config, model::Family family,
              const Tensor& x0, const std::vector<PhiloxKey>& noise_keys,
              const std::vector<double>& sigma) {
  const std::int64_t batch = x0.dim(0);
  DSV_CHECK(static_cast<std::int64_t>(noise_keys.size()) == batch, "[flow] {} ids for {} samples",
            noise_keys.size(), batch);
  FlowBatch out{.x_t = ctx.arena.like(x0), .target = ctx.arena.like(x0), .sigma = sigma};
  std::vector<float> sigma_f, t, weight;
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto i = static_cast<std::size_t>(b);
    ctx.kernels.random_fill({.y = out.target.select(0, b), .key = noise_keys[i]}, ctx.stream);
    sigma_f.push_back(static_cast<float>(sigma[i]));
    t.push_back(static_cast<float>(1000 * sigma[i]));
    weight.push_back(static_cast<float>(loss_weight(config, sigma[i])));
  }
  out.timesteps = upload(ctx, t);
  out.weight = upload(ctx, weight);
  ctx.kernels.flow_mix({.x0 = x0.reshape({batch, -1}),
                        .noise = out.target.reshape({batch, -1}),
                        .sigma = upload(ctx, sigma_f),
                        .x_t = out.x_t.reshape({batch, -1}),
                        .target = out.target.reshape({batch, -1}),
                        .target_sign = target_sign(family)},
                       ctx.stream);
  return out;
}

}  // namespace

double sigma_at_quantile(const FlowConfig& config, double u) {
  switch (config.timestep_sampling) {
    case TimestepSampling::kUniform:
      return u;
    case TimestepSampling::kLogitNormal: {
      const double z = config.logit_mean + config.logit_std * normal_quantile(u);
      return 1 / (1 + std::exp(-z));
    }
    case TimestepSampling::kMode: {
      const double c = std::cos(std::numbers::pi / 2 * u);
      return 1 - u - config.mode_scale * (c * c - 1 + u);
    }
  }
  return u;
}

double shift_of(const FlowConfig& config, const ClipSize& size) {
  if (config.shift_scaling == ShiftScaling::kNone) return config.shift;
  const auto pixels = static_cast<double>(size.height * size.width);
  const auto frames = static_cast<double>(size.latent_frames);
  return config.shift * std::sqrt(pixels / config.shift_base_pixels) *
         std::sqrt(frames / config.shift_base_frames);
}

double apply_shift(double sigma, double shift) {
  return shift * sigma / (1 + (shift - 1) * sigma);
}

double loss_weight(const FlowConfig& config, double sigma) {
  if (config.loss_weighting == LossWeighting::kNone) return 1;
  const std::vector<double>& table = config.loss_weight_table;
  const double at = sigma * static_cast<double>(table.size() - 1);
  const auto i = std::min(static_cast<std::size_t>(at), table.size() - 2);
  const double f = at - static_cast<double>(i);
  return (1 - f) * table[i] + f * table[i + 1];
}

float target_sign(model::Family family) {
  return family == model::Family::kWan ? 1.0f : -1.0f;
}

FlowBatch make_training_batch(const autograd::Context& ctx, const FlowConfig& config,
                              model::Family family, const Tensor& x0,
                              const std::vector<std::uint64_t>& sample_ids, std::uint64_t seed,
                              std::int64_t step, const ClipSize& size) {
  std::vector<PhiloxKey> keys;
  std::vector<double> sigma;
  const double shift = shift_of(config, size);
  for (const std::uint64_t id : sample_ids) {
    PhiloxKey key{.seed = seed,
                  .purpose = RngPurpose::kTimestep,
                  .step = static_cast<std::uint64_t>(step),
                  .sample = id};
    sigma.push_back(apply_shift(sigma_at_quantile(config, philox_uniform(key)), shift));
    key.purpose = RngPurpose::kNoise;
    keys.push_back(key);
  }
  return mix(ctx, config, family, x0, keys, sigma);
}

FlowBatch make_held_out_batch(const autograd::Context& ctx, const FlowConfig& config,
                              model::Family family, const Tensor& x0,
                              const std::vector<std::uint64_t>& sample_ids, std::uint64_t seed,
                              int quantile, int num_quantiles, const ClipSize& size) {
  const double u = (quantile + 0.5) / num_quantiles;
  const double sigma = apply_shift(sigma_at_quantile(config, u), shift_of(config, size));
  std::vector<PhiloxKey> keys;
  for (const std::uint64_t id : sample_ids) {
    keys.push_back({.seed = seed,
                    .purpose = RngPurpose::kHeldOutNoise,
                    .step = static_cast<std::uint64_t>(quantile),
                    .sample = id});
  }
  return mix(ctx, config, family, x0, keys, std::vector<double>(sample_ids.size(), sigma));
}

bool drops_text(const FlowConfig& config, std::uint64_t seed, std::int64_t epoch,
                std::uint64_t sample_id) {
  return philox_uniform({.seed = seed,
                         .purpose = RngPurpose::kCfgDropout,
                         .step = static_cast<std::uint64_t>(epoch),
                         .sample = sample_id}) < config.cfg_dropout;
}

std::vector<double> sampling_schedule(int num_steps, double shift) {
  std::vector<double> sigmas;
  for (int i = 0; i <= num_steps; ++i) {
    sigmas.push_back(apply_shift(1.0 - static_cast<double>(i) / num_steps, shift));
  }
  return sigmas;
}

}  // namespace dsv::diffusion
