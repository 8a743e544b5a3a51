#include "dsv/comm/launch.h"

#include <set>

#include "support/catch.h"

using dsv::comm::LaunchPlan;
using dsv::comm::plan_launch;
using dsv::comm::RankPlace;

namespace {

std::vector<RankPlace> ranks_on(const std::string& host, int num_ranks,
                                const std::vector<int>& cores, int quota = 0) {
  std::vector<RankPlace> out;
  for (int r = 0; r < num_ranks; ++r) {
    out.push_back({.host = host, .local_rank = r, .allowed_cores = cores, .quota_cores = quota});
  }
  return out;
}

}  // namespace

TEST_CASE("launch: ranks divide the cores they share", "[comm][launch]") {
  const std::vector<int> cores = {0, 4, 1, 5, 2, 6, 3};  // as sorted by topology: kept
  for (int n = 1; n <= 7; ++n) {
    const auto places = ranks_on("a", n, cores);
    std::vector<int> all;
    for (int r = 0; r < n; ++r) {
      const LaunchPlan plan = plan_launch(places, r);
      CHECK(plan.num_threads == static_cast<int>(plan.cores.size()));
      CHECK((plan.num_threads == 7 / n || plan.num_threads == 7 / n + 1));
      CHECK_FALSE(plan.oversubscribed);
      CHECK(plan.warnings.empty());
      all.insert(all.end(), plan.cores.begin(), plan.cores.end());
    }
    CHECK(all == cores);
  }
}

TEST_CASE("launch: more ranks than cores share them and say so", "[comm][launch]") {
  const auto places = ranks_on("a", 5, {2, 3});
  for (int r = 0; r < 5; ++r) {
    const LaunchPlan plan = plan_launch(places, r);
    CHECK(plan.cores == std::vector<int>{r % 2 == 0 ? 2 : 3});
    CHECK(plan.num_threads == 1);
    CHECK(plan.oversubscribed);
    REQUIRE(plan.warnings.size() == 1);
    CHECK_THAT(plan.warnings[0], Contains("5 ranks share 2 cores"));
  }
}

TEST_CASE("launch: a binding by hand is respected", "[comm][launch]") {
  auto places = ranks_on("a", 2, {0, 1});
  places[1].allowed_cores = {2, 3};
  CHECK(plan_launch(places, 0).cores == std::vector<int>{0, 1});
  CHECK(plan_launch(places, 1).cores == std::vector<int>{2, 3});
  CHECK(plan_launch(places, 1).warnings.empty());
  places[1].allowed_cores = {1, 2};
  CHECK_THAT(plan_launch(places, 0).warnings.at(0), Contains("overlap"));
}

TEST_CASE("launch: hosts are told apart, uneven ones noticed", "[comm][launch]") {
  auto places = ranks_on("a", 2, {0, 1, 2, 3});
  for (const RankPlace& p : ranks_on("b", 1, {0, 1, 2, 3})) places.push_back(p);
  CHECK(plan_launch(places, 1).cores == std::vector<int>{2, 3});
  const LaunchPlan plan = plan_launch(places, 2);
  CHECK(plan.cores == std::vector<int>{0, 1, 2, 3});
  CHECK(plan.num_hosts == 2);
  CHECK(plan.min_ranks_per_host == 1);
  CHECK(plan.max_ranks_per_host == 2);
  CHECK_THAT(plan.warnings.at(0), Contains("between 1 and 2 ranks"));
}

TEST_CASE("launch: a container's CPU limit bounds the threads", "[comm][launch]") {
  std::vector<int> cores(64);
  for (int c = 0; c < 64; ++c) cores[static_cast<std::size_t>(c)] = c;
  const LaunchPlan plan = plan_launch(ranks_on("a", 2, cores, 5), 1);
  CHECK(plan.num_threads == 2);
  CHECK(plan.cores.size() == 32);
  CHECK_THAT(plan.warnings.at(0), Contains("2 instead of 32"));
  CHECK(plan_launch(ranks_on("a", 8, cores, 5), 0).num_threads == 1);
  CHECK(plan_launch(ranks_on("a", 2, cores, 500), 0).num_threads == 32);
}

TEST_CASE("launch: this process has a place", "[comm][launch]") {
  dsv::comm::MpiSession session(nullptr, nullptr);
  const auto world = session.world();
  const LaunchPlan plan = plan_launch(*world, session);
  CHECK(plan.num_threads >= 1);
  CHECK(std::set<int>(plan.cores.begin(), plan.cores.end()).size() == plan.cores.size());
  CHECK(plan.cores.size() == dsv::comm::find_place(session).allowed_cores.size());
  CHECK_THAT(to_string(plan), Contains("threads on cores"));
}
