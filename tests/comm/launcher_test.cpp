#include "../../src/comm/launcher.h"

#include <map>

#include "dsv/base/error.h"
#include "support/catch.h"

namespace {

dsv::comm::Launcher with(const std::map<std::string, std::string>& environment) {
  return dsv::comm::find_launcher([&](const char* name) {
    const auto at = environment.find(name);
    return at == environment.end() ? nullptr : at->second.c_str();
  });
}

}  // namespace

TEST_CASE("launcher: found by what it leaves in the environment", "[comm][launch]") {
  CHECK_FALSE(with({}).found);
  CHECK_FALSE(with({{"SLURM_STEP_NUM_TASKS", "1"}}).found);
  const auto open_mpi = with({{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  CHECK(open_mpi.found);
  CHECK(open_mpi.announced_ranks == 4);
  CHECK(open_mpi.local_ranks == 2);
  CHECK(with({{"PMI_SIZE", "3"}, {"PMI_RANK", "0"}}).announced_ranks == 3);
  CHECK(with({{"PMIX_RANK", "0"}, {"SLURM_STEP_NUM_TASKS", "8"}}).announced_ranks == 8);
  CHECK(with({{"PMIX_RANK", "0"}}).announced_ranks == 0);
}

TEST_CASE("launcher: several tasks that cannot find each other are refused", "[comm][launch]") {
  try {
    with({{"SLURM_STEP_NUM_TASKS", "8"}});
    FAIL("expected an error");
  } catch (const dsv::Error& e) {
    CHECK(e.code() == dsv::ExitCode::kEnvironment);
    CHECK_THAT(e.what(), Contains("8 tasks") && Contains("--mpi=pmix"));
  }
  CHECK_THROWS_AS(with({{"OMPI_COMM_WORLD_SIZE", "four"}}), dsv::Error);
  CHECK_THROWS_AS(with({{"OMPI_COMM_WORLD_SIZE", ""}}), dsv::Error);
}
