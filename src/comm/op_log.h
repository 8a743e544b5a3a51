// What a rank's communicators did last. One log per world, shared by its splits: the main thread
// writes, the watchdog thread reads.
#pragma once

#include <mutex>

#include "dsv/comm/communicator.h"

namespace dsv::comm {

class OpLog {
 public:
  void enter(const char* op, const std::string& group, std::int64_t seq, std::int64_t bytes) {
    const std::lock_guard lock(mutex_);
    last_ = {.op = op, .group = group, .seq = seq, .bytes = bytes, .running = true};
  }
  void leave(bool queued) {
    const std::lock_guard lock(mutex_);
    last_.running = false;
    last_.queued = queued;
  }
  LastOp last() const {
    const std::lock_guard lock(mutex_);
    return last_;
  }

 private:
  mutable std::mutex mutex_;
  LastOp last_;
};

}  // namespace dsv::comm
