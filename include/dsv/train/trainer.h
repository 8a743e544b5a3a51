// Trainer: a run from its folder to its last checkpoint. The loop and what happens around a step.
#pragma once

#include <memory>
#include <string>

#include "dsv/comm/communicator.h"
#include "dsv/train/runtime.h"

namespace dsv::train {

class Trainer {
 public:
  // Collective over `world`. Opens run folder and shards, builds the model, resumes as
  // config.resume (or from the checkpoint in resume_path). Nothing is trained yet. Throws
  // dsv::Error.
  Trainer(const Config& config, std::unique_ptr<comm::Communicator> world, const Place& place,
          const std::string& resume_path = {});
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Trains to config.run.steps, or until a stop is requested on any rank. Returns kOk, kStopped
  // after a checkpoint on request, or kIo when the last checkpoint could not be written.
  ExitCode run();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv::train
