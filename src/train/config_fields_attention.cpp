#include "config_enums.h"
#include "config_rules.h"
#include "config_table.h"

namespace dsv::train {
namespace {

constexpr Drift kModel = Drift::kModel, kTraining = Drift::kTraining;
using sparsity::Policy;

bool learns(const Config& c) {
  return c.attention.policy == Policy::kDsv;
}
bool estimates(const Config& c) {
  return learns(c) || c.attention.policy == Policy::kBlockMean;
}
bool selects(const Config& c) {
  return c.attention.policy != Policy::kFull;
}

void add_selection(Table& t) {
  constexpr const char* kWhen = "attention.policy is dsv";
  t.field(DSV_FIELD(sparsity.count), kTraining,
          "keys of a query group. mass: those that hold sparsity.mass of its predicted mass; fixed: "
          "as many as the head's profiled sparsity leaves, for all groups")
      .used_when("attention.policy is dsv or block_mean", estimates);
  t.field(DSV_FIELD(sparsity.mass), kTraining,
          "share of a query's attention that its keys are to hold", above(0).at_most(1))
      .used_when("attention.policy is dsv or block_mean", estimates);
  t.field(DSV_FIELD(sparsity.min_density), kTraining, "share of keys that a group takes at least",
          above(0).at_most(1))
      .used_when("attention.policy is dsv or block_mean", estimates);
  t.field(DSV_FIELD(sparsity.max_density), kTraining, "and at most", above(0).at_most(1))
      .used_when("attention.policy is dsv or block_mean", estimates);
  t.field(DSV_FIELD(sparsity.force_density), kTraining,
          "above 0: every block takes this share of keys from the first step on, whatever it "
          "covers; for measuring speed",
          between(0, 1))
      .used_when("attention.policy is dsv or block_mean", estimates);
  const auto measures = [](const Config& c) {
    return learns(c) && c.sparsity.break_even_density == 0 && c.sparsity.force_density == 0;
  };
  t.field(DSV_FIELD(sparsity.profile), Drift::kFree,
          "file that `dsv profile` wrote on this machine; empty: what attention costs is measured "
          "when the run first starts, and kept in its checkpoints")
      .rule("a path, or empty",
            [](const Config& c) { return path_problem(c.sparsity.profile, true); })
      .used_when("attention.policy is dsv and no density is given", measures);
  t.field(DSV_FIELD(sparsity.allow_stale), Drift::kFree,
          "take a profile that was made on another machine or with other heads")
      .used_when("sparsity.profile is given",
                 [](const Config& c) { return !c.sparsity.profile.empty(); });
  t.field(DSV_FIELD(sparsity.break_even_density), kTraining,
          "density above which a block stays dense; 0: where sparse attention was measured to be "
          "slower on this machine",
          between(0, 1))
      .used_when(kWhen, learns);
}

void add_stages(Table& t) {
  constexpr const char* kWhen = "attention.policy is dsv";
  constexpr double kManySteps = 1e12;
  t.field(DSV_FIELD(sparsity.min_steps), kTraining, "dense steps before the first sparse one",
          between(0, kManySteps))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.max_steps), kTraining,
          "dense steps after which a warning says that predictors do not get good enough",
          between(0, kManySteps))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.loss_threshold), kTraining,
          "average predictor loss below which warm-up may end", above(0).at_most(2))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.loss_ema), kTraining, "decay of that average", at_least(0).below(1))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.covered_blocks), kTraining,
          "share of blocks that must be fit to be sparse for warm-up to end", between(0, 1))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.coverage_min), kTraining,
          "true mass that a head's selected keys must hold on average; a block that stays below "
          "becomes dense",
          between(0, 1))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.coverage_every), kTraining, "steps between measurements of that mass",
          between(1, 1e9))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.profile_every), kTraining,
          "steps between profiles of how concentrated attention is; a quarter of it during warm-up",
          between(1, 1e9))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.profile_groups), kTraining, "query groups that a profile looks at",
          between(1, 1 << 20))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.ema), kTraining,
          "decay of the averages of sparsity, coverage, and calibration", at_least(0).below(1))
      .used_when(kWhen, learns);
}

void add_predictor(Table& t) {
  constexpr const char* kWhen = "attention.policy is dsv";
  t.field(DSV_FIELD(sparsity.predictor_rank), kModel,
          "channels of a head's low-rank queries and keys, even", between(2, 256))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.predictor_input), kModel,
          "what is projected: the hidden states that feed q and k, or q and k as attention sees "
          "them; auto: qk for the wan family, hidden for dsv")
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.predictor_center), kTraining,
          "compare scores after their row's mean is taken off")
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.predictor_proxy), kTraining,
          "what stands for the queries of a group: their mean, or the one in the middle")
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.predictor_sample_every), kTraining,
          "every n-th query's row of scores trains the predictors", between(1, 1 << 20))
      .used_when(kWhen, learns);
  t.field(DSV_FIELD(sparsity.predictor_lr_factor), kTraining,
          "of optim's learning rate, for predictors once attention is sparse", between(0, 100))
      .used_when(kWhen, learns);
}

}  // namespace

void add_attention(Table& t) {
  t.field(DSV_FIELD(attention.policy), kTraining,
          "full: all keys. dsv: the keys that trained predictors find critical, after a dense "
          "warm-up. window: a fixed 3-D window. block_mean: cubes of keys whose mean scores high");
  t.field(DSV_FIELD(attention.window), kTraining, "what the window spans of each axis")
      .used_when("attention.policy is window",
                 [](const Config& c) { return c.attention.policy == Policy::kWindow; });
  t.field(DSV_FIELD(attention.granularity), kTraining,
          "keys that are taken together: 1, 16 (a sub-cube of tokens), or 64 (a cube)")
      .rule("1, 16, or 64",
            [](const Config& c) -> std::string {
              const std::int64_t g = c.attention.granularity;
              return g == 1 || g == 16 || g == 64 ? "" : format("expected 1, 16, or 64, got {}", g);
            })
      .used_when("attention.policy is not full", selects);
  t.field(DSV_FIELD(attention.group_cubes), kTraining,
          "cubes of up to 64 queries that share their keys", between(1, 2))
      .used_when("attention.policy is not full", selects);
  t.field(DSV_FIELD(attention.cube_path), kTraining,
          "how cubes follow each other in the sequence")
      .used_when("attention.policy is not full", selects);
  add_selection(t);
  add_stages(t);
  add_predictor(t);
}

}  // namespace dsv::train
