#include "dsv/sparsity/mass_profile.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dsv/base/error.h"

namespace dsv::sparsity {
namespace {

// Units that hold keys, best first.
std::vector<std::int32_t> by_falling_mass(std::span<const float> mass,
                                          std::span<const std::int32_t> keys) {
  DSV_CHECK(mass.size() == keys.size(), "[mass_profile] {} masses of {} units", mass.size(),
            keys.size());
  std::vector<std::int32_t> order;
  for (std::size_t n = 0; n < mass.size(); ++n) {
    if (keys[n] > 0) order.push_back(static_cast<std::int32_t>(n));
  }
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return mass[static_cast<std::size_t>(a)] > mass[static_cast<std::size_t>(b)];
  });
  return order;
}

template <typename Stop>
OracleSelection take_until(std::span<const float> mass, std::span<const std::int32_t> keys,
                           const Stop& stop) {
  OracleSelection out;
  for (const std::int32_t n : by_falling_mass(mass, keys)) {
    if (stop(out)) break;
    out.units.push_back(n);
    out.num_keys += keys[static_cast<std::size_t>(n)];
    out.mass += static_cast<double>(mass[static_cast<std::size_t>(n)]);
  }
  return out;
}

}  // namespace

double token_sparsity(std::span<const std::int32_t> bin_count, std::span<const float> bin_mass,
                      std::int64_t num_keys, double mass) {
  double held = 0, keys = 0;
  for (std::size_t i = 0; i < bin_count.size() && held < mass; ++i) {
    const auto in_bin = static_cast<double>(bin_mass[i]);
    const auto count = static_cast<double>(bin_count[i]);
    const double missing = mass - held;
    keys += in_bin > missing ? std::ceil(count * missing / in_bin) : count;
    held += in_bin;
  }
  return 1 - keys / static_cast<double>(num_keys);
}

OracleSelection oracle_by_mass(std::span<const float> unit_mass,
                               std::span<const std::int32_t> unit_keys, double mass) {
  return take_until(unit_mass, unit_keys,
                    [=](const OracleSelection& taken) { return taken.mass >= mass; });
}

OracleSelection oracle_by_count(std::span<const float> unit_mass,
                                std::span<const std::int32_t> unit_keys, std::int64_t count) {
  return take_until(unit_mass, unit_keys, [=](const OracleSelection& taken) {
    return static_cast<std::int64_t>(taken.units.size()) >= count;
  });
}

}  // namespace dsv::sparsity
