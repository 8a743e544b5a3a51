// Settings of the data pipeline in training.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dsv::data {

// One shape of batch. A clip of frames × height × width pixels; `batch` counts samples per
// optimizer step over all ranks, so the loss curve does not depend on how many ranks share it.
struct Bucket {
  std::int64_t height = 64;
  std::int64_t width = 64;
  std::int64_t frames = 16;
  double probability = 1.0;  // of a step being of this shape; the table's are normalised
  std::int64_t batch = 4;
  bool operator==(const Bucket&) const = default;
};

struct DataConfig {
  std::string shards;            // directory that `dsv data encode` wrote
  std::vector<Bucket> buckets;   // empty: every shape found in the shards, by its share of samples
  std::int64_t batch = 4;        // samples per step for buckets that are found, not listed
  std::int64_t micro_batch = 1;  // most samples per rank in one forward pass; the rest accumulates
  std::int64_t prefetch = 4;     // micro-batches read ahead
  std::int64_t threads = 1;      // loader threads
  bool verify_crc = true;        // check each sample's CRC32C as it is read
  double held_out_percent = 5;   // of samples, at least 8, by hash of the sample id
};

// Throws Error(kConfig) "data.KEY: …" for values out of range or buckets that repeat.
void validate(const DataConfig& config);

}  // namespace dsv::data
