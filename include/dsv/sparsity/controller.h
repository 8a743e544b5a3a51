// Controller: what self-attention of every block attends to, and what is learned from each step
// about it. One per rank; the model asks it for keys, the training loop tells it where steps begin
// and end.
#pragma once

#include <map>
#include <memory>

#include "dsv/autograd/functions.h"
#include "dsv/costs/attention_costs.h"
#include "dsv/sparsity/block_state.h"
#include "dsv/sparsity/predictor.h"
#include "dsv/sparsity/sequence_layout.h"

namespace dsv::sparsity {

struct StepRows;
struct Measurement;

class Controller {
 public:
  Controller(const AttentionConfig& attention, const SparsityConfig& sparsity,
             const AttentionShape& shape);
  ~Controller();

  const AttentionConfig& attention() const { return attention_; }
  // Only policy dsv has predictors; other policies declare nothing.
  bool learns() const { return attention_.policy == Policy::kDsv; }
  void declare(autograd::ParamStore& store) const;
  void bind(const autograd::ParamStore& store);

  // Tokens of a grid in the order that attention wants; null: in raster order.
  const SequenceLayout* layout(const autograd::Context& ctx, const Extent3& grid);

  // Dispatching needs to know what attention costs here, unless the configuration says where sparse
  // attention pays.
  bool needs_costs() const;
  const costs::AttentionCosts& costs() const { return costs_; }
  void set_costs(costs::AttentionCosts costs) { costs_ = std::move(costs); }
  // Density above which a block stays dense. Throws Error(kConfig) where costs are needed and were
  // not set.
  double break_even(std::int64_t tokens) const;

  // --- Where steps begin and end. In between, every forward pass is one of training. Outside, keys
  // are selected as the state says, and nothing is learned.
  // `step` counts from 0.
  void begin_step(std::int64_t step);
  // Before each micro-batch: gradients of the predictors' losses are means over rows and heads, times
  // this for each sample.
  void set_sample_weight(double weight);
  // Collective: reads what the step measured, brings averages and decisions up to date. Returns what
  // was decided.
  std::vector<Decision> end_step(const autograd::Context& ctx);

  // The keys of block `layer`. In training also adds the gradient of its predictor and measures what
  // is due. `in` as Predictor says.
  autograd::KeySelection select(const autograd::Context& ctx, std::int64_t layer,
                                const SequenceLayout& layout, const PredictorInputs& in);

  // While it lives, every pass attends to all keys (token order unchanged).
  class FullAttention {
   public:
    explicit FullAttention(Controller& of) : of_(of), before_(of.all_full_) { of.all_full_ = true; }
    ~FullAttention() { of_.all_full_ = before_; }
    FullAttention(const FullAttention&) = delete;
    FullAttention& operator=(const FullAttention&) = delete;

   private:
    Controller& of_;
    bool before_;
  };

  const SparsityState& state() const { return state_; }
  void set_state(SparsityState state);
  std::int64_t num_sparse_blocks() const;

 private:
  struct Budget {
    std::int64_t tokens = -1;
    Tensor slope, mass, min_keys, max_keys;
  };
  struct Step {
    std::int64_t index = 0;
    double sample_weight = 1;
    bool coverage = false, profile = false;
    std::int64_t tokens = 0;  // of the longest sequence
  };

  autograd::KeySelection window(const autograd::Context& ctx, const SequenceLayout& layout,
                                std::int64_t batch);
  autograd::KeySelection block_mean(const autograd::Context& ctx, std::int64_t layer,
                                    const SequenceLayout& layout, const PredictorInputs& in);
  struct Estimate {
    Tensor bits, num_keys;
  };
  Estimate estimate(const autograd::Context& ctx, std::int64_t layer, const SequenceLayout& layout,
                    const Predictor::LowRank& low, float scale);
  void learn(const autograd::Context& ctx, std::int64_t layer, const SequenceLayout& layout,
             const PredictorInputs& in, const Predictor::LowRank& low, const Estimate& chosen);
  void profile(const autograd::Context& ctx, const SequenceLayout& layout,
               const PredictorInputs& in, const Estimate& chosen, Measurement* out);
  const StepRows& rows_of(const autograd::Context& ctx, const SequenceLayout& layout);
  const LowRankRope& rope_of(const autograd::Context& ctx, const SequenceLayout& layout);
  const Budget& budget_of(const autograd::Context& ctx, std::int64_t layer, std::int64_t tokens);
  bool runs_sparse(std::int64_t layer) const;

  AttentionConfig attention_;
  SparsityConfig config_;
  AttentionShape shape_;
  costs::AttentionCosts costs_;
  Predictor predictor_;
  SparsityState state_;
  bool all_full_ = false;

  std::map<Extent3, std::unique_ptr<SequenceLayout>> layouts_;
  std::map<const SequenceLayout*, LowRankRope> ropes_;
  std::map<std::pair<const SequenceLayout*, std::int64_t>, Tensor> windows_;
  std::vector<Budget> budgets_;

  std::unique_ptr<Step> step_;  // null: between steps
  std::map<const SequenceLayout*, std::unique_ptr<StepRows>> rows_;
  std::vector<Measurement> pending_;
};

}  // namespace dsv::sparsity
