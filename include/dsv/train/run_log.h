// RunLog: what a run tells people and writes down, on rank 0: folder and lock, metrics,
// TensorBoard, progress, samples. Other ranks hold an object that does nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dsv/comm/communicator.h"
#include "dsv/data/held_out.h"
#include "dsv/data/loader.h"
#include "dsv/train/checkpoint_reader.h"
#include "dsv/train/checkpoint_writer.h"
#include "dsv/train/config.h"
#include "dsv/train/generate.h"
#include "dsv/train/runtime.h"

namespace dsv::train {

class RunLog {
 public:
  // Collective: makes and locks the run folder. Throws on all ranks what rank 0 met.
  RunLog(const Config& config, comm::Communicator& world);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  const std::string& checkpoint_dir() const;
  bool has_checkpoints() const;
  const std::string& run_id() const;  // the same on all ranks, kept over resumes

  // What this run is: model, data, ranks, threads, processor.
  void describe(std::int64_t num_params, const data::BatchPlan& plan, const data::Split& split,
                const Runtime& runtime) const;
  // Ranks, threads, and processor: what the `layout` promise names; stored in checkpoints.
  Json layout(const Runtime& runtime) const;
  // Notes a resume and what has changed of the layout since.
  void resumed(const CheckpointReader& reader, const Runtime& runtime);
  // Opens the records for steps after `step`.
  void start(std::int64_t step);

  void step(std::int64_t step, const Json& record);
  // The state of every block and head, to sparsity.jsonl.
  void sparsity(std::int64_t step, const Json& record);
  void held_out(std::int64_t step, const Json& record);
  void samples(std::int64_t step, const Generated& generated,
               const std::vector<std::string>& prompts, double fps);
  void finish(std::int64_t step, std::uint32_t state_hash, bool stopped, bool saved,
              const CheckpointStats& checkpoints);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv::train
