// `dsv train --dry-run`: what a run would cost, without running it.
#pragma once

#include <string>

#include "dsv/train/config.h"

namespace dsv::train {

struct MemoryEstimate {
  std::int64_t state_bytes = 0;        // weights, gradients, moments, EMA
  std::int64_t activation_bytes = 0;   // of one micro-batch at the largest bucket
};
// Planned bytes of a rank for micro-batches of `tokens` tokens a sample.
MemoryEstimate estimate_memory(const Config& config, std::int64_t tokens);

// Parameters, FLOPs per step, and memory per rank for every bucket, as a table for people.
std::string dry_run_report(const Config& config);

}  // namespace dsv::train
