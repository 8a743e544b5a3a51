// Where a run knows from what attention costs: its checkpoint, a profile, or a measurement now.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dsv/sparsity/measure_costs.h"
#include "dsv/train/runtime.h"

namespace dsv::train {

// What costs of this configuration on this runtime hold for; no points.
costs::AttentionCosts cost_frame(const Config& config, const Runtime& runtime);

// Measures each grid (T, H, W in tokens), shortest sequence first. on_point follows each.
costs::AttentionCosts measure_attention_costs(
    const Config& config, Runtime& runtime, std::vector<sparsity::Extent3> grids, int repeat,
    const std::function<void(const costs::AttentionPoint&)>& on_point = {});

// Profile files: JSON with what attention costs, written whole or not at all.
void write_profile(const std::string& path, const costs::AttentionCosts& costs);
// Throws Error(kCorruptInput) for what is no profile, and Error(kConfig) for one of another machine
// or configuration than `frame` names, unless allow_stale.
costs::AttentionCosts read_profile(const std::string& path, const costs::AttentionCosts& frame,
                                   bool allow_stale);

// One line for people: "3072 tokens: dense 12.3 ms, sparse 5.1 ms at 10 %, estimate 0.8 ms; pays
// below 21.3 % of the keys".
std::string describe(const costs::AttentionPoint& point);

}  // namespace dsv::train
