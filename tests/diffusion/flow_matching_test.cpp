#include "dsv/diffusion/flow_matching.h"

#include <cmath>

#include "support/catch.h"
#include "support/engine.h"

using namespace dsv;
using namespace dsv::diffusion;

TEST_CASE("flow: densities of t have their known quantiles", "[flow]") {
  FlowConfig config;
  config.timestep_sampling = TimestepSampling::kUniform;
  CHECK(sigma_at_quantile(config, 0.3) == 0.3);
  config.timestep_sampling = TimestepSampling::kLogitNormal;
  // Phi^-1(0.8413447460685429) = 1
  CHECK(sigma_at_quantile(config, 0.8413447460685429) ==
        Approx(1 / (1 + std::exp(-1.0))).epsilon(1e-12));
  config.logit_mean = 0.5;
  config.logit_std = 2;
  CHECK(sigma_at_quantile(config, 0.5) == Approx(1 / (1 + std::exp(-0.5))).epsilon(1e-12));
  CHECK(sigma_at_quantile(config, 1e-7) > 0);
  CHECK(sigma_at_quantile(config, 1 - 1e-7) < 1);
  config.timestep_sampling = TimestepSampling::kMode;
  CHECK(sigma_at_quantile(config, 0.0) == Approx(1.0));
  CHECK(sigma_at_quantile(config, 1.0) == Approx(0.0).margin(1e-12));
  for (const auto kind :
       {TimestepSampling::kUniform, TimestepSampling::kLogitNormal, TimestepSampling::kMode}) {
    config.timestep_sampling = kind;
    for (double u = 0.01; u < 1; u += 0.01) {
      CHECK(sigma_at_quantile(config, u) > 0);
      CHECK(sigma_at_quantile(config, u) < 1);
    }
  }
}

TEST_CASE("flow: the shift moves t as Wan's formula says and scales with the clip", "[flow]") {
  CHECK(apply_shift(0.5, 3) == Approx(0.75));
  CHECK(apply_shift(1, 5) == 1);
  CHECK(apply_shift(0, 5) == 0);
  FlowConfig config{.shift = 2};
  CHECK(shift_of(config, {256, 256, 4}) == 2);
  config.shift_scaling = ShiftScaling::kResolutionAndFrames;
  CHECK(shift_of(config, {256, 256, 4}) == Approx(2 * 0.5 * 2));
}

TEST_CASE("flow: loss weights interpolate their table", "[flow]") {
  FlowConfig config{.loss_weighting = LossWeighting::kByTable, .loss_weight_table = {1, 3, 2}};
  CHECK(loss_weight(config, 0) == 1);
  CHECK(loss_weight(config, 0.25) == Approx(2));
  CHECK(loss_weight(config, 0.75) == Approx(2.5));
  CHECK(loss_weight(config, 1) == 2);
}

TEST_CASE("flow: a batch is x_t = (1 - s) x0 + s e, and a sample's draw depends on its id alone",
          "[flow]") {
  testing::Engine engine;
  const auto ctx = engine.context();
  const FlowConfig config;
  const Tensor x0 = testing::normal(engine, {3, 2, 2, 4, 4}, 1);
  const ClipSize size{32, 32, 2};
  for (const auto family : {model::Family::kWan, model::Family::kDsv}) {
    const FlowBatch all = make_training_batch(ctx, config, family, x0, {11, 12, 13}, 5, 7, size);
    for (std::int64_t b = 0; b < 3; ++b) {
      const auto s = static_cast<float>(all.sigma[static_cast<std::size_t>(b)]);
      CHECK(all.timesteps.f32()[b] == Approx(1000 * s));
      const std::int64_t n = x0.num_elements() / 3;
      for (std::int64_t i = b * n; i < (b + 1) * n; ++i) {
        const float noise = x0.f32()[i] + target_sign(family) * all.target.f32()[i];
        CHECK(all.x_t.f32()[i] == Approx((1 - s) * x0.f32()[i] + s * noise).margin(2e-6));
      }
    }
    // Alone, in another micro-batch: the same bits. Another step: not.
    const Tensor last = x0.slice(0, 2, 3);
    const FlowBatch alone = make_training_batch(ctx, config, family, last, {13}, 5, 7, size);
    CHECK(testing::to_vector(alone.x_t) == testing::to_vector(all.x_t.slice(0, 2, 3)));
    const FlowBatch later = make_training_batch(ctx, config, family, last, {13}, 5, 8, size);
    CHECK(later.sigma != alone.sigma);
  }
}

TEST_CASE("flow: held-out batches are the same whenever they are made", "[flow]") {
  testing::Engine engine;
  const auto ctx = engine.context();
  const Tensor x0 = testing::normal(engine, {1, 2, 2, 4, 4}, 1);
  const FlowConfig config;
  const auto once =
      make_held_out_batch(ctx, config, model::Family::kWan, x0, {3}, 1, 2, 8, {8, 8, 2});
  const auto again =
      make_held_out_batch(ctx, config, model::Family::kWan, x0, {3}, 1, 2, 8, {8, 8, 2});
  const auto other =
      make_held_out_batch(ctx, config, model::Family::kWan, x0, {3}, 1, 3, 8, {8, 8, 2});
  CHECK(testing::to_vector(once.x_t) == testing::to_vector(again.x_t));
  CHECK(testing::to_vector(once.x_t) != testing::to_vector(other.x_t));
  CHECK(once.sigma[0] < other.sigma[0]);
}

TEST_CASE("flow: CFG dropout has its rate and differs between epochs", "[flow]") {
  const FlowConfig config{.cfg_dropout = 0.1};
  int dropped = 0, both = 0;
  for (std::uint64_t id = 0; id < 10'000; ++id) {
    const bool first = drops_text(config, 1, 0, id), second = drops_text(config, 1, 1, id);
    dropped += first;
    both += first && second;
  }
  CHECK(std::abs(dropped - 1000) < 150);  // five standard deviations
  CHECK(std::abs(both - 100) < 50);
  CHECK_FALSE(drops_text({.cfg_dropout = 0}, 1, 0, 1));
}

TEST_CASE("flow: sampling runs from pure noise to no noise", "[flow]") {
  const auto sigmas = sampling_schedule(5, 3);
  CHECK(sigmas.size() == 6);
  CHECK(sigmas.front() == 1);
  CHECK(sigmas.back() == 0);
  CHECK(std::is_sorted(sigmas.rbegin(), sigmas.rend()));
}
