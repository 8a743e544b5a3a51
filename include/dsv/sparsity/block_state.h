// What is known of each block's attention and decided from it: plain numbers on the host, the same
// on every rank, in every checkpoint. Source: DSV (arXiv 2502.07590) §5; the coverage guard is ours.
#pragma once

#include <string>
#include <vector>

#include "dsv/base/json.h"
#include "dsv/sparsity/sparsity_config.h"

namespace dsv::sparsity {

enum class Stage { kDense, kSparse };

// Exponential averages whose first value counts whole; -1: no value yet.
struct HeadState {
  double token_sparsity = -1;  // share of keys beyond those that hold `mass`, per query
  double exec_sparsity = -1;   // the same in blocks of keys shared by a group of queries
  double slope = -1;           // true logits per predicted logit
  double coverage = -1;        // true mass of the keys that are or would be selected
  double density = -1;         // of the selection
  double boost = 1;            // more keys than estimated, by the coverage guard
  bool operator==(const HeadState&) const = default;
};

struct BlockState {
  std::vector<HeadState> heads;
  double predictor_loss = -1;
  double recall = -1;            // of the oracle's blocks, at equal number
  double oracle_coverage = -1;   // mass of the oracle's blocks
  std::int64_t low_evaluations = 0;  // coverage evaluations in a row below the minimum
  std::int64_t good_evaluations = 0;  // and at the minimum plus a margin
  bool sparse = false;           // what the next step's attention is
  bool operator==(const BlockState&) const = default;

  double mean_coverage() const;
  double least_coverage() const;  // over heads; -1: not all have a value
  double mean_exec_sparsity() const;
  double mean_density() const;
};

struct SparsityState {
  Stage stage = Stage::kDense;
  bool gave_up = false;           // warm-up passed max_steps
  double loss_ema = -1;           // of the mean predictor loss over blocks
  std::int64_t switch_step = -1;  // first step of the sparse stage
  std::vector<BlockState> blocks;
  bool operator==(const SparsityState&) const = default;
};

SparsityState initial_state(std::int64_t num_blocks, std::int64_t num_heads);
Json to_json(const SparsityState& state);
// Throws Error(kCorruptInput) "WHERE: …" unless it has this many blocks and heads.
SparsityState sparsity_state_from_json(const Json& json, std::int64_t num_blocks,
                                       std::int64_t num_heads, const std::string& where);

// What a step measured of a block, summed over ranks and micro-batches; counts of 0: not measured.
struct BlockMeasure {
  double loss_sum = 0, loss_count = 0;
  struct Head {
    double cov = 0, var = 0;                         // of true and predicted scores, row-centred
    double coverage_sum = 0, coverage_count = 0;     // rows
    double keys_sum = 0, keys_count = 0;             // valid pairs of the selection, of all
    double token_sum = 0, token_count = 0;           // token sparsity, rows
    double exec_sum = 0, exec_count = 0;             // S_exec, groups
  };
  std::vector<Head> heads;
  double recall_sum = 0, oracle_sum = 0, recall_count = 0;  // groups of all heads
};

// One block switched: what is logged.
struct Decision {
  std::int64_t block = 0;
  bool sparse = false;
  std::string reason;
};

// Brings the averages up to date and decides what the next step, `step`, does. `break_even` is the
// density above which sparse attention is slower than dense (0: always slower). Pure: the same
// inputs give the same state on every rank.
std::vector<Decision> advance_sparsity(const SparsityConfig& config, double break_even,
                                       const std::vector<BlockMeasure>& measures,
                                       std::int64_t step, SparsityState* state);

// Keys that a head's groups take, of `tokens`: the rule of SelectBlocks.
struct KeyBudget {
  double mass = 1;
  std::int64_t min_keys = 0, max_keys = 0;
};
KeyBudget key_budget(const SparsityConfig& config, const HeadState& head, std::int64_t tokens);

}  // namespace dsv::sparsity
