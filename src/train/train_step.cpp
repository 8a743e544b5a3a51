#include "dsv/train/train_step.h"

#include <cmath>

#include "dsv/diffusion/flow_matching.h"
#include "dsv/model/flops.h"
#include "dsv/parallel/grad_sync.h"
#include "dsv/train/device_copy.h"
#include "dsv/train/fault.h"

namespace dsv::train {
namespace {

diffusion::ClipSize clip_size(const data::LoaderBatch& batch) {
  return {.height = batch.bucket.height,
          .width = batch.bucket.width,
          .latent_frames = batch.latents.dim(2)};
}

// Zeroes the text of samples that train without it; the mask keeps row 0, as null text does.
void drop_text(const data::LoaderBatch& batch, const Config& config) {
  for (std::size_t b = 0; b < batch.sample_ids.size(); ++b) {
    if (!diffusion::drops_text(config.diffusion, config.run.seed, batch.epochs[b],
                               batch.sample_ids[b])) {
      continue;
    }
    const Tensor text = batch.text.select(0, static_cast<std::int64_t>(b));
    const Tensor mask = batch.text_mask.select(0, static_cast<std::int64_t>(b));
    std::fill_n(text.f32(), text.num_elements(), 0.0f);
    std::fill_n(mask.f32(), mask.num_elements(), 0.0f);
    mask.f32()[0] = 1;
  }
}

model::DitInputs model_inputs(const autograd::Context& ctx, const diffusion::FlowBatch& flow,
                              const data::LoaderBatch& batch) {
  return {.latents = flow.x_t,
          .timesteps = flow.timesteps,
          .text = to_device(ctx, batch.text),
          .text_mask = to_device(ctx, batch.text_mask)};
}

double sum(const autograd::Context& ctx, const Tensor& device) {
  const Tensor host = to_host(ctx, device);
  double total = 0;
  for (std::int64_t i = 0; i < host.num_elements(); ++i) total += host.f32()[i];
  return total;
}

// Forward and backward of one micro-batch; returns its sum of per-sample losses.
double accumulate(Runtime& runtime, TrainState& state, const Config& config,
                  const data::LoaderBatch& batch, std::int64_t num_samples, double* tokens) {
  autograd::Tape tape;
  const autograd::Context ctx = runtime.context(&tape);
  drop_text(batch, config);
  const diffusion::FlowBatch flow = diffusion::make_training_batch(
      ctx, config.diffusion, config.model.family, to_device(ctx, batch.latents), batch.sample_ids,
      config.run.seed, state.step(), clip_size(batch));
  autograd::Variable prediction;
  {
    const TraceScope trace(ctx.tracer, "forward");
    prediction = state.dit().forward(ctx, model_inputs(ctx, flow, batch));
  }
  const Tensor losses = autograd::mse_loss(ctx, prediction, flow.target, flow.weight,
                                           1.0f / static_cast<float>(num_samples));
  prediction = {};
  {
    const TraceScope trace(ctx.tracer, "backward");
    tape.backward(ctx);
  }
  *tokens += static_cast<double>(state.dit().geometry(batch.latents.shape()).num_tokens() *
                                 batch.latents.dim(0));
  return sum(ctx, losses);
}

// Which rank saw the first non-finite value; -1: none.
std::int64_t first_bad_rank(const comm::Mesh& mesh, bool bad) {
  const std::int64_t mine = bad ? mesh.world->rank() : mesh.world->size();
  const std::int64_t first = mesh.world->all_reduce(mine, comm::ReduceOp::kMin);
  return first < mesh.world->size() ? first : -1;
}

}  // namespace

StepResult train_step(Runtime& runtime, TrainState& state, const Config& config,
                      const std::vector<data::LoaderBatch>& batches, std::int64_t num_samples) {
  const autograd::Context ctx = runtime.context();
  const comm::Mesh& mesh = runtime.mesh();
  StepResult result{.num_samples = num_samples};
  state.params().zero_grad(ctx);
  double loss_sum = 0, tokens = 0, flops = 0;
  for (const data::LoaderBatch& batch : batches) {
    double batch_tokens = 0;
    loss_sum += accumulate(runtime, state, config, batch, num_samples, &batch_tokens);
    const auto count = static_cast<double>(batch.latents.dim(0));
    flops +=
        count *
        model::model_flops(config.model, static_cast<std::int64_t>(batch_tokens / count)).step();
    tokens += batch_tokens;
  }
  if (fault_point("grad", mesh.world->rank(), state.step()) == FaultAction::kNan) {
    loss_sum = std::nan("");
  }

  const std::int64_t bad_rank = first_bad_rank(mesh, !std::isfinite(loss_sum));
  if (bad_rank >= 0) {
    throw_error(ExitCode::kNonFinite, "[train] step {}: the loss of rank {} is not finite",
                state.step(), bad_rank);
  }
  {
    const TraceScope trace(ctx.tracer, "grad_sync");
    parallel::sync_gradients(ctx, state.params());
  }
  {
    const TraceScope trace(ctx.tracer, "optimizer");
    result.grad = optim::gradient_norm(ctx, state.params());
    if (result.grad.num_nonfinite > 0) {
      throw_error(ExitCode::kNonFinite,
                  "[train] step {}: {} gradients are not finite, the first in unit '{}'",
                  state.step(), result.grad.num_nonfinite, result.grad.first_nonfinite);
    }
    result.lr = optim::learning_rate(config.optim, state.step(), config.run.steps);
    optim::adamw_step(ctx, state.params(), config.optim, result.lr,
                      optim::clip_scale(result.grad.norm, config.optim.grad_clip),
                      state.step() + 1);
  }
  result.loss =
      mesh.world->all_reduce(loss_sum, comm::ReduceOp::kSum) / static_cast<double>(num_samples);
  result.num_tokens =
      static_cast<std::int64_t>(mesh.world->all_reduce(tokens, comm::ReduceOp::kSum));
  result.model_flops = mesh.world->all_reduce(flops, comm::ReduceOp::kSum);
  state.advance();
  return result;
}

std::vector<double> held_out_loss(Runtime& runtime, TrainState& state, const Config& config,
                                  const std::vector<data::LoaderBatch>& batches) {
  const autograd::Context ctx = runtime.context();
  const TraceScope trace(ctx.tracer, "held_out");
  const auto quantiles = narrow<int>(config.eval.quantiles);
  std::vector<double> losses;
  for (int q = 0; q < quantiles; ++q) {
    double total = 0;
    for (const data::LoaderBatch& batch : batches) {
      diffusion::FlowBatch flow = diffusion::make_held_out_batch(
          ctx, config.diffusion, config.model.family, to_device(ctx, batch.latents),
          batch.sample_ids, config.run.seed, q, quantiles, clip_size(batch));
      const autograd::Variable prediction =
          state.dit().forward(ctx, model_inputs(ctx, flow, batch));
      // Unweighted: a measure must not change with loss_weighting.
      total += sum(ctx, autograd::mse_loss(ctx, prediction, flow.target, Tensor(), 0));
    }
    const auto count = static_cast<double>(runtime.mesh().world->all_reduce(
        static_cast<std::int64_t>(batches.size()), comm::ReduceOp::kSum));
    losses.push_back(runtime.mesh().world->all_reduce(total, comm::ReduceOp::kSum) /
                     std::max(1.0, count));
  }
  return losses;
}

}  // namespace dsv::train
