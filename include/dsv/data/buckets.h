// Which samples a step trains on: a pure function of (seed, step, slot), the same on every rank,
// under any layout, after any resume. The cursor of a run is its step.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "dsv/data/data_config.h"
#include "dsv/data/shard_format.h"

namespace dsv::data {

// A keyed permutation of [0, n): position → member. Feistel network over Philox with cycle walking:
// O(1), nothing is stored. One permutation per (seed, epoch, stream).
std::int64_t permuted(std::uint64_t seed, std::uint64_t epoch, std::uint64_t stream, std::int64_t n,
                      std::int64_t position);

struct BatchSlot {
  std::int64_t sample = 0;  // number in the dataset
  std::int64_t epoch = 0;   // of its bucket: how often each of its samples was used before
};

// The plan of all batches. A bucket's samples are permuted anew each epoch, and its steps take
// `batch` samples after another of that endless sequence; so within a bucket every sample occurs
// once per epoch, and a batch may begin in one epoch and end in the next.
class BatchPlan {
 public:
  // `train`: the sample numbers to draw from, by rising id. Buckets come from the configuration,
  // or, if it lists none, from the shapes found, by their share of samples. Throws Error(kConfig)
  // for listed shapes without samples.
  BatchPlan(const std::vector<SampleRecord>& samples, const std::vector<std::int64_t>& train,
            const DataConfig& config, std::uint64_t seed);

  const std::vector<Bucket>& buckets() const { return buckets_; }
  std::int64_t num_samples(std::size_t bucket) const {
    return static_cast<std::int64_t>(members_[bucket].size());
  }
  // Training samples of shapes that no bucket lists.
  std::int64_t num_unused() const { return num_unused_; }
  // Expected steps until every used sample has been seen once.
  double steps_per_epoch() const;

  // Drawn with the buckets' probabilities by philox(seed, kBucket, element = step).
  std::size_t bucket_of(std::int64_t step) const;
  std::int64_t batch_of(std::int64_t step) const { return buckets_[bucket_of(step)].batch; }
  // Steps before `step` that were of this bucket. With several buckets the draws are scanned once,
  // about 10 ns each, and remembered in strides. Thread-safe.
  std::int64_t earlier_steps(std::size_t bucket, std::int64_t step) const;
  // Slot in [0, batch_of(step)).
  BatchSlot slot(std::int64_t step, std::int64_t slot) const;

 private:
  std::uint64_t seed_;
  std::vector<Bucket> buckets_;
  std::vector<double> cumulative_;                  // probabilities, the last is 1
  std::vector<std::vector<std::int64_t>> members_;  // sample numbers per bucket
  std::vector<std::uint64_t> streams_;  // of shuffling: the shape, not the table's order
  std::int64_t num_unused_ = 0;
  // counts_[k][b]: steps of bucket b before step k·kStride; grows on demand.
  mutable std::mutex mutex_;
  mutable std::vector<std::vector<std::int64_t>> counts_;
};

}  // namespace dsv::data
