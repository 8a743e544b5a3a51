// How few keys hold most of the attention: counts from the masses that AttentionProfile measured.
// Source: DSV (arXiv 2502.07590) §3 (critical keys), §5.2; sparsity in shared blocks is ours.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dsv::sparsity {

// Share of `num_keys` keys beyond the fewest that hold `mass` of one row, from its bins
// (kernels/score_stats.h). Inside the bin where the mass is reached keys count as equal, so the
// result is at most one bin's keys off, e^kProfileBinWidth = 1.13 in mass per key.
double token_sparsity(std::span<const std::int32_t> bin_count, std::span<const float> bin_mass,
                      std::int64_t num_keys, double mass);

// Which units of keys a group would take if it knew the true masses.
struct OracleSelection {
  std::vector<std::int32_t> units;  // by falling mass, equal ones by rising index
  std::int64_t num_keys = 0;
  double mass = 0;
};

// The fewest units that hold `mass` of the group's mean row. unit_mass sums to about 1.
OracleSelection oracle_by_mass(std::span<const float> unit_mass,
                               std::span<const std::int32_t> unit_keys, double mass);
// The best `count` units.
OracleSelection oracle_by_count(std::span<const float> unit_mass,
                                std::span<const std::int32_t> unit_keys, std::int64_t count);

}  // namespace dsv::sparsity
