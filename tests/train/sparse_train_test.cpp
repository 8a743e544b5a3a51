// Training with attention that becomes sparse on the way: the seams between dense and sparse, and
// what must not change whether it is or not.
#include "train/tiny_run.h"

using namespace dsv;
using namespace dsv::train;

namespace {

// 144 tokens of a 4 x 6 x 6 grid; warm-up ends when three evaluations were good.
Config sparse_config() {
  Config c = tiny_config();
  c.data.buckets = {{.height = 12, .width = 12, .frames = 4}};
  c.attention.policy = sparsity::Policy::kDsv;
  c.sparsity.min_steps = 3;
  c.sparsity.loss_threshold = 2;
  c.sparsity.coverage_every = 2;
  c.sparsity.coverage_min = 0.1;
  c.sparsity.profile_every = 4;
  c.sparsity.mass = 0.6;
  c.sparsity.max_density = 0.7;
  c.sparsity.break_even_density = 0.95;
  c.sparsity.predictor_rank = 4;
  c.sparsity.predictor_sample_every = 8;
  return c;
}

void check_same_curve(const Curve& a, const Curve& b, double tolerance) {
  REQUIRE(a.loss.size() == b.loss.size());
  for (std::size_t i = 0; i < a.loss.size(); ++i) {
    INFO("step " << i);
    CHECK(a.loss[i] == Approx(b.loss[i]).epsilon(tolerance));
    CHECK(a.grad_norm[i] == Approx(b.grad_norm[i]).epsilon(10 * tolerance));
  }
}

}  // namespace

TEST_CASE("train: attention becomes sparse, and the loss goes on falling", "[train][sparse]") {
  const Curve curve = run(sparse_config(), 1, 30);
  CHECK(curve.sparsity.stage == sparsity::Stage::kSparse);
  CHECK(curve.sparsity.switch_step > 3);
  CHECK(curve.sparsity.switch_step < 10);
  for (const sparsity::BlockState& block : curve.sparsity.blocks) {
    CHECK(block.sparse);
    CHECK(block.mean_density() < 0.95);
    CHECK(block.least_coverage() > 0.1);
    CHECK(block.recall > 0.3);
    CHECK(block.mean_exec_sparsity() > 0);
    CHECK(block.heads[0].token_sparsity >= block.heads[0].exec_sparsity - 0.05);
  }
  CHECK(curve.loss.back() < 0.95 * curve.loss.front());
}

TEST_CASE("train: the predictors' loss falls while attention is dense", "[train][sparse]") {
  Config config = sparse_config();
  config.sparsity.loss_threshold = 1e-6;
  config.sparsity.predictor_rank = 12;
  config.sparsity.loss_ema = 0;
  for (const auto input : {sparsity::PredictorInput::kQk, sparsity::PredictorInput::kHidden}) {
    config.sparsity.predictor_input = input;
    const double early = run(config, 1, 2).sparsity.loss_ema;
    const double late = run(config, 1, 40).sparsity.loss_ema;
    INFO("from " << early << " to " << late);
    CHECK(late < 0.8 * early);
  }
}

TEST_CASE("train: the order of tokens changes nothing but rounding", "[train][sparse]") {
  Config config = sparse_config();
  config.sparsity.min_steps = 1000;
  for (const auto family : {model::Family::kWan, model::Family::kDsv}) {
    config.model.family = family;
    config.model.qk_norm = config.model.cross_attn_norm = family == model::Family::kWan;
    Config full = config;
    full.attention = {};
    const Curve raster = run(full, 1, 8);
    for (const auto path : {sparsity::CubePath::kHilbert, sparsity::CubePath::kRaster}) {
      config.attention.cube_path = path;
      check_same_curve(run(config, 1, 8), raster, 1e-5);
    }
  }
}

TEST_CASE("train: sparse kernels with every key selected follow the dense curve",
          "[train][sparse]") {
  Config config = sparse_config();
  config.sparsity.force_density = 1;
  Config full = config;
  full.attention = {};
  const Curve dense = run(full, 1, 8);
  for (const std::int64_t granularity : {1, 16, 64}) {
    for (const std::int64_t cubes : {1, 2}) {
      config.attention.granularity = granularity;
      config.attention.group_cubes = cubes;
      check_same_curve(run(config, 1, 8), dense, 1e-5);
    }
  }
}

TEST_CASE("train: stopped at every step and resumed, across the change to sparse attention",
          "[train][sparse]") {
  const Config config = sparse_config();
  constexpr std::int64_t kSteps = 9;
  for (const int ranks : {1, 2}) {
    const Curve whole = run(config, ranks, kSteps);
    REQUIRE(whole.sparsity.stage == sparsity::Stage::kSparse);
    for (std::int64_t stop = 1; stop < kSteps; ++stop) {
      INFO(ranks << " ranks, stopped at step " << stop);
      const data::TempDir dir;
      const Curve head = run(config, ranks, stop, {}, dir.path());
      Curve tail = run(config, ranks, kSteps, dir.path());
      tail.loss.insert(tail.loss.begin(), head.loss.begin(), head.loss.end());
      CHECK(tail.loss == whole.loss);
      CHECK(tail.sparsity == whole.sparsity);
      CHECK(tail.hash == whole.hash);
    }
  }
}

TEST_CASE("train: a selection is never made again in a recompute", "[train][sparse]") {
  Config config = sparse_config();
  const Curve recorded = run(config, 1, 9);
  for (const auto mode : {model::Checkpointing::kBlock, model::Checkpointing::kKeepAttention,
                          model::Checkpointing::kAuto}) {
    config.model.checkpointing = mode;
    const Curve again = run(config, 1, 9);
    CHECK(again.loss == recorded.loss);
    CHECK(again.hash == recorded.hash);
  }
}

TEST_CASE("train: ranks decide alike, and follow one rank's curve", "[train][sparse]") {
  const Config config = sparse_config();
  const Curve one = run(config, 1, 9);
  for (const int ranks : {2, 3, 6}) {
    const Curve many = run(config, ranks, 9);
    INFO(ranks << " ranks");
    CHECK(many.sparsity.switch_step == one.sparsity.switch_step);
    // A key whose predicted mass is at the threshold may be taken by one and not by the other.
    check_same_curve(many, one, 1e-4);
  }
}

TEST_CASE("train: a dense run goes on with dynamic sparsity, from new predictors",
          "[train][sparse]") {
  const Config config = sparse_config();
  Config full = config;
  full.attention = {};
  const data::TempDir dir;
  const Curve dense = run(full, 1, 4, {}, dir.path());
  const Curve tail = run(config, 1, 16, dir.path());
  CHECK(tail.loss.size() == 12);
  CHECK(tail.sparsity.stage == sparsity::Stage::kSparse);
  check_same_curve(run(full, 1, 5, dir.path()), {.loss = {tail.loss[0]}, .grad_norm = {tail.grad_norm[0]}},
                   1e-5);
}

TEST_CASE("train: windows train, at their share of the keys", "[train][sparse]") {
  Config config = sparse_config();
  config.attention.policy = sparsity::Policy::kWindow;
  config.attention.window = sparsity::WindowSize::kTwoThirds;
  const Curve curve = run(config, 1, 30);
  CHECK(curve.loss.back() < 0.95 * curve.loss.front());
  Config full = config;
  full.attention = {};
  CHECK(std::abs(curve.loss[5] - run(full, 1, 6).loss[5]) > 1e-6);
}
