// parallel_for: static shares of a range over the rank's threads. OpenMP is the pool, the one
// oneDNN uses too, so that a rank has one set of threads.
#pragma once

#include <omp.h>

#include <algorithm>
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

}  // namespace dsv::kernels::cpu
