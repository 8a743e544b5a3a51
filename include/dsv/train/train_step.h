// One optimizer step: micro-batches forward and backward, gradients over ranks, clip, AdamW.
#pragma once

#include <vector>

#include "dsv/data/loader.h"
#include "dsv/optim/optimizer.h"
#include "dsv/train/runtime.h"
#include "dsv/train/train_state.h"

namespace dsv::train {

struct StepResult {
  double loss = 0;  // weighted mean over the step's samples of all ranks
  optim::GradNorm grad;
  double lr = 0;
  std::int64_t num_samples = 0;  // over all ranks
  std::int64_t num_tokens = 0;   // over all ranks
  double model_flops = 0;        // 3 × forward, over all ranks
};

// Collective over the mesh. `batches` are this rank's micro-batches of step state.step(), maybe
// none; `num_samples` counts the step's samples over all ranks. Every rank returns the same result.
// Non-finite loss or gradients throw Error(kNonFinite) on all ranks, naming rank and unit, before
// any state has changed.
StepResult train_step(Runtime& runtime, TrainState& state, const Config& config,
                      const std::vector<data::LoaderBatch>& batches, std::int64_t num_samples);

// Held-out loss of this rank's samples at fixed quantiles of t, summed over ranks: one mean per
// quantile. `batches` hold one sample each.
std::vector<double> held_out_loss(Runtime& runtime, TrainState& state, const Config& config,
                                  const std::vector<data::LoaderBatch>& batches);

}  // namespace dsv::train
