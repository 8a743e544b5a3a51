// What dense and sparse attention cost on one machine, by number of tokens and density: what the
// dispatcher decides from. Source: DSV (arXiv 2502.07590) §5.2.2 (offline profile).
#pragma once

#include <string>
#include <vector>

#include "dsv/base/json.h"

namespace dsv::costs {

// Seconds of self-attention of one block and one sample, forward and backward together.
struct AttentionPoint {
  std::int64_t tokens = 0;
  double dense = 0;
  double estimate = 0;  // low-rank projection, selection, and inverse lists
  struct Sparse {
    double density = 0;
    double seconds = 0;
    bool operator==(const Sparse&) const = default;
  };
  std::vector<Sparse> sparse;  // by rising density
  bool operator==(const AttentionPoint&) const = default;
};

// Measured for one head layout and way of selecting; points by rising tokens.
struct AttentionCosts {
  std::int64_t num_heads = 0, head_dim = 0;
  std::int64_t granularity = 0, group_cubes = 0;
  std::string machine;  // processor, threads, dtype, determinism: where it holds
  std::vector<AttentionPoint> points;
  bool operator==(const AttentionCosts&) const = default;
};

// Density at which estimate + sparse reach the dense time, along the line through neighbouring
// densities; 0 where sparse never pays, 1 where it always does.
double break_even_density(const AttentionPoint& point);
// Between points by the logarithm of tokens; beyond them that of the nearest. Throws Error(kConfig)
// without points.
double break_even_density(const AttentionCosts& costs, std::int64_t tokens);

Json to_json(const AttentionCosts& costs);
// Validates everything; Error(kCorruptInput) "WHERE: …".
AttentionCosts attention_costs_from_json(const Json& json, const std::string& where);
// "" where `costs` hold for what `now` names (its points do not matter), else what differs.
std::string stale_reason(const AttentionCosts& costs, const AttentionCosts& now);

}  // namespace dsv::costs
