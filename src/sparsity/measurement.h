// What one forward pass of one block measured: tensors on the device until the step's end, so that
// nothing waits for it in between.
#pragma once

#include "dsv/sparsity/block_state.h"
#include "dsv/sparsity/sequence_layout.h"

namespace dsv::sparsity {

// The rows of attention that a step looks at, for one token order.
struct StepRows {
  Tensor rows, row_groups;  // (R) i32: of the predictor's loss
  // Of the profile: rows (Gs * n), -1 where a group has fewer, and the groups themselves (Gs).
  Tensor profile_rows, profile_groups;
  std::vector<std::int32_t> host_profile_rows, host_profile_groups;
};

// Every `every`-th row from an offset that rotates with `step`; for the profile, every 16th row of
// `num_groups` groups spread over the sequence.
StepRows make_step_rows(const autograd::Context& ctx, const SequenceLayout& layout,
                        std::int64_t every, std::int64_t num_groups, bool profile,
                        std::int64_t step);

struct Measurement {
  std::int64_t layer = 0;
  const SequenceLayout* layout = nullptr;
  const StepRows* rows = nullptr;
  Tensor loss;      // (B, H, R) f32; undefined: the predictor did not learn
  Tensor stats;     // (B, H, R, kNumScoreColumns) f64, where coverage is evaluated
  Tensor num_keys;  // (B, H, G) i32, of the selection that stats or profile_bits are about
  Tensor block_mass, bin_count, bin_mass;  // of AttentionProfile, where the step profiles
  Tensor profile_bits;                     // (B * H, Gs, W) u32: selections of profiled groups
};

// Adds what the tensors say to `measure`, whose heads are sized.
void add_to(const autograd::Context& ctx, const Measurement& measurement,
            const SparsityConfig& config, BlockMeasure* measure);

// All measures as one list of numbers, to be summed over ranks, and back.
std::vector<double> flatten(const std::vector<BlockMeasure>& measures);
void unflatten(const std::vector<double>& values, std::vector<BlockMeasure>* measures);

}  // namespace dsv::sparsity
