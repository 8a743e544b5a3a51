// The held-out set: samples that are never trained on, by hash, so that it is the same in every run
// and stays the same, up to the new samples, when a set grows.
#pragma once

#include <cstdint>
#include <vector>

#include "dsv/data/shard_format.h"

namespace dsv::data {

struct Split {
  std::vector<std::int64_t> train, held_out;  // sample numbers, by rising id
};

// Every id gives a value u in [0, 100): the integer part is hash mod 100, the rest are more digits
// of the hash, which is taken of id >> 16 so that all clips of one video fall on one side. Held out
// are the samples with u < percent; if these are fewer than the least number (8; 1 for sets of
// fewer than 16 samples), also those with the next u, whole videos while they fit into half of the
// set and then single clips. Never more than half of the set is held out: where one long video
// would be, the fill alone decides. One sample alone, or percent 0, holds out none.
Split split_held_out(const std::vector<SampleRecord>& samples, double percent);

// Groups sample numbers into batches of one shape, at most `max_batch` each, in the given order.
std::vector<std::vector<std::int64_t>> group_by_shape(const std::vector<SampleRecord>& samples,
                                                      const std::vector<std::int64_t>& numbers,
                                                      std::int64_t max_batch);

}  // namespace dsv::data
