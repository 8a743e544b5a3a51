// Settings of self-attention: what each query attends to, and when that may be less than
// everything. The algorithm is in docs/sparsity.md.
#pragma once

#include <cstdint>
#include <string>

#include "dsv/kernels/select_blocks.h"
#include "dsv/sparsity/token_order.h"

namespace dsv::sparsity {

// full: all keys. window: a 3-D window around each group of queries, fixed. dsv: keys that a
// trained low-rank predictor finds critical, once the run's warm-up has ended. block_mean: keys of
// cubes whose mean key scores high against the group's mean query; nothing is trained.
enum class Policy { kFull, kWindow, kDsv, kBlockMean };
// Share of each axis that a window spans: a third (WA-M) or two thirds (WA-L).
enum class WindowSize { kThird, kTwoThirds };
// What the predictor projects: the modulated hidden states that feed q and k, or q and k themselves,
// normed and rotated. auto: qk for the wan family, hidden for dsv.
enum class PredictorInput { kAuto, kHidden, kQk };
// How many keys a group takes: those that hold a share of its predicted mass, or the same number
// for all groups of a head, from the sparsity that was profiled.
enum class KeyCount { kMass, kFixed };

struct AttentionConfig {
  Policy policy = Policy::kFull;
  WindowSize window = WindowSize::kThird;
  std::int64_t granularity = 16;  // keys that are taken together: 1, 16 (a sub-cube), 64 (a cube)
  std::int64_t group_cubes = 1;   // cubes of queries that share a selection
  CubePath cube_path = CubePath::kHilbert;
};

struct SparsityConfig {
  KeyCount count = KeyCount::kMass;
  double mass = 0.9;         // share of a query's softmax mass that its keys should hold
  double min_density = 0.02;  // of keys a group takes at least
  double max_density = 0.5;   // and at most; a block that needs more stays dense
  // Warm-up, in which attention is dense, ends after min_steps when the EMA of the predictors' mean
  // loss is below loss_threshold and half the blocks are covered; at max_steps it is given up.
  std::int64_t min_steps = 500;
  std::int64_t max_steps = 20000;
  double loss_threshold = 0.01;
  double loss_ema = 0.99;
  double covered_blocks = 0.5;
  // Coverage: true mass of selected keys on sampled rows.
  double coverage_min = 0.85;
  std::int64_t coverage_every = 25;
  // Profiling: how concentrated attention is.
  std::int64_t profile_every = 100;  // after profile_dense_until, 4 times as often before
  std::int64_t profile_groups = 16;  // query groups that a profile looks at
  double ema = 0.9;                  // of profiled sparsity, coverage, and calibration
  double break_even_density = 0;     // 0: from a profile of this machine
  std::string profile;               // its path; "": measured when the run starts
  bool allow_stale = false;          // a profile of another machine or configuration is taken, too
  double force_density = 0;          // > 0: every block sparse at this density from the first step
  // The predictor.
  std::int64_t predictor_rank = 16;  // of a head's low-rank queries and keys, even
  PredictorInput predictor_input = PredictorInput::kAuto;
  bool predictor_center = false;  // row means are taken off scores before they are compared
  kernels::Proxy predictor_proxy = kernels::Proxy::kMean;
  std::int64_t predictor_sample_every = 64;  // queries whose rows train it
  double predictor_lr_factor = 0.1;  // of the model's rate once attention is sparse; before: 1
};

}  // namespace dsv::sparsity
