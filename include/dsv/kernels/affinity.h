// Pins the threads of this rank to cores: unpinned threads of a small machine can share one core for
// hundreds of milliseconds.
#pragma once

#include <vector>

namespace dsv::kernels {

// Pins OpenMP thread i to cores[i % cores.size()], the calling thread being thread 0, and makes
// `num_threads` the size of parallel regions it starts. Cores that the system refuses are logged once.
// Does nothing for an empty list.
void pin_threads(const std::vector<int>& cores, int num_threads);

// For programs that own the machine: the cores this process may use, at most `limit` (0: all), pinned.
// Returns their number.
int pin_all_cores(int limit = 0);

}  // namespace dsv::kernels
