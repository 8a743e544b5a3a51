#include "dsv/train/train_step.h"

#include <algorithm>
#include <cmath>

#include "dsv/diffusion/flow_matching.h"
#include "dsv/model/flops.h"
#include "dsv/optim/lr_schedule.h"
#include "dsv/parallel/grad_sync.h"
#include "dsv/train/device_copy.h"
#include "dsv/train/fault.h"

namespace dsv::train {
namespace {

diffusion::ClipSize clip_size(const data::LoaderBatch& batch) {
  return {.height = batch.height, .width = batch.width, .latent_frames = batch.latent.dim(2)};
}

// Gives the null text to samples that train without theirs.
void drop_text(const data::LoaderBatch& batch, const Config& config, const Tensor& null_text) {
  for (std::size_t b = 0; b < batch.sample_ids.size(); ++b) {
    if (!diffusion::drops_text(config.diffusion, config.run.seed, batch.epochs[b],
                               batch.sample_ids[b])) {
      continue;
    }
    const auto i = static_cast<std::int64_t>(b);
    data::pad_text(null_text, batch.text.select(0, i), batch.text_mask.select(0, i));
  }
}

model::DitInputs model_inputs(const autograd::Context& ctx, const diffusion::FlowBatch& flow,
                              const data::LoaderBatch& batch, TrainState& state) {
  return {.latents = flow.x_t,
          .timesteps = flow.timesteps,
          .text = to_device(ctx, batch.text),
          .text_mask = to_device(ctx, batch.text_mask),
          .attention = &state.attention()};
}

double sum(const autograd::Context& ctx, const Tensor& device) {
  const Tensor host = to_host(ctx, device);
  double total = 0;
  for (std::int64_t i = 0; i < host.num_elements(); ++i) total += host.f32()[i];
  return total;
}

// Forward and backward of one micro-batch; returns its sum of per-sample losses.
double accumulate(Runtime& runtime, TrainState& state, const Config& config,
                  const data::LoaderBatch& batch) {
  autograd::Tape tape;
  const autograd::Context ctx = runtime.context(&tape);
  const diffusion::FlowBatch flow = diffusion::make_training_batch(
      ctx, config.diffusion, config.model.family, to_device(ctx, batch.latent), batch.sample_ids,
      config.run.seed, state.step(), clip_size(batch));
  autograd::Variable prediction;
  {
    const TraceScope trace(ctx.tracer, "forward");
    state.attention().set_sample_weight(1.0 / static_cast<double>(batch.global_batch));
    prediction = state.dit().forward(ctx, model_inputs(ctx, flow, batch, state));
  }
  const Tensor losses = autograd::mse_loss(ctx, prediction, flow.target, flow.weight,
                                           1.0f / static_cast<float>(batch.global_batch));
  prediction = {};
  const TraceScope trace(ctx.tracer, "backward");
  tape.backward(ctx);
  return sum(ctx, losses);
}

// Sums over the micro-batches of this rank.
struct Sums {
  double loss = 0, tokens = 0, flops = 0, wait_ms = 0;
  std::int64_t num_samples = 0;  // of the whole step
};

Sums run_micro_batches(Runtime& runtime, TrainState& state, const Config& config,
                       const BatchSource& next, const Tensor& null_text) {
  Sums sums;
  for (bool last = false; !last;) {
    const data::LoaderBatch batch = next();
    DSV_CHECK(batch.step == state.step(), "[train] the loader is at step {}, the state at {}",
              batch.step, state.step());
    last = batch.micro + 1 >= batch.num_micro;
    sums.num_samples = batch.global_batch;
    sums.wait_ms += batch.data_wait_ms;
    if (batch.size() == 0) continue;
    drop_text(batch, config, null_text);
    sums.loss += accumulate(runtime, state, config, batch);
    const std::int64_t tokens = state.dit().geometry(batch.latent.shape()).num_tokens();
    const auto count = static_cast<double>(batch.size());
    sums.tokens += count * static_cast<double>(tokens);
    sums.flops += count * model::model_flops(config.model, tokens).step();
  }
  return sums;
}

// Which rank saw the first non-finite value; -1: none.
std::int64_t first_bad_rank(comm::Communicator& world, bool bad) {
  const std::int64_t mine = bad ? world.rank() : world.size();
  const std::int64_t first = world.all_reduce(mine, comm::ReduceOp::kMin);
  return first < world.size() ? first : -1;
}

}  // namespace

StepResult train_step(Runtime& runtime, TrainState& state, const Config& config,
                      const BatchSource& next, const Tensor& null_text) {
  const autograd::Context ctx = runtime.context();
  comm::Communicator& world = *runtime.mesh().world;
  state.params().zero_grad(ctx);
  state.predictors().zero_grad(ctx);
  state.attention().begin_step(state.step());
  Sums sums = run_micro_batches(runtime, state, config, next, null_text);
  if (fault_point("grad", world.rank(), state.step()) == FaultAction::kNan)
    sums.loss = std::nan("");

  const std::int64_t bad_rank = first_bad_rank(world, !std::isfinite(sums.loss));
  if (bad_rank >= 0) {
    throw_error(ExitCode::kNonFinite, "[train] step {}: the loss of rank {} is not finite",
                state.step(), bad_rank);
  }
  {
    const TraceScope trace(ctx.tracer, "grad_sync");
    parallel::sync_gradients(ctx, state.params());
    parallel::sync_gradients(ctx, state.predictors());
  }
  StepResult result{.num_samples = sums.num_samples};
  {
    const TraceScope trace(ctx.tracer, "optimizer");
    result.grad = optim::gradient_norm(ctx, state.params());
    if (result.grad.num_nonfinite > 0) {
      throw_error(ExitCode::kNonFinite,
                  "[train] step {}: {} gradients are not finite, the first in unit '{}'",
                  state.step(), result.grad.num_nonfinite, result.grad.first_nonfinite);
    }
    // Predictors move with the rate of the stage that their gradients are from.
    const bool is_sparse = state.attention().state().stage == sparsity::Stage::kSparse;
    result.decisions = state.attention().end_step(ctx);
    result.lr = optim::learning_rate(config.optim, state.step(), config.run.steps);
    optim::adamw_step(ctx, state.params(), config.optim, result.lr,
                      optim::clip_scale(result.grad.norm, config.optim.grad_clip),
                      state.step() + 1);
    optim::adamw_step(ctx, state.predictors(), config.optim,
                      result.lr * (is_sparse ? config.sparsity.predictor_lr_factor : 1.0), 1.0,
                      state.step() + 1);
  }
  using comm::ReduceOp;
  result.loss = world.all_reduce(sums.loss, ReduceOp::kSum) / static_cast<double>(sums.num_samples);
  result.num_tokens = static_cast<std::int64_t>(world.all_reduce(sums.tokens, ReduceOp::kSum));
  result.model_flops = world.all_reduce(sums.flops, ReduceOp::kSum);
  result.data_wait_ms = world.all_reduce(sums.wait_ms, ReduceOp::kMax);
  state.advance();
  return result;
}

std::vector<double> held_out_loss(Runtime& runtime, TrainState& state, const Config& config,
                                  const std::vector<data::LoaderBatch>& batches) {
  const autograd::Context ctx = runtime.context();
  const TraceScope trace(ctx.tracer, "held_out");
  const auto quantiles = narrow<int>(config.eval.quantiles);
  comm::Communicator& world = *runtime.mesh().world;
  std::int64_t mine = 0;
  for (const data::LoaderBatch& batch : batches) mine += batch.size();
  const auto count = static_cast<double>(world.all_reduce(mine, comm::ReduceOp::kSum));
  std::vector<double> losses;
  for (int q = 0; q < quantiles; ++q) {
    double total = 0;
    for (const data::LoaderBatch& batch : batches) {
      const diffusion::FlowBatch flow = diffusion::make_held_out_batch(
          ctx, config.diffusion, config.model.family, to_device(ctx, batch.latent),
          batch.sample_ids, config.run.seed, q, quantiles, clip_size(batch));
      const autograd::Variable prediction =
          state.dit().forward(ctx, model_inputs(ctx, flow, batch, state));
      // Unweighted: a measure must not change with loss_weighting.
      total += sum(ctx, autograd::mse_loss(ctx, prediction, flow.target, Tensor(), 0));
    }
    losses.push_back(world.all_reduce(total, comm::ReduceOp::kSum) / std::max(1.0, count));
  }
  return losses;
}

}  // namespace dsv::train
