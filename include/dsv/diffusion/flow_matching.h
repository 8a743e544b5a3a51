// Flow matching: sigma of a sample, its noisy latent and target. Sources: Lipman et al., arXiv
// 2210.02747; Esser et al., arXiv 2403.03206 (sampling densities and shift); Wan2.1 and Open-Sora
// (sign conventions).
#pragma once

#include <vector>

#include "dsv/autograd/context.h"
#include "dsv/diffusion/flow_config.h"
#include "dsv/model/dit_config.h"

namespace dsv::diffusion {

// The geometry that a resolution-dependent shift looks at.
struct ClipSize {
  std::int64_t height = 0, width = 0;  // pixels
  std::int64_t latent_frames = 0;
};

// sigma in (0, 1) at quantile u in (0, 1) of the training density, before the shift.
double sigma_at_quantile(const FlowConfig& config, double u);
// The shift s for a clip, and sigma' = s sigma / (1 + (s - 1) sigma).
double shift_of(const FlowConfig& config, const ClipSize& size);
double apply_shift(double sigma, double shift);
// Loss weight at sigma.
double loss_weight(const FlowConfig& config, double sigma);
// +1: the prediction is noise - x0 (wan); -1: x0 - noise (dsv).
float target_sign(model::Family family);

// One micro-batch ready for the model. All tensors on the compute device.
struct FlowBatch {
  Tensor x_t, target;  // [B, C, T, H, W] f32
  Tensor timesteps;    // [B], 1000 * sigma
  Tensor weight;       // [B] loss weights
  std::vector<double> sigma;
};

// Draws sigma and noise of each sample, keyed by (seed, step, sample id), so that neither depends
// on ranks, micro-batches, or resuming. x0 [B, C, T, H, W] f32 on the device; it is not changed.
FlowBatch make_training_batch(const autograd::Context& ctx, const FlowConfig& config,
                              model::Family family, const Tensor& x0,
                              const std::vector<std::uint64_t>& sample_ids, std::uint64_t seed,
                              std::int64_t step, const ClipSize& size);

// The same at a fixed quantile of the training density, after the shift, with noise that depends on
// (seed, sample, quantile) only: held-out loss at comparable points over a whole run.
FlowBatch make_held_out_batch(const autograd::Context& ctx, const FlowConfig& config,
                              model::Family family, const Tensor& x0,
                              const std::vector<std::uint64_t>& sample_ids, std::uint64_t seed,
                              int quantile, int num_quantiles, const ClipSize& size);

// Whether a sample trains without its text: per (seed, epoch, sample), so it differs between
// epochs.
bool drops_text(const FlowConfig& config, std::uint64_t seed, std::int64_t epoch,
                std::uint64_t sample_id);

// The sigmas of an n-step generation, from 1 down to 0: n + 1 values, shifted.
std::vector<double> sampling_schedule(int num_steps, double shift);

}  // namespace dsv::diffusion
