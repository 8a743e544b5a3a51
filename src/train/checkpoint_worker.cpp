#include "checkpoint_worker.h"

#include <signal.h>

namespace dsv::train {

CheckpointWorker::CheckpointWorker(bool threaded) {
  if (!threaded) return;
  // Signals are for the main thread: a new thread inherits the mask of the one that starts it.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

CheckpointWorker::~CheckpointWorker() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CheckpointWorker::submit(std::function<void()> job) {
  if (!thread_.joinable()) return job();
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

bool CheckpointWorker::idle() {
  const std::lock_guard lock(mutex_);
  return jobs_.empty() && !busy_;
}

void CheckpointWorker::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return jobs_.empty() && !busy_; });
}

void CheckpointWorker::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    busy_ = true;
    lock.unlock();
    job();
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace dsv::train
