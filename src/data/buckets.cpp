#include "dsv/data/buckets.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "dsv/base/philox.h"

namespace dsv::data {
namespace {

constexpr std::int64_t kStride = 128;
using Geometry = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

std::string name_of(const Geometry& g) {
  return format("{}x{}x{}", std::get<0>(g), std::get<1>(g), std::get<2>(g));
}
Geometry geometry_of(const Bucket& b) {
  return {b.height, b.width, b.frames};
}

}  // namespace

void validate(const DataConfig& config) {
  const auto in_range = [](const char* key, double value, double low, double high) {
    if (!(value >= low && value <= high)) {
      throw_error(ExitCode::kConfig, "data.{}: expected a value in [{}, {}], got {}", key, low,
                  high, value);
    }
  };
  in_range("batch", static_cast<double>(config.batch), 1, 1e9);
  in_range("micro_batch", static_cast<double>(config.micro_batch), 1, 1e6);
  in_range("prefetch", static_cast<double>(config.prefetch), 1, 4096);
  in_range("threads", static_cast<double>(config.threads), 1, 256);
  in_range("held_out_percent", config.held_out_percent, 0, 50);
  double total = 0;
  for (std::size_t i = 0; i < config.buckets.size(); ++i) {
    const Bucket& b = config.buckets[i];
    const std::string key = format("buckets[{}]", i);
    in_range((key + ".height").c_str(), static_cast<double>(b.height), 1, 65536);
    in_range((key + ".width").c_str(), static_cast<double>(b.width), 1, 65536);
    in_range((key + ".frames").c_str(), static_cast<double>(b.frames), 1, 1e6);
    in_range((key + ".probability").c_str(), b.probability, 0, 1e9);
    in_range((key + ".batch").c_str(), static_cast<double>(b.batch), 1, 1e9);
    total += b.probability;
    for (std::size_t k = 0; k < i; ++k) {
      if (geometry_of(config.buckets[k]) == geometry_of(b)) {
        throw_error(ExitCode::kConfig, "data.{}: shape {} is listed twice", key,
                    name_of(geometry_of(b)));
      }
    }
  }
  if (!config.buckets.empty() && !(total > 0)) {
    throw_error(ExitCode::kConfig, "data.buckets: expected a probability above 0");
  }
}

std::int64_t permuted(std::uint64_t seed, std::uint64_t epoch, std::uint64_t stream, std::int64_t n,
                      std::int64_t position) {
  DSV_CHECK(position >= 0 && position < n, "[buckets] position {} of {}", position, n);
  if (n == 1) return 0;
  const PhiloxStream random(
      {.seed = seed, .purpose = RngPurpose::kShuffle, .step = epoch, .sample = stream});
  int half_bits = 1;
  while ((std::int64_t{1} << (2 * half_bits)) < n) ++half_bits;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  auto value = static_cast<std::uint64_t>(position);
  do {  // the domain has less than 4 n values: at most four walks on average
    std::uint64_t left = value >> half_bits, right = value & mask;
    for (std::uint64_t round = 0; round < 6; ++round) {
      const std::uint64_t next = left ^ (random.block(round << 48 | right)[0] & mask);
      left = right;
      right = next;
    }
    value = left << half_bits | right;
  } while (value >= static_cast<std::uint64_t>(n));
  return static_cast<std::int64_t>(value);
}

BatchPlan::BatchPlan(const std::vector<SampleRecord>& samples,
                     const std::vector<std::int64_t>& train, const DataConfig& config,
                     std::uint64_t seed)
    : seed_(seed) {
  validate(config);
  std::map<Geometry, std::vector<std::int64_t>> found;
  for (const std::int64_t i : train) {
    const SampleRecord& r = samples[static_cast<std::size_t>(i)];
    found[{r.height, r.width, r.frames}].push_back(i);
  }
  buckets_ = config.buckets;
  if (buckets_.empty()) {
    for (const auto& [g, members] : found) {
      buckets_.push_back({.height = std::get<0>(g),
                          .width = std::get<1>(g),
                          .frames = std::get<2>(g),
                          .probability = static_cast<double>(members.size()),
                          .batch = config.batch});
    }
  }
  if (buckets_.empty()) throw_error(ExitCode::kConfig, "[data] no samples to train on");
  double total = 0;
  for (Bucket& b : buckets_) {
    const auto it = found.find(geometry_of(b));
    if (it == found.end()) {
      std::string present;
      for (const auto& [g, members] : found) {
        present +=
            format("{}{} ({} samples)", present.empty() ? "" : ", ", name_of(g), members.size());
      }
      throw_error(
          ExitCode::kConfig,
          "data.buckets: no training sample has the shape {} (height x width x frames); the "
          "shards hold {}",
          name_of(geometry_of(b)), present.empty() ? "none" : present);
    }
    members_.push_back(std::move(it->second));
    found.erase(it);
    streams_.push_back(static_cast<std::uint64_t>(b.height) << 42 |
                       static_cast<std::uint64_t>(b.width) << 21 |
                       static_cast<std::uint64_t>(b.frames));
    total += b.probability;
  }
  for (const auto& [g, members] : found) num_unused_ += static_cast<std::int64_t>(members.size());
  double sum = 0;
  for (Bucket& b : buckets_) {
    sum += b.probability;
    b.probability /= total;
    cumulative_.push_back(sum / total);
  }
  // Rounding must not leave a gap at the end, nor give it to a bucket of probability 0.
  for (std::size_t i = cumulative_.size(); i-- > 0;) {
    cumulative_[i] = 1.0;
    if (buckets_[i].probability > 0) break;
  }
  counts_.push_back(std::vector<std::int64_t>(buckets_.size(), 0));
}

double BatchPlan::steps_per_epoch() const {
  double steps = 0;
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    if (buckets_[b].probability == 0) continue;
    steps = std::max(steps, static_cast<double>(num_samples(b)) /
                                (static_cast<double>(buckets_[b].batch) * buckets_[b].probability));
  }
  return steps;
}

std::size_t BatchPlan::bucket_of(std::int64_t step) const {
  DSV_CHECK(step >= 0, "[buckets] step {}", step);
  if (buckets_.size() == 1) return 0;
  const double u = philox_uniform({.seed = seed_, .purpose = RngPurpose::kBucket},
                                  static_cast<std::uint64_t>(step));
  std::size_t b = 0;
  while (u >= cumulative_[b]) ++b;
  return b;
}

std::int64_t BatchPlan::earlier_steps(std::size_t bucket, std::int64_t step) const {
  if (buckets_.size() == 1) return step;
  const std::int64_t stride = step / kStride;
  std::int64_t count = 0;
  {
    const std::lock_guard lock(mutex_);
    while (static_cast<std::int64_t>(counts_.size()) <= stride) {
      std::vector<std::int64_t> next = counts_.back();
      const std::int64_t begin = (static_cast<std::int64_t>(counts_.size()) - 1) * kStride;
      for (std::int64_t s = begin; s < begin + kStride; ++s) ++next[bucket_of(s)];
      counts_.push_back(std::move(next));
    }
    count = counts_[static_cast<std::size_t>(stride)][bucket];
  }
  for (std::int64_t s = stride * kStride; s < step; ++s) count += bucket_of(s) == bucket ? 1 : 0;
  return count;
}

BatchSlot BatchPlan::slot(std::int64_t step, std::int64_t slot) const {
  const std::size_t b = bucket_of(step);
  DSV_CHECK(slot >= 0 && slot < buckets_[b].batch, "[buckets] slot {} of a batch of {}", slot,
            buckets_[b].batch);
  const std::int64_t n = num_samples(b);
  const std::int64_t at = checked_mul(earlier_steps(b, step), buckets_[b].batch) + slot;
  const std::int64_t epoch = at / n;
  const std::int64_t position =
      permuted(seed_, static_cast<std::uint64_t>(epoch), streams_[b], n, at % n);
  return {members_[b][static_cast<std::size_t>(position)], epoch};
}

}  // namespace dsv::data
