#include "dsv/costs/attention_costs.h"

#include "dsv/base/error.h"
#include "support/catch.h"

namespace dsv::costs {
namespace {

AttentionPoint point(std::int64_t tokens, double dense) {
  return {.tokens = tokens,
          .dense = dense,
          .estimate = 1,
          .sparse = {{0.1, 2}, {0.2, 4}, {0.4, 8}}};
}
AttentionCosts costs() {
  return {.num_heads = 4,
          .head_dim = 32,
          .granularity = 16,
          .group_cubes = 1,
          .machine = "here",
          .points = {point(1000, 5), point(4000, 9)}};
}

}  // namespace

TEST_CASE("costs: break-even where estimate and sparse reach dense") {
  CHECK(break_even_density(point(1, 5)) == Approx(0.2));
  CHECK(break_even_density(point(1, 2)) == Approx(0.05));   // below the first density
  CHECK(break_even_density(point(1, 10)) == Approx(0.45));  // beyond the last
  CHECK(break_even_density(point(1, 0.5)) == 0);            // the estimate alone costs more
  CHECK(break_even_density(point(1, 1000)) == 1);
  CHECK(break_even_density({.tokens = 1, .dense = 3, .sparse = {{0.1, 2}, {0.2, 2}}}) == 1);
  CHECK(break_even_density({.tokens = 1, .dense = 1, .sparse = {{0.1, 2}, {0.2, 2}}}) == 0);
}

TEST_CASE("costs: between lengths by their logarithm, beyond them the nearest") {
  CHECK(break_even_density(costs(), 10) == Approx(0.2));
  CHECK(break_even_density(costs(), 2000) == Approx(0.3));
  CHECK(break_even_density(costs(), 4000) == Approx(0.4));
  CHECK(break_even_density(costs(), 100000) == Approx(0.4));
  CHECK_THROWS_AS(break_even_density(AttentionCosts{}, 10), Error);
}

TEST_CASE("costs: JSON round trip, and refusal of what is no profile") {
  const Json json = to_json(costs());
  CHECK(attention_costs_from_json(parse_json(json.dump(), "x"), "x") == costs());
  const auto broken = [&](const char* key, Json value) {
    Json copy = to_json(costs());
    copy.set(key, std::move(value));
    CHECK_THROWS_AS(attention_costs_from_json(copy, "x"), Error);
  };
  broken("version", 2);
  broken("points", "none");
  broken("num_heads", "four");
  Json point = to_json(costs()).at("points").as_array()[0];
  for (const auto& [key, value] : {std::pair<const char*, Json>{"dense", -1.0}, {"dense", "NaN"},
                                   {"tokens", 0}, {"sparse", Json::array()}}) {
    Json copy = point;
    copy.set(key, value);
    broken("points", Json(Json::Array{copy}));
  }
  broken("points", Json(Json::Array{point, point}));
}

TEST_CASE("costs: what makes a profile stale is named") {
  AttentionCosts now = costs();
  CHECK(stale_reason(costs(), now).empty());
  now.machine = "there";
  CHECK(stale_reason(costs(), now) == "machine: measured with here, now there");
  now = costs();
  now.granularity = 64;
  CHECK(stale_reason(costs(), now) == "attention.granularity: measured with 16, now 64");
}

}  // namespace dsv::costs
