#include "dsv/sparsity/block_state.h"

#include <algorithm>
#include <cmath>

#include "dsv/base/error.h"
#include "dsv/base/format.h"

namespace dsv::sparsity {
namespace {

// The guard: how much more a badly covered head takes, how long a block may be badly covered, and
// how much better it has to be before it returns.
constexpr double kBoost = 1.25, kMargin = 0.03, kMostBoost = 64, kRelease = 1.05, kAtTheCap = 0.98;
constexpr std::int64_t kPatience = 3;

void average(double value, double decay, double* ema) {
  *ema = *ema < 0 ? value : decay * *ema + (1 - decay) * value;
}

template <typename Fn>
double mean_over(const std::vector<HeadState>& heads, const Fn& fn) {
  double sum = 0;
  for (const HeadState& h : heads) {
    if (fn(h) < 0) return -1;
    sum += fn(h);
  }
  return sum / static_cast<double>(std::max<std::size_t>(1, heads.size()));
}

void update_averages(const SparsityConfig& config, const BlockMeasure& m, BlockState* block) {
  if (m.loss_count > 0) block->predictor_loss = m.loss_sum / m.loss_count;
  if (m.recall_count > 0) {
    average(m.recall_sum / m.recall_count, config.ema, &block->recall);
    average(m.oracle_sum / m.recall_count, config.ema, &block->oracle_coverage);
  }
  for (std::size_t h = 0; h < m.heads.size(); ++h) {
    const BlockMeasure::Head& got = m.heads[h];
    HeadState& head = block->heads[h];
    if (got.var > 0) {
      // A slope that is not positive says that the predictor knows nothing yet: ranks stay as they
      // are, masses become nearly even.
      average(std::clamp(got.cov / got.var, 1e-3, 1e3), config.ema, &head.slope);
    }
    if (got.token_count > 0) {
      average(got.token_sum / got.token_count, config.ema, &head.token_sparsity);
    }
    if (got.exec_count > 0) {
      average(got.exec_sum / got.exec_count, config.ema, &head.exec_sparsity);
    }
    if (got.keys_count > 0) head.density = got.keys_sum / got.keys_count;
    if (got.coverage_count > 0) {
      average(got.coverage_sum / got.coverage_count, config.ema, &head.coverage);
    }
  }
}

// Gives heads below the minimum more keys, takes some of them back where there is room, and counts
// evaluations. A head that takes all it may asks for no more: the demand would outlast its cause.
void guard_coverage(const SparsityConfig& config, const BlockMeasure& m, BlockState* block) {
  bool evaluated = !m.heads.empty();
  for (std::size_t h = 0; h < m.heads.size(); ++h) {
    evaluated = evaluated && m.heads[h].coverage_count > 0;
    HeadState& head = block->heads[h];
    if (m.heads[h].coverage_count == 0) continue;
    if (head.coverage < config.coverage_min && head.density < kAtTheCap * config.max_density) {
      head.boost = std::min(kMostBoost, kBoost * head.boost);
    } else if (head.coverage >= config.coverage_min + kMargin) {
      head.boost = std::max(1.0, head.boost / kRelease);
    }
  }
  if (!evaluated) return;
  const double least = block->least_coverage();
  block->low_evaluations = least < config.coverage_min ? block->low_evaluations + 1 : 0;
  block->good_evaluations =
      least >= config.coverage_min + kMargin ? block->good_evaluations + 1 : 0;
}

// Why a block may not be sparse; empty: it may.
std::string objection(const SparsityConfig& config, double break_even, const BlockState& block) {
  const double density =
      block.mean_density() >= 0 ? block.mean_density() : 1 - block.mean_exec_sparsity();
  if (block.least_coverage() < 0 || block.mean_exec_sparsity() < 0) return "not measured yet";
  if (density > break_even) {
    return format("density {:.3f} is above break-even at {:.3f}", density, break_even);
  }
  if (block.sparse) {
    return block.low_evaluations >= kPatience
               ? format("coverage {:.3f} stays below {:.2f}", block.least_coverage(),
                        config.coverage_min)
               : "";
  }
  return block.good_evaluations >= kPatience
             ? ""
             : format("coverage {:.3f} is not yet at {:.2f} for {} evaluations",
                      block.least_coverage(), config.coverage_min + kMargin, kPatience);
}

bool warm_up_is_over(const SparsityConfig& config, double break_even, std::int64_t step,
                     const SparsityState& state) {
  if (step < config.min_steps || state.loss_ema < 0 || state.loss_ema >= config.loss_threshold) {
    return false;
  }
  const auto ready = std::count_if(state.blocks.begin(), state.blocks.end(), [&](const auto& b) {
    return objection(config, break_even, b).empty();
  });
  return static_cast<double>(ready) >=
         config.covered_blocks * static_cast<double>(state.blocks.size());
}

}  // namespace

double BlockState::mean_coverage() const {
  return mean_over(heads, [](const HeadState& h) { return h.coverage; });
}
double BlockState::least_coverage() const {
  double least = 2;
  for (const HeadState& h : heads) least = std::min(least, h.coverage);
  return least > 1.5 ? -1 : least;
}
double BlockState::mean_exec_sparsity() const {
  return mean_over(heads, [](const HeadState& h) { return h.exec_sparsity; });
}
double BlockState::mean_density() const {
  return mean_over(heads, [](const HeadState& h) { return h.density; });
}

SparsityState initial_state(std::int64_t num_blocks, std::int64_t num_heads) {
  SparsityState state;
  state.blocks.resize(static_cast<std::size_t>(num_blocks));
  for (BlockState& block : state.blocks) block.heads.resize(static_cast<std::size_t>(num_heads));
  return state;
}

std::vector<Decision> advance_sparsity(const SparsityConfig& config, double break_even,
                                       const std::vector<BlockMeasure>& measures,
                                       std::int64_t step, SparsityState* state) {
  DSV_CHECK(measures.size() == state->blocks.size(), "[sparsity] {} measures of {} blocks",
            measures.size(), state->blocks.size());
  double loss = 0, loss_blocks = 0;
  for (std::size_t b = 0; b < measures.size(); ++b) {
    update_averages(config, measures[b], &state->blocks[b]);
    guard_coverage(config, measures[b], &state->blocks[b]);
    if (measures[b].loss_count > 0) {
      loss += measures[b].loss_sum / measures[b].loss_count;
      ++loss_blocks;
    }
  }
  if (loss_blocks > 0) average(loss / loss_blocks, config.loss_ema, &state->loss_ema);

  std::vector<Decision> decisions;
  if (config.force_density > 0) {
    state->stage = Stage::kSparse;
    if (state->switch_step < 0) state->switch_step = step;
    for (BlockState& block : state->blocks) block.sparse = true;
    return decisions;
  }
  if (state->stage == Stage::kDense) {
    if (warm_up_is_over(config, break_even, step, *state)) {
      state->stage = Stage::kSparse;
      state->switch_step = step;
      state->gave_up = false;
    } else {
      state->gave_up = step >= config.max_steps;
      return decisions;
    }
  }
  for (std::size_t b = 0; b < state->blocks.size(); ++b) {
    BlockState& block = state->blocks[b];
    const std::string why_not = objection(config, break_even, block);
    if (block.sparse == why_not.empty()) continue;
    block.sparse = why_not.empty();
    decisions.push_back({.block = static_cast<std::int64_t>(b),
                         .sparse = block.sparse,
                         .reason = block.sparse ? format("density {:.3f}, coverage {:.3f}",
                                                         block.mean_density(),
                                                         block.least_coverage())
                                                : why_not});
  }
  return decisions;
}

KeyBudget key_budget(const SparsityConfig& config, const HeadState& head, std::int64_t tokens) {
  const auto n = static_cast<double>(tokens);
  const auto keys = [&](double density) {
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(density * n)), 1, tokens);
  };
  if (config.force_density > 0) {
    return {.mass = 2, .min_keys = keys(config.force_density), .max_keys = keys(config.force_density)};
  }
  const std::int64_t floor = keys(config.min_density), cap = keys(config.max_density);
  if (config.count == KeyCount::kFixed) {
    const double density = head.exec_sparsity < 0 ? 1 : 1 - head.exec_sparsity;
    const std::int64_t k = std::clamp(keys(head.boost * density), floor, std::max(floor, cap));
    return {.mass = 2, .min_keys = k, .max_keys = k};
  }
  // A boost of 1.25 asks for a fifth of the mass that was left out.
  return {.mass = 1 - (1 - config.mass) / head.boost, .min_keys = floor, .max_keys = std::max(floor, cap)};
}

}  // namespace dsv::sparsity
