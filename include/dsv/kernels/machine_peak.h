// What this machine can do at most, measured now: the denominators of "share of peak".
#pragma once

namespace dsv::kernels {

// Fused multiply-adds (two FLOP each) per second in 1e9, all threads together, in registers, with
// the widest vectors of this processor. Takes about 50 ms. Threads are those of OpenMP: pin them
// first.
double peak_fma_gflops(int num_threads);

// Bytes read and written per second in 1e9 of a copy much larger than the caches.
double copy_bandwidth_gbytes(int num_threads);

}  // namespace dsv::kernels
