// One background thread that runs jobs in order: it writes shards and removes old checkpoints.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace dsv::train {

class CheckpointWorker {
 public:
  // Without a thread, submit runs the job before it returns.
  explicit CheckpointWorker(bool threaded);
  ~CheckpointWorker();  // finishes all jobs

  void submit(std::function<void()> job);  // the job must not throw
  bool idle();
  void wait();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool busy_ = false;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace dsv::train
