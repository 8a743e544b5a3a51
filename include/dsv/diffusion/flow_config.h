// Settings of flow matching: how t is drawn, shifted, and weighted.
#pragma once

#include <cstdint>
#include <vector>

namespace dsv::diffusion {

enum class TimestepSampling { kUniform, kLogitNormal, kMode };
enum class ShiftScaling { kNone, kResolutionAndFrames };
enum class LossWeighting { kNone, kByTable };

struct FlowConfig {
  TimestepSampling timestep_sampling = TimestepSampling::kLogitNormal;
  double logit_mean = 0.0;  // of logit_normal
  double logit_std = 1.0;
  double mode_scale = 1.29;  // of mode (Esser et al., arXiv 2403.03206, eq. 20)
  double shift =
      3.0;  // s in sigma' = s*sigma / (1 + (s-1)*sigma), applied in training and sampling
  // kResolutionAndFrames: s is multiplied by sqrt(pixels / base_pixels) * sqrt(latent_frames /
  // base_frames).
  ShiftScaling shift_scaling = ShiftScaling::kNone;
  double shift_base_pixels = 512.0 * 512.0;
  double shift_base_frames = 1.0;
  LossWeighting loss_weighting = LossWeighting::kNone;
  std::vector<double>
      loss_weight_table;     // kByTable: weight at equally spaced t in [0, 1], interpolated
  double cfg_dropout = 0.1;  // probability that a sample trains without its text
};

}  // namespace dsv::diffusion
