// Random selections for `dsv bench attention`: what each group of queries attends to.
#pragma once

#include "bench_device.h"

namespace dsv::cli {

struct SelectionOptions {
  double density = 0;  // share of the keys that a group takes; 0: no sparse attention is measured
  std::int64_t granularity = 16, group = 64;
};

// The arguments that sparse attention takes, on the bench's device.
struct Selection {
  Tensor bits, by_block, block_start, group_start;
  double num_pairs = 0;  // of queries and keys, over all heads and samples
};

// Each group of each head and sample takes the keys of its own queries, and others at random,
// blocks of `granularity`, so many that `density` is expected.
Selection random_selection(const SelectionOptions& o, std::int64_t batch, std::int64_t heads,
                           std::int64_t tokens, BenchDevice& device);

}  // namespace dsv::cli
