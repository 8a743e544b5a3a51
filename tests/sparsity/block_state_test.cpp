#include "dsv/sparsity/block_state.h"

#include "dsv/base/error.h"
#include "support/catch.h"

namespace dsv::sparsity {
namespace {

constexpr std::int64_t kHeads = 2;

// A step that measured everything of a block: every head alike.
BlockMeasure measure(double loss, double coverage, double density, double exec = 0.9) {
  BlockMeasure m{.loss_sum = 10 * loss, .loss_count = 10};
  for (std::int64_t h = 0; h < kHeads; ++h) {
    m.heads.push_back({.cov = 2,
                       .var = 1,
                       .coverage_sum = 5 * coverage,
                       .coverage_count = 5,
                       .keys_sum = density * 100,
                       .keys_count = 100,
                       .token_sum = 3 * 0.95,
                       .token_count = 3,
                       .exec_sum = 2 * exec,
                       .exec_count = 2});
  }
  m.recall_sum = 3 * 0.8;
  m.oracle_sum = 3 * 0.97;
  m.recall_count = 3;
  return m;
}
BlockMeasure nothing() {
  BlockMeasure m;
  m.heads.resize(kHeads);
  return m;
}

SparsityConfig config() {
  return {.min_steps = 5, .max_steps = 50, .loss_threshold = 0.05, .loss_ema = 0.5, .ema = 0.0};
}

SparsityState warm(const SparsityConfig& c, int steps, const BlockMeasure& m) {
  SparsityState state = initial_state(2, kHeads);
  for (int i = 1; i <= steps; ++i) advance_sparsity(c, 0.3, {m, m}, i, &state);
  return state;
}

}  // namespace

TEST_CASE("block_state: warm-up ends when predictors are good, covered, and sparse enough") {
  const SparsityConfig c = config();
  SparsityState state = warm(c, 4, measure(0.01, 0.95, 0.1));
  CHECK(state.stage == Stage::kDense);  // min_steps
  const std::vector<Decision> made = advance_sparsity(
      c, 0.3, {measure(0.01, 0.95, 0.1), measure(0.01, 0.95, 0.1)}, 5, &state);
  CHECK(state.stage == Stage::kSparse);
  CHECK(state.switch_step == 5);
  REQUIRE(made.size() == 2);
  CHECK(made[0].sparse);
  CHECK(state.blocks[0].sparse);

  CHECK(warm(c, 20, measure(0.10, 0.95, 0.1)).stage == Stage::kDense);  // loss
  CHECK(warm(c, 20, measure(0.01, 0.80, 0.1)).stage == Stage::kDense);  // coverage
  CHECK(warm(c, 20, measure(0.01, 0.95, 0.5)).stage == Stage::kDense);  // above break-even
  CHECK(warm(c, 20, measure(0.10, 0.95, 0.1)).gave_up == false);
  CHECK(warm(c, 60, measure(0.10, 0.95, 0.1)).gave_up);
}

TEST_CASE("block_state: half the blocks are enough to begin, and each decides for itself") {
  const SparsityConfig c = config();
  SparsityState state = initial_state(2, kHeads);
  for (int i = 1; i <= 10; ++i) {
    advance_sparsity(c, 0.3, {measure(0.01, 0.95, 0.1), measure(0.01, 0.95, 0.6)}, i, &state);
  }
  CHECK(state.stage == Stage::kSparse);
  CHECK(state.blocks[0].sparse);
  CHECK_FALSE(state.blocks[1].sparse);
}

TEST_CASE("block_state: the guard gives more keys, then goes dense, and comes back with a margin") {
  const SparsityConfig c = config();
  SparsityState state = warm(c, 6, measure(0.01, 0.95, 0.1));
  REQUIRE(state.blocks[0].sparse);
  std::int64_t step = 7;
  const auto advance = [&](double coverage) {
    return advance_sparsity(c, 0.3,
                            {measure(0.01, coverage, 0.1), measure(0.01, 0.95, 0.1)}, step++, &state);
  };
  CHECK(advance(0.80).empty());
  CHECK(state.blocks[0].heads[0].boost == Approx(1.25));
  CHECK(advance(0.80).empty());
  const std::vector<Decision> made = advance(0.80);
  REQUIRE(made.size() == 1);
  CHECK(made[0].block == 0);
  CHECK_FALSE(made[0].sparse);
  CHECK_THAT(made[0].reason, Contains("coverage 0.800 stays below 0.85"));
  CHECK(state.blocks[1].sparse);
  for (int i = 0; i < 5; ++i) CHECK(advance(0.86).empty());  // inside the margin
  CHECK(advance(0.89).empty());
  CHECK(advance(0.89).empty());
  CHECK(advance(0.89).size() == 1);
  CHECK(state.blocks[0].sparse);
}

TEST_CASE("block_state: boosts end at the cap, and are given back") {
  const SparsityConfig c = config();
  SparsityState state = initial_state(1, kHeads);
  for (int i = 1; i <= 5; ++i) advance_sparsity(c, 0.3, {measure(0.01, 0.5, 0.5)}, i, &state);
  CHECK(state.blocks[0].heads[0].boost == 1);  // takes max_density already
  for (int i = 1; i <= 5; ++i) advance_sparsity(c, 0.3, {measure(0.01, 0.5, 0.2)}, i, &state);
  const double boosted = state.blocks[0].heads[0].boost;
  CHECK(boosted == Approx(1.25 * 1.25 * 1.25 * 1.25 * 1.25));
  advance_sparsity(c, 0.3, {measure(0.01, 0.9, 0.2)}, 6, &state);
  CHECK(state.blocks[0].heads[0].boost == Approx(boosted / 1.05));
}

TEST_CASE("block_state: steps without measurements change no averages") {
  const SparsityConfig c = config();
  SparsityState state = warm(c, 6, measure(0.01, 0.95, 0.1));
  const SparsityState before = state;
  CHECK(advance_sparsity(c, 0.3, {nothing(), nothing()}, 7, &state).empty());
  CHECK(state == before);
}

TEST_CASE("block_state: a forced density makes every block sparse at once") {
  SparsityConfig c = config();
  c.force_density = 0.1;
  SparsityState state = initial_state(2, kHeads);
  advance_sparsity(c, 0.0, {nothing(), nothing()}, 0, &state);
  CHECK(state.stage == Stage::kSparse);
  CHECK(state.blocks[1].sparse);
  const KeyBudget keys = key_budget(c, state.blocks[0].heads[0], 1001);
  CHECK(keys.min_keys == 101);
  CHECK(keys.max_keys == 101);
  CHECK(keys.mass > 1);
}

TEST_CASE("block_state: budgets by mass and by number") {
  SparsityConfig c = config();
  HeadState head;
  head.boost = 1.25;
  KeyBudget keys = key_budget(c, head, 1000);
  CHECK(keys.mass == Approx(0.92));
  CHECK(keys.min_keys == 20);
  CHECK(keys.max_keys == 500);
  c.count = KeyCount::kFixed;
  CHECK(key_budget(c, head, 1000).max_keys == 500);  // not profiled: as many as allowed
  head.exec_sparsity = 0.9;
  CHECK(key_budget(c, head, 1000).min_keys == 125);
  head.exec_sparsity = 0.999;
  CHECK(key_budget(c, head, 1000).max_keys == 20);
}

TEST_CASE("block_state: JSON keeps every bit, and refuses another model's") {
  SparsityState state = warm(config(), 9, measure(0.0123456789, 0.9 + 1e-9, 1.0 / 3));
  state.blocks[1].heads[1].slope = 0.1 + 0.2;
  const Json json = parse_json(to_json(state).dump(), "x");
  CHECK(sparsity_state_from_json(json, 2, kHeads, "x") == state);
  CHECK_THROWS_AS(sparsity_state_from_json(json, 3, kHeads, "x"), Error);
  CHECK_THROWS_AS(sparsity_state_from_json(json, 2, 1, "x"), Error);
  Json broken = json;
  broken.set("stage", "half");
  CHECK_THROWS_AS(sparsity_state_from_json(broken, 2, kHeads, "x"), Error);
}

}  // namespace dsv::sparsity
