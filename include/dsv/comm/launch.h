// Launch plan: which cores each rank of a host works on, and whether the launch makes sense.
#pragma once

#include <string>
#include <vector>

#include "dsv/comm/communicator.h"

namespace dsv::comm {

// What one rank tells the others about where it runs.
struct RankPlace {
  std::string host;
  int local_rank = 0;
  std::vector<int> allowed_cores;  // neighbours share a physical core, then a package
  int quota_cores = 0;             // container CPU limit, rounded up; 0: none
};

struct LaunchPlan {
  std::vector<int> cores;  // this rank's threads are pinned to these, one each
  int num_threads = 1;     // at most cores.size(): a container limit may allow fewer
  int num_hosts = 1;
  int min_ranks_per_host = 1;
  int max_ranks_per_host = 1;
  bool oversubscribed = false;        // more ranks than cores: several ranks share a core
  std::vector<std::string> warnings;  // for rank 0 to print
};
std::string to_string(const LaunchPlan& plan);

// This process's place. Cores are those that the operating system allows. Where mpirun bound the
// process only by its own default (one core for up to two ranks), they are those that mpirun itself
// may use.
RankPlace find_place(const MpiSession& session);

// Pure function of all ranks' places, in rank order. Ranks of a host that may use the same cores
// divide them evenly, in rank order, at least one each.
LaunchPlan plan_launch(const std::vector<RankPlace>& places, int rank);

// Collective: exchanges places, plans, logs the plan and its warnings.
LaunchPlan plan_launch(Communicator& world, const MpiSession& session);

}  // namespace dsv::comm
