#include "dsv/kernels/affinity.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>

#include "dsv/base/log.h"

namespace dsv::kernels {

void pin_threads(const std::vector<int>& cores, int num_threads) {
  omp_set_dynamic(0);
  omp_set_num_threads(num_threads);
  if (cores.empty()) return;
  std::atomic<bool> refused{false};
#pragma omp parallel num_threads(num_threads)
  {
    const auto thread = static_cast<std::size_t>(omp_get_thread_num());
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cores[thread % cores.size()]), &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0) refused = true;
  }
  if (refused) log_warn("[launch] the system refused to pin threads to cores; timings will vary");
}

int pin_all_cores(int limit) {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(static_cast<std::size_t>(core), &set)) cores.push_back(core);
    }
  }
  int threads = cores.empty() ? 1 : static_cast<int>(cores.size());
  if (limit > 0) threads = limit;
  pin_threads(cores, threads);
  return threads;
}

}  // namespace dsv::kernels
