// A shard set opened for reading: samples by number, validated as they are read.
#pragma once

#include <memory>
#include <string>

#include "dsv/data/shard_format.h"

namespace dsv::data {

// Immutable after construction; reading is safe from any number of threads. Shards are opened when
// a sample of theirs is first read, and a bounded number stays open.
class Dataset {
 public:
  // Reads and validates index.json. Error(kIo) when it cannot be read, Error(kCorruptInput) when it
  // is not valid, Error(kConfig) when it holds no samples.
  explicit Dataset(const std::string& folder);
  ~Dataset();
  Dataset(const Dataset&) = delete;
  Dataset& operator=(const Dataset&) = delete;

  const std::string& folder() const;
  const ShardIndex& index() const;
  std::int64_t size() const { return static_cast<std::int64_t>(index().samples.size()); }
  const SampleRecord& record(std::int64_t i) const;

  // The normalised latent into `out` [C, T, H, W] f32. Error(kCorruptInput) naming the sample and
  // the shard when the CRC-32C (if `verify`) or the shape differs from the index or a value is not
  // finite.
  void read_latent(std::int64_t i, const Tensor& out, bool verify = true) const;
  Tensor read_latent(std::int64_t i, bool verify = true) const;
  // Text embedding [rows, dim] f32.
  Tensor read_text(std::int64_t i, bool verify = true) const;
  // The stored encoding of "", else one row of zeros: [rows, dim] f32.
  Tensor null_text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Zero-pads text [rows, dim] to out [L, dim] and writes 1 for valid rows to mask [L], both f32.
// More than L rows are cut.
void pad_text(const Tensor& text, const Tensor& out, const Tensor& mask);

}  // namespace dsv::data
