// What this machine can do at most, measured now: the denominators of "share of peak".
#pragma once

namespace dsv::kernels {

// Multiply-adds of f32 (two FLOP each) per second in 1e9, all threads together, in registers, with
// the instruction set that cpu_kernels() runs on. Best of many short runs, about 50 ms in all.
// Threads are those of OpenMP: pin them first.
double peak_fma_gflops(int num_threads);

// Bytes read and written per second in 1e9 of a copy much larger than the caches, with ordinary
// loads and stores, as the kernels use. Takes 256 MiB for a fraction of a second.
double copy_bandwidth_gbytes(int num_threads);

}  // namespace dsv::kernels
