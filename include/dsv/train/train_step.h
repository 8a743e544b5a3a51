// One optimizer step: micro-batches forward and backward, gradients over ranks, clip, AdamW.
#pragma once

#include <functional>
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
  double data_wait_ms = 0;       // of the rank that waited longest
  std::vector<sparsity::Decision> decisions;  // blocks whose attention changes with the next step
};

// This rank's micro-batches, one per call, in order; a rank without samples gets one of size 0.
using BatchSource = std::function<data::LoaderBatch()>;

// Collective over the mesh: takes the micro-batches of step state.step() from `next` and makes one
// update. `null_text` [rows, dim] replaces the text of samples that CFG dropout picks. Every rank
// returns the same result. Non-finite loss or gradients throw Error(kNonFinite) on all ranks,
// naming rank or unit, before any state has changed.
StepResult train_step(Runtime& runtime, TrainState& state, const Config& config,
                      const BatchSource& next, const Tensor& null_text);

// Held-out loss of this rank's samples at fixed quantiles of t, summed over ranks: one mean per
// quantile. `batches` hold one sample each.
std::vector<double> held_out_loss(Runtime& runtime, TrainState& state, const Config& config,
                                  const std::vector<data::LoaderBatch>& batches);

}  // namespace dsv::train
