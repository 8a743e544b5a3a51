// Reads batches ahead of the training loop.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dsv/data/buckets.h"
#include "dsv/data/dataset.h"
#include "dsv/tensor/arena.h"

namespace dsv::data {

// One micro-batch of this rank. All samples have one shape; b may be 0 (see Loader).
struct LoaderBatch {
  std::int64_t step = 0;
  std::int64_t micro = 0;         // number of this micro-batch in [0, num_micro)
  std::int64_t num_micro = 0;     // of this rank in this step; 0 when it has no sample in it
  std::int64_t global_batch = 0;  // samples of the step over all data-parallel ranks
  std::size_t bucket = 0;         // in BatchPlan::buckets()
  std::int64_t height = 0, width = 0, frames = 0;  // of the clips in pixels
  std::vector<std::uint64_t> sample_ids;
  std::vector<std::int64_t> epochs;  // of each sample
  std::vector<std::string> captions;
  Tensor latent;            // [b, C, T, H, W] f32, normalised
  Tensor text;              // [b, text_len, text_dim] f32, zero-padded
  Tensor text_mask;         // [b, text_len] f32, 1 for valid rows
  double data_wait_ms = 0;  // time that next() waited for it

  std::int64_t size() const { return static_cast<std::int64_t>(sample_ids.size()); }
};

// Reads the given samples, which must have one shape: held-out batches, tests. Error(kIo) and
// Error(kCorruptInput) as in Dataset. Tensors lie in `staging` where one is given.
LoaderBatch read_batch(const Dataset& dataset, const std::vector<std::int64_t>& samples,
                       std::int64_t text_len, bool verify_crc, Arena* staging = nullptr);

struct LoaderPosition {
  std::int64_t dp_rank = 0, dp_size = 1;
  std::int64_t start_step = 0;  // the cursor: nothing else is needed to resume
};

// The micro-batches of one data-parallel rank in order, read by config.threads threads at most
// config.prefetch ahead. The batch of a step is split contiguously over the ranks, rank r of n
// taking slots [B·r/n, B·(r+1)/n), and then into micro-batches of at most config.micro_batch. A
// rank without slots in a step gets one batch with size() 0 and num_micro 0 for it. `staging` gives
// the memory of batches (pinned memory for a GPU); null: ordinary memory.
class Loader {
 public:
  Loader(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const BatchPlan> plan,
         const DataConfig& config, std::int64_t text_len, const LoaderPosition& position,
         std::unique_ptr<Arena> staging = nullptr);
  ~Loader();  // stops and joins the threads
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next micro-batch. Throws the error of a sample that could not be read when its turn comes,
  // and again from then on. One caller at a time.
  LoaderBatch next();
  // All micro-batches of the next step (empty for a rank without slots); only between steps.
  std::vector<LoaderBatch> next_step();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dsv::data
