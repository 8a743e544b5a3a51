// Work spread over the rank's threads: static shares of a range, or tasks claimed one by one. OpenMP
// is the pool, so that a rank has one set of threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "dsv/tensor/device.h"

namespace dsv::kernels::cpu {

// fn(begin, end, thread) for one contiguous share of [0, n) per thread; shares are multiples of
// `grain` but for the last. fn must not throw. Results that must not depend on the number of
// threads may not depend on where shares end.
template <typename Fn>
void parallel_for(const Stream& stream, std::int64_t n, std::int64_t grain, const Fn& fn) {
  const std::int64_t units = (n + grain - 1) / grain;
  const int threads = static_cast<int>(std::min<std::int64_t>(stream.num_threads, units));
  if (threads <= 1) {
    if (n > 0) fn(std::int64_t{0}, n, 0);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t t = omp_get_thread_num(), count = omp_get_num_threads();
    const std::int64_t begin = units * t / count * grain;
    const std::int64_t end = std::min(n, units * (t + 1) / count * grain);
    if (begin < end) fn(begin, end, static_cast<int>(t));
  }
}

// How many threads `parallel_tasks` uses at most: scratch for each of them is the caller's to bring.
inline int num_workers(const Stream& stream, std::int64_t num_tasks) {
  return static_cast<int>(
      std::max<std::int64_t>(1, std::min<std::int64_t>(stream.num_threads, num_tasks)));
}

// fn(task, worker) for every task in [0, num_tasks), claimed in ascending order by whichever thread
// is free; worker < num_workers. fn must not throw, and results may not depend on who runs a task.
template <typename Fn>
void parallel_tasks(const Stream& stream, std::int64_t num_tasks, const Fn& fn) {
  const int workers = num_workers(stream, num_tasks);
  if (workers == 1) {
    for (std::int64_t task = 0; task < num_tasks; ++task) fn(task, 0);
    return;
  }
  std::atomic<std::int64_t> next{0};
#pragma omp parallel num_threads(workers)
  {
    const int worker = omp_get_thread_num();
    for (std::int64_t task = next.fetch_add(1, std::memory_order_relaxed); task < num_tasks;
         task = next.fetch_add(1, std::memory_order_relaxed)) {
      fn(task, worker);
    }
  }
}

}  // namespace dsv::kernels::cpu
