#include "dsv/sparsity/controller.h"

#include <algorithm>
#include <cmath>

#include "dsv/kernels/score_stats.h"
#include "dsv/tensor/transfer.h"
#include "measurement.h"

namespace dsv::sparsity {
namespace {

// Profiles are this many times as frequent while attention is dense.
constexpr std::int64_t kDenseProfiles = 4;

bool due(std::int64_t step, std::int64_t every) {
  return step % std::max<std::int64_t>(1, every) == 0;
}

template <typename T>
Tensor upload_as(const autograd::Context& ctx, std::vector<T> values, DType dtype) {
  const Shape shape{static_cast<std::int64_t>(values.size())};
  const Tensor device = ctx.arena.empty(shape, dtype);
  transfer(Tensor(values.data(), dtype, shape), device, ctx.stream);
  return device;
}

}  // namespace

Controller::Controller(const AttentionConfig& attention, const SparsityConfig& sparsity,
                       const AttentionShape& shape)
    : attention_(attention),
      config_(sparsity),
      shape_(shape),
      predictor_(sparsity, shape),
      state_(initial_state(shape.num_layers, shape.num_heads)),
      budgets_(static_cast<std::size_t>(shape.num_layers)) {
  if (learns() && config_.force_density > 0) {
    advance_sparsity(config_, 1, std::vector<BlockMeasure>(state_.blocks.size()), 0, &state_);
  }
}

Controller::~Controller() = default;

bool Controller::needs_costs() const {
  return learns() && config_.force_density == 0 && config_.break_even_density == 0;
}

double Controller::break_even(std::int64_t tokens) const {
  if (!needs_costs()) return config_.break_even_density;
  return costs::break_even_density(costs_, tokens);
}

void Controller::declare(autograd::ParamStore& store) const {
  if (learns()) predictor_.declare(store);
}

void Controller::bind(const autograd::ParamStore& store) {
  if (learns()) predictor_.bind(store);
}

void Controller::set_state(SparsityState state) {
  state_ = std::move(state);
  for (Budget& budget : budgets_) budget = {};
}

std::int64_t Controller::num_sparse_blocks() const {
  if (attention_.policy == Policy::kFull) return 0;
  if (!learns()) return shape_.num_layers;
  return std::count_if(state_.blocks.begin(), state_.blocks.end(),
                       [](const BlockState& b) { return b.sparse; });
}

const SequenceLayout* Controller::layout(const autograd::Context& ctx, const Extent3& grid) {
  if (attention_.policy == Policy::kFull) return nullptr;
  std::unique_ptr<SequenceLayout>& made = layouts_[grid];
  if (made == nullptr) {
    made = std::make_unique<SequenceLayout>(make_layout(ctx, attention_, grid));
  }
  return made.get();
}

void Controller::begin_step(std::int64_t step) {
  const std::int64_t every = state_.stage == Stage::kDense
                                 ? std::max<std::int64_t>(1, config_.profile_every / kDenseProfiles)
                                 : config_.profile_every;
  step_ = std::make_unique<Step>(Step{.index = step,
                                      .coverage = due(step, config_.coverage_every),
                                      .profile = due(step, every)});
  rows_.clear();
  pending_.clear();
}

void Controller::set_sample_weight(double weight) {
  DSV_CHECK(step_ != nullptr, "[sparsity] a sample weight outside a step");
  step_->sample_weight = weight;
}

std::vector<Decision> Controller::end_step(const autograd::Context& ctx) {
  std::vector<Decision> decisions;
  if (step_ == nullptr) return decisions;
  const Step step = *step_;
  step_.reset();
  if (learns()) {
    std::vector<BlockMeasure> measures(state_.blocks.size());
    for (BlockMeasure& m : measures) m.heads.resize(static_cast<std::size_t>(shape_.num_heads));
    for (const Measurement& m : pending_) {
      add_to(ctx, m, config_, &measures[static_cast<std::size_t>(m.layer)]);
    }
    std::vector<double> numbers = flatten(measures);
    const Shape shape{static_cast<std::int64_t>(numbers.size())};
    ctx.mesh.world->all_reduce(Tensor(numbers.data(), DType::kF64, shape), comm::ReduceOp::kSum);
    for (const double number : numbers) {
      if (!std::isfinite(number)) {
        throw_error(ExitCode::kNonFinite,
                    "[sparsity] step {}: the loss or the statistics of a predictor are not finite",
                    step.index);
      }
    }
    unflatten(numbers, &measures);
    // Ranks may have had sequences of different lengths: the longest decides.
    const std::int64_t tokens = ctx.mesh.world->all_reduce(step.tokens, comm::ReduceOp::kMax);
    const std::vector<BlockState> before = state_.blocks;
    decisions =
        advance_sparsity(config_, break_even(tokens), measures, step.index + 1, &state_);
    for (std::size_t b = 0; b < before.size(); ++b) {
      if (!(before[b].heads == state_.blocks[b].heads)) budgets_[b] = {};
    }
  }
  pending_.clear();
  rows_.clear();
  return decisions;
}

bool Controller::runs_sparse(std::int64_t layer) const {
  return !all_full_ && (!learns() || state_.blocks[static_cast<std::size_t>(layer)].sparse);
}

const StepRows& Controller::rows_of(const autograd::Context& ctx, const SequenceLayout& layout) {
  std::unique_ptr<StepRows>& made = rows_[&layout];
  if (made == nullptr) {
    made = std::make_unique<StepRows>(make_step_rows(ctx, layout, config_.predictor_sample_every,
                                                     config_.profile_groups, step_->profile,
                                                     step_->index));
  }
  return *made;
}

const LowRankRope& Controller::rope_of(const autograd::Context& ctx, const SequenceLayout& layout) {
  const auto found = ropes_.find(&layout);
  if (found != ropes_.end()) return found->second;
  std::vector<Extent3> tokens;
  for (std::int64_t i = 0; i < layout.num_tokens(); ++i) {
    tokens.push_back(layout.order.coordinates(i));
  }
  return ropes_.emplace(&layout, predictor_.make_rope(ctx, tokens)).first->second;
}

const Controller::Budget& Controller::budget_of(const autograd::Context& ctx, std::int64_t layer,
                                                std::int64_t tokens) {
  Budget& budget = budgets_[static_cast<std::size_t>(layer)];
  if (budget.tokens == tokens) return budget;
  std::vector<float> slope, mass;
  std::vector<std::int32_t> least, most;
  for (const HeadState& head : state_.blocks[static_cast<std::size_t>(layer)].heads) {
    const KeyBudget keys = key_budget(config_, head, tokens);
    slope.push_back(head.slope > 0 ? static_cast<float>(head.slope) : 1.0f);
    mass.push_back(static_cast<float>(keys.mass));
    least.push_back(static_cast<std::int32_t>(keys.min_keys));
    most.push_back(static_cast<std::int32_t>(keys.max_keys));
  }
  budget = {.tokens = tokens,
            .slope = upload_as(ctx, slope, DType::kF32),
            .mass = upload_as(ctx, mass, DType::kF32),
            .min_keys = upload_as(ctx, least, DType::kI32),
            .max_keys = upload_as(ctx, most, DType::kI32)};
  return budget;
}

autograd::KeySelection Controller::window(const autograd::Context& ctx,
                                          const SequenceLayout& layout, std::int64_t batch) {
  Tensor& bits = windows_[{&layout, batch}];
  if (!bits.defined()) {
    std::vector<std::uint32_t> one = window_bits(layout, attention_.window);
    const Shape shape{batch, shape_.num_heads, layout.num_groups(), layout.num_words()};
    bits = ctx.arena.empty(shape, DType::kU32);
    const Tensor host(one.data(), DType::kU32, {layout.num_groups(), layout.num_words()});
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t h = 0; h < shape_.num_heads; ++h) {
        transfer(host, bits.select(0, b).select(0, h), ctx.stream);
      }
    }
  }
  return {.bits = bits, .block_start = layout.block_start, .group_start = layout.group_start};
}

// Cubes by the product of mean query and mean key, in the paper's place of a learned predictor: the
// mean of a cube's keys stands for each of them, so that selection is the same.
autograd::KeySelection Controller::block_mean(const autograd::Context& ctx, std::int64_t layer,
                                              const SequenceLayout& layout,
                                              const PredictorInputs& in) {
  const std::int64_t H = shape_.num_heads;
  const Tensor cubes = layout.cube_start;
  const Tensor means = ctx.arena.empty(in.k.shape(), in.k.dtype());
  ctx.kernels.segment_mean({.x = in.k, .start = cubes, .y = means}, ctx.stream);
  const float scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
  const Estimate chosen =
      estimate(ctx, layer, layout, {in.q.as_heads(H), means.as_heads(H)}, scale);
  return {.bits = chosen.bits,
          .block_start = layout.block_start,
          .group_start = layout.group_start};
}

Controller::Estimate Controller::estimate(const autograd::Context& ctx, std::int64_t layer,
                                          const SequenceLayout& layout,
                                          const Predictor::LowRank& low, float scale) {
  const TraceScope trace(ctx.tracer, "estimate");
  const Budget& budget = budget_of(ctx, layer, layout.num_tokens());
  const std::int64_t B = low.q.dim(0), H = low.q.dim(2), G = layout.num_groups();
  Estimate out{.bits = ctx.arena.empty({B, H, G, layout.num_words()}, DType::kU32),
               .num_keys = ctx.arena.empty({B, H, G}, DType::kI32)};
  ctx.kernels.select_blocks({.q_lr = low.q,
                             .k_lr = low.k,
                             .block_start = layout.block_start,
                             .group_start = layout.group_start,
                             .slope = budget.slope,
                             .mass = budget.mass,
                             .min_keys = budget.min_keys,
                             .max_keys = budget.max_keys,
                             .bits = out.bits,
                             .num_keys = out.num_keys,
                             .covered = ctx.arena.empty({B, H, G}),
                             .scale = scale,
                             .unit = attention_.granularity == 64
                                         ? static_cast<int>(kernels::kTileBlocks)
                                         : 1,
                             .proxy = config_.predictor_proxy},
                            ctx.stream);
  return out;
}

void Controller::profile(const autograd::Context& ctx, const SequenceLayout& layout,
                         const PredictorInputs& in, const Estimate& chosen, Measurement* out) {
  const TraceScope trace(ctx.tracer, "profile");
  const StepRows& rows = *out->rows;
  const std::int64_t B = in.q.dim(0), H = shape_.num_heads, R = rows.profile_rows.dim(0);
  const std::int64_t groups = rows.profile_groups.dim(0);
  const float scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
  const Tensor stats = ctx.arena.empty({B, H, R, kernels::kNumScoreColumns}, DType::kF64);
  const Tensor q = in.q.as_heads(H), k = in.k.as_heads(H);
  ctx.kernels.score_stats(
      {.q = q, .k = k, .rows = rows.profile_rows, .stats = stats, .scale = scale}, ctx.stream);
  out->block_mass = ctx.arena.empty({B, H, groups, layout.num_blocks()});
  out->bin_count = ctx.arena.empty({B, H, R, kernels::kNumProfileBins}, DType::kI32);
  out->bin_mass = ctx.arena.empty({B, H, R, kernels::kNumProfileBins});
  ctx.kernels.attention_profile({.q = q,
                                 .k = k,
                                 .rows = rows.profile_rows,
                                 .stats = stats,
                                 .block_start = layout.block_start,
                                 .block_mass = out->block_mass,
                                 .bin_count = out->bin_count,
                                 .bin_mass = out->bin_mass,
                                 .scale = scale},
                                ctx.stream);
  if (!chosen.bits.defined()) return;
  // Words are moved as they are, whatever they mean.
  const Shape words{B * H, layout.num_groups(), layout.num_words()};
  const Tensor as_f32(chosen.bits.raw(), DType::kF32, words, chosen.bits.device(),
                      chosen.bits.owner());
  const Tensor picked = ctx.arena.empty({B * H, groups, layout.num_words()});
  ctx.kernels.gather_rows({.x = as_f32, .index = rows.profile_groups, .y = picked}, ctx.stream);
  out->profile_bits = Tensor(picked.raw(), DType::kU32, picked.shape(), picked.device(),
                             picked.owner());
}

void Controller::learn(const autograd::Context& ctx, std::int64_t layer,
                       const SequenceLayout& layout, const PredictorInputs& in,
                       const Predictor::LowRank& low, const Estimate& chosen) {
  const std::int64_t B = in.q.dim(0), S = in.q.dim(1), H = shape_.num_heads,
                     r = predictor_.rank();
  step_->tokens = std::max(step_->tokens, S);
  Measurement m{.layer = layer, .layout = &layout, .rows = &rows_of(ctx, layout)};
  const std::int64_t R = m.rows->rows.dim(0);
  const float scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
  const float lr_scale = 1 / std::sqrt(static_cast<float>(r));
  const Tensor q = in.q.as_heads(H), k = in.k.as_heads(H);
  {
    const TraceScope trace(ctx.tracer, "predictor_loss");
    const Tensor stats = ctx.arena.empty({B, H, R, kernels::kNumScoreColumns}, DType::kF64);
    ctx.kernels.score_stats({.q = q,
                             .k = k,
                             .q_lr = low.q,
                             .k_lr = low.k,
                             .rows = m.rows->rows,
                             .row_groups = chosen.bits.defined() ? m.rows->row_groups : Tensor(),
                             .bits = chosen.bits,
                             .block_start = layout.block_start,
                             .stats = stats,
                             .scale = scale,
                             .lr_scale = lr_scale},
                            ctx.stream);
    m.loss = ctx.arena.empty({B, H, R});
    const Tensor dq = ctx.arena.empty({B, R, H, r}), dk = ctx.arena.empty({B, S, H, r});
    const double weight = step_->sample_weight / static_cast<double>(R * H);
    ctx.kernels.predictor_backward({.q = q,
                                    .k = k,
                                    .q_lr = low.q,
                                    .k_lr = low.k,
                                    .rows = m.rows->rows,
                                    .stats = stats,
                                    .loss = m.loss,
                                    .dq_lr = dq,
                                    .dk_lr = dk,
                                    .scale = scale,
                                    .lr_scale = lr_scale,
                                    .grad_scale = static_cast<float>(weight),
                                    .center = config_.predictor_center,
                                    .num_keys = S},
                                   ctx.stream);
    {
      const TraceScope gradient(ctx.tracer, "predictor_gradient");
      predictor_.add_gradient(ctx, layer, in, rope_of(ctx, layout), m.rows->rows, dq, dk);
    }
    if (step_->coverage) {
      m.stats = stats;
      m.num_keys = chosen.num_keys;
    }
  }
  if (step_->profile) profile(ctx, layout, in, chosen, &m);
  pending_.push_back(std::move(m));
}

autograd::KeySelection Controller::select(const autograd::Context& ctx, std::int64_t layer,
                                          const SequenceLayout& layout,
                                          const PredictorInputs& in) {
  const std::int64_t B = in.q.dim(0);
  if (attention_.policy == Policy::kFull) return {};
  if (attention_.policy == Policy::kWindow) {
    return all_full_ ? autograd::KeySelection{} : window(ctx, layout, B);
  }
  const bool sparse = runs_sparse(layer), training = step_ != nullptr;
  if (!sparse && !training) return {};
  if (attention_.policy == Policy::kBlockMean) return block_mean(ctx, layer, layout, in);
  const Predictor::LowRank low = [&] {
    const TraceScope trace(ctx.tracer, "predictor");
    return predictor_.project(ctx, layer, in, rope_of(ctx, layout));
  }();
  Estimate chosen;
  // Dense blocks estimate what they would take where their coverage is to be known.
  if (sparse || step_->coverage || step_->profile) {
    const float lr_scale = 1 / std::sqrt(static_cast<float>(predictor_.rank()));
    chosen = estimate(ctx, layer, layout, low, lr_scale);
  }
  if (training) learn(ctx, layer, layout, in, low, chosen);
  if (!sparse) return {};
  return {.bits = chosen.bits,
          .block_start = layout.block_start,
          .group_start = layout.group_start};
}

}  // namespace dsv::sparsity
