#include "dsv/sparsity/mass_profile.h"

#include "support/catch.h"

namespace dsv::sparsity {

TEST_CASE("mass_profile: token sparsity counts whole bins and a share of the last") {
  const std::vector<std::int32_t> count{1, 2, 5, 92};
  const std::vector<float> mass{0.5f, 0.3f, 0.15f, 0.05f};
  CHECK(token_sparsity(count, mass, 100, 0.5) == Approx(0.99));
  CHECK(token_sparsity(count, mass, 100, 0.8) == Approx(0.97).margin(0.011));
  // 0.1 of the third bin's 0.15: two thirds of 5 keys, rounded up.
  CHECK(token_sparsity(count, mass, 100, 0.9) == Approx(1 - (1 + 2 + 4) / 100.0));
  CHECK(token_sparsity(count, mass, 100, 1.0) == Approx(0).margin(0.011));
}

TEST_CASE("mass_profile: oracles take the best units, ties by index, never empty ones") {
  const std::vector<float> mass{0.1f, 0.3f, 0.0f, 0.3f, 0.2f, 0.1f};
  const std::vector<std::int32_t> keys{16, 16, 0, 8, 16, 16};
  const OracleSelection by_mass = oracle_by_mass(mass, keys, 0.7);
  CHECK(by_mass.units == std::vector<std::int32_t>{1, 3, 4});
  CHECK(by_mass.num_keys == 40);
  CHECK(by_mass.mass == Approx(0.8));
  const OracleSelection four = oracle_by_count(mass, keys, 4);
  CHECK(four.units == std::vector<std::int32_t>{1, 3, 4, 0});
  CHECK(oracle_by_count(mass, keys, 100).units.size() == 5);
  CHECK(oracle_by_mass(mass, keys, 0).units.empty());
}

}  // namespace dsv::sparsity
