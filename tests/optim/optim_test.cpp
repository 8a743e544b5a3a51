#include <cmath>

#include "dsv/optim/lr_schedule.h"
#include "dsv/optim/optimizer.h"
#include "support/catch.h"
#include "support/engine.h"

using namespace dsv;
using namespace dsv::optim;

TEST_CASE("lr: warm-up is linear and reaches the full rate", "[lr]") {
  const OptimConfig config{.lr = 2, .warmup_steps = 4};
  CHECK(learning_rate(config, 0, 100) == Approx(0.5));
  CHECK(learning_rate(config, 3, 100) == Approx(2));
  CHECK(learning_rate(config, 50, 100) == 2);
  CHECK(learning_rate({.lr = 2, .warmup_steps = 0}, 0, 100) == 2);
}

TEST_CASE("lr: cosine and linear end at their floor and stay there", "[lr]") {
  OptimConfig config{
      .lr = 1, .schedule = Schedule::kCosine, .warmup_steps = 0, .min_lr_ratio = 0.1};
  CHECK(learning_rate(config, 0, 100) == 1);
  CHECK(learning_rate(config, 50, 100) == Approx(0.55));
  CHECK(learning_rate(config, 100, 100) == Approx(0.1));
  CHECK(learning_rate(config, 500, 100) == Approx(0.1));
  config.schedule = Schedule::kLinear;
  CHECK(learning_rate(config, 25, 100) == Approx(0.775));
  config.decay_steps = 10;
  CHECK(learning_rate(config, 10, 100) == Approx(0.1));
}

TEST_CASE("ema: the decay warms up to its value", "[ema]") {
  const OptimConfig config{.ema_decay = 0.99};
  CHECK(ema_decay_at(config, 1) == Approx(2.0 / 11));
  CHECK(ema_decay_at(config, 100'000) == 0.99);
}

TEST_CASE("clip: scales down to the norm, never up, and 0 turns it off", "[clip]") {
  CHECK(clip_scale(10, 1) == Approx(0.1).epsilon(1e-6));
  CHECK(clip_scale(0.5, 1) == 1);
  CHECK(clip_scale(10, 0) == 1);
}

TEST_CASE("optimizer: norms and tables are not decayed, everything else is", "[optimizer]") {
  testing::Engine engine;
  const auto ctx = engine.context();
  autograd::ParamStore store;
  store.add_unit("u", {{.name = "w", .shape = {3, 3}},
                       {.name = "norm", .shape = {5}, .decay = false},
                       {.name = "w2", .shape = {2, 2}}});
  store.allocate(ctx, {.grad = true, .optimizer = true, .ema = true});
  for (const char* name : {"w", "norm", "w2"}) {
    ctx.kernels.fill({.y = store.get(name).master, .value = 1}, ctx.stream);
  }
  // Zero gradients: only the decay moves a weight.
  adamw_step(ctx, store, {.weight_decay = 0.5}, 0.1, 1, 1);
  CHECK(store.get("w").master.f32()[8] == Approx(0.95));
  CHECK(store.get("w2").master.f32()[0] == Approx(0.95));
  CHECK(store.get("norm").master.f32()[0] == 1);
  const Tensor ema = store.units()[0].ema;
  CHECK(ema.f32()[0] == Approx((1 - 2.0 / 11) * 0.95));
}

TEST_CASE("optimizer: the gradient norm names the unit that is not finite", "[optimizer]") {
  testing::Engine engine;
  const auto ctx = engine.context();
  autograd::ParamStore store;
  store.add_unit("first", {{.name = "a", .shape = {3}}});
  store.add_unit("second", {{.name = "b", .shape = {4}}});
  store.allocate(ctx, {.grad = true});
  ctx.kernels.fill({.y = store.get("a").grad, .value = 2}, ctx.stream);
  ctx.kernels.fill({.y = store.get("b").grad, .value = 1}, ctx.stream);
  CHECK(gradient_norm(ctx, store).norm == Approx(4));
  store.get("b").grad.f32()[1] = NAN;
  const GradNorm bad = gradient_norm(ctx, store);
  CHECK(bad.num_nonfinite == 1);
  CHECK(bad.first_nonfinite == "second");
}
