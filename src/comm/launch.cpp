#include "dsv/comm/launch.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <tuple>

#include "dsv/base/log.h"

namespace dsv::comm {
namespace {

constexpr int kMaxCores = 8192;

std::vector<int> affinity_of(pid_t pid) {
  cpu_set_t* set = CPU_ALLOC(kMaxCores);
  const std::size_t bytes = CPU_ALLOC_SIZE(kMaxCores);
  CPU_ZERO_S(bytes, set);
  std::vector<int> cores;
  if (sched_getaffinity(pid, bytes, set) == 0) {
    for (int c = 0; c < kMaxCores; ++c) {
      if (CPU_ISSET_S(static_cast<std::size_t>(c), bytes, set)) cores.push_back(c);
    }
  }
  CPU_FREE(set);
  return cores;
}

// mpirun binds to a core or socket unless told what to do; told, it leaves this in the environment.
bool bound_by_default() {
  return std::getenv("OMPI_MCA_orte_bound_at_launch") != nullptr &&
         std::getenv("OMPI_MCA_hwloc_base_binding_policy") == nullptr &&
         std::getenv("OMPI_MCA_rmaps_base_mapping_policy") == nullptr &&
         std::getenv("OMPI_MCA_orte_rankfile") == nullptr &&
         std::getenv("OMPI_MCA_rmaps_rank_file_path") == nullptr;
}

int topology_number(int core, const char* name) {
  std::ifstream file(format("/sys/devices/system/cpu/cpu{}/topology/{}", core, name));
  int value = 0;
  return file >> value ? value : 0;
}

// The two hardware threads of a core become neighbours, so that no two ranks share a physical core.
void sort_by_topology(std::vector<int>* cores) {
  std::map<int, std::tuple<int, int, int>> key;
  for (const int c : *cores) {
    key[c] = {topology_number(c, "physical_package_id"), topology_number(c, "core_id"), c};
  }
  std::sort(cores->begin(), cores->end(), [&](int a, int b) { return key[a] < key[b]; });
}

// Cores' worth of time per period that the container may use, rounded up; 0 without a limit.
int quota_cores() {
  double quota = 0, period = 0;
  std::string text;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2 >> text >> period) {
    quota = text == "max" ? 0 : std::atof(text.c_str());
  } else {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  if (quota <= 0 || period <= 0) return 0;
  return std::max(1, static_cast<int>((quota + period - 1) / period));
}

std::string pack(const RankPlace& place) {
  std::string text =
      format("{} {} {}", place.local_rank, place.quota_cores, place.allowed_cores.size());
  for (const int c : place.allowed_cores) text += format(" {}", c);
  return text + " " + place.host;
}

RankPlace unpack(const std::string& text) {
  RankPlace place;
  std::size_t num_cores = 0;
  std::istringstream in(text);
  in >> place.local_rank >> place.quota_cores >> num_cores;
  place.allowed_cores.resize(std::min<std::size_t>(num_cores, kMaxCores));
  for (int& c : place.allowed_cores) in >> c;
  in >> place.host;
  DSV_CHECK(!in.fail(), "[launch] expected the place of a rank, got '{}'", text);
  return place;
}

std::string ranges(std::vector<int> cores) {
  std::sort(cores.begin(), cores.end());
  std::string out;
  for (std::size_t i = 0; i < cores.size();) {
    std::size_t last = i;
    while (last + 1 < cores.size() && cores[last + 1] == cores[last] + 1) ++last;
    out += format("{}{}", out.empty() ? "" : ",", cores[i]);
    if (last > i) out += format("-{}", cores[last]);
    i = last + 1;
  }
  return out;
}

}  // namespace

std::string to_string(const LaunchPlan& plan) {
  return format("{} threads on cores {}", plan.num_threads, ranges(plan.cores));
}

RankPlace find_place(const MpiSession& session) {
  RankPlace place{.host = session.host(), .local_rank = session.local_rank()};
  if (session.launched() && bound_by_default()) place.allowed_cores = affinity_of(getppid());
  if (place.allowed_cores.empty()) place.allowed_cores = affinity_of(0);
  if (place.allowed_cores.empty()) {
    throw_error(ExitCode::kEnvironment,
                "[launch] the operating system does not tell the allowed cores");
  }
  sort_by_topology(&place.allowed_cores);
  place.quota_cores = quota_cores();
  return place;
}

LaunchPlan plan_launch(const std::vector<RankPlace>& places, int rank) {
  DSV_CHECK(0 <= rank && rank < static_cast<int>(places.size()), "[launch] rank {} of {} places",
            rank, places.size());
  const RankPlace& mine = places[static_cast<std::size_t>(rank)];
  DSV_CHECK(!mine.allowed_cores.empty(), "[launch] rank {} has no core", rank);
  LaunchPlan plan;

  std::map<std::string, int> ranks_on;
  for (const RankPlace& p : places) ++ranks_on[p.host];
  plan.num_hosts = static_cast<int>(ranks_on.size());
  plan.min_ranks_per_host = plan.max_ranks_per_host = ranks_on[mine.host];
  for (const auto& [host, n] : ranks_on) {
    plan.min_ranks_per_host = std::min(plan.min_ranks_per_host, n);
    plan.max_ranks_per_host = std::max(plan.max_ranks_per_host, n);
  }
  if (plan.min_ranks_per_host != plan.max_ranks_per_host) {
    plan.warnings.push_back(
        format("hosts have between {} and {} ranks: the fuller ones set the pace",
               plan.min_ranks_per_host, plan.max_ranks_per_host));
  }

  // Ranks that share this rank's cores: those with the same set. Ranks whose sets only overlap were
  // bound by hand; they get what they were given.
  int share_size = 0, share_index = 0;
  bool overlaps = false;
  const std::set<int> own(mine.allowed_cores.begin(), mine.allowed_cores.end());
  for (int p = 0; p < static_cast<int>(places.size()); ++p) {
    const RankPlace& other = places[static_cast<std::size_t>(p)];
    if (other.host != mine.host) continue;
    if (std::set<int>(other.allowed_cores.begin(), other.allowed_cores.end()) == own) {
      if (p < rank) ++share_index;
      ++share_size;
    } else {
      overlaps |= std::any_of(other.allowed_cores.begin(), other.allowed_cores.end(),
                              [&](int c) { return own.count(c) > 0; });
    }
  }
  if (overlaps) {
    plan.warnings.push_back(
        "ranks are bound to different sets that overlap: some cores run threads of two "
        "ranks; --bind-to none leaves the division to dsv");
  }
  const int num_cores = static_cast<int>(mine.allowed_cores.size());
  if (share_size > num_cores) {
    plan.oversubscribed = true;
    plan.warnings.push_back(
        format("{} ranks share {} cores of host {}", share_size, num_cores, mine.host));
    plan.cores = {mine.allowed_cores[static_cast<std::size_t>(share_index % num_cores)]};
  } else {
    // The first (num_cores mod share_size) ranks take one more.
    const int each = num_cores / share_size, extra = num_cores % share_size;
    const int first = share_index * each + std::min(share_index, extra);
    const auto begin = mine.allowed_cores.begin() + first;
    plan.cores.assign(begin, begin + each + (share_index < extra ? 1 : 0));
  }
  plan.num_threads = static_cast<int>(plan.cores.size());
  if (mine.quota_cores > 0) {
    const int fair = std::max(1, mine.quota_cores / ranks_on[mine.host]);
    if (fair < plan.num_threads) {
      plan.warnings.push_back(
          format("the container may use {} cores' worth of time: {} instead of {} threads",
                 mine.quota_cores, fair, plan.num_threads));
      plan.num_threads = fair;
    }
  }
  return plan;
}

LaunchPlan plan_launch(Communicator& world, const MpiSession& session) {
  std::vector<RankPlace> places;
  for (const std::string& text : world.all_gather_bytes(pack(find_place(session)))) {
    places.push_back(unpack(text));
  }
  LaunchPlan plan = plan_launch(places, world.rank());
  log_info("[launch] {} ranks ({}) on {} hosts; rank {}: {}", world.size(), world.backend_name(),
           plan.num_hosts, world.rank(), plan);
  if (world.rank() == 0) {
    for (const std::string& warning : plan.warnings) log_warn("[launch] {}", warning);
  }
  return plan;
}

}  // namespace dsv::comm
