// The folder of a run, runs/NAME, and the lock that keeps two jobs out of one folder.
#pragma once

#include <cstdint>
#include <string>

#include "dsv/train/config.h"

namespace dsv::train {

// Names within the folder; all ranks know them, rank 0 makes them.
struct RunPaths {
  explicit RunPaths(const RunConfig& run) : root(run.dir + "/" + run.name) {}
  std::string config() const { return root + "/config.yaml"; }
  std::string metrics() const { return root + "/metrics.jsonl"; }
  std::string sparsity() const { return root + "/sparsity.jsonl"; }
  std::string tensorboard() const { return root + "/tb"; }
  std::string samples() const { return root + "/samples"; }
  std::string checkpoints() const { return root + "/checkpoints"; }
  std::string lock() const { return root + "/lock"; }

  std::string root;
};

// 128 random bits in hexadecimal.
std::string make_run_id();

// Holds the file PATH, JSON of pid, host, and run id, until destruction.
class RunLock {
 public:
  // A lock whose process has died on this host is taken over, with a line in the log. Throws
  // Error(kEnvironment) naming the holder of one that is alive or on another host; Error(kIo).
  RunLock(std::string path, const std::string& run_id);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  std::string path_;
  int fd_ = -1;
};

// Rank 0's hold of the folder.
class RunDir {
 public:
  // Makes the folders, locks them, and proves that they can be written to, so that a run does not
  // fail at its first checkpoint. Throws Error(kIo), Error(kEnvironment).
  RunDir(const RunConfig& run, const std::string& run_id);

  const RunPaths& paths() const { return paths_; }
  // Replaces config.yaml by what runs now.
  void write_config(const Config& config) const;

 private:
  RunPaths paths_;
  RunLock lock_;
};

}  // namespace dsv::train
