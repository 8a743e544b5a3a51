#include "nccl_watch.h"

#include <cuda_runtime.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <chrono>

#include "dsv/base/log.h"
#include "exit_hung.h"

namespace dsv::comm {
namespace {

using namespace std::chrono_literals;

constexpr auto kPollInterval = 100ms;
// A thread that is inside NCCL for longer is stuck there: calls return when their kernels are
// enqueued, and connections were made at construction.
constexpr auto kLongestCall = 2s;
constexpr auto kLongestAbort = 10s;

}  // namespace

std::string nccl_error_text(ncclResult_t result) {
  const char* detail = ncclGetLastError(nullptr);
  return format("{}{}{}", ncclGetErrorString(result), detail != nullptr && *detail ? ": " : "",
                detail != nullptr ? detail : "");
}

NcclWatch::NcclWatch(int device_index, int rank, std::shared_ptr<const OpLog> log)
    : device_index_(device_index), rank_(rank), log_(std::move(log)) {}

NcclWatch::~NcclWatch() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void NcclWatch::add(ncclComm_t comm) {
  const std::lock_guard lock(mutex_);
  comms_.push_back(comm);
  if (thread_.joinable()) return;
  // Signals are for the main thread: a handler here would not interrupt what that one waits in.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { watch(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool NcclWatch::remove(ncclComm_t comm) {
  const std::lock_guard lock(mutex_);
  return std::erase(comms_, comm) == 1;
}

std::unique_lock<std::timed_mutex> NcclWatch::enter() {
  std::unique_lock lock(in_call_);
  throw_if_failed();
  return lock;
}

void NcclWatch::throw_if_failed() const {
  if (!failed_) return;
  const std::lock_guard lock(mutex_);
  throw_error(ExitCode::kHang, "[comm] rank {}: {}", rank_, failure_);
}

void NcclWatch::abort(const std::string& why) {
  std::unique_lock lock(mutex_);
  if (failure_.empty()) failure_ = why;
  failed_ = true;
  changed_.notify_all();
  if (changed_.wait_for(lock, kLongestAbort, [&] { return aborted_; })) return;
  // Whoever waits for the stream next would wait for ever.
  exit_hung(format("[comm] rank {}: {}; NCCL did not let go within {} s", rank_, failure_,
                   std::chrono::seconds(kLongestAbort).count()));
}

void NcclWatch::watch() {
  cudaSetDevice(device_index_);
  std::string error;
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kPollInterval, [&] { return stop_ || failed_; })) {
    error = find_async_error();
    if (error.empty()) continue;
    error = format("NCCL reports {}; last collective: {}", error, to_string(log_->last()));
    failure_ = error;
    failed_ = true;
  }
  if (!failed_) return;
  lock.unlock();
  abort_all();
  lock.lock();
  aborted_ = true;
  changed_.notify_all();
  lock.unlock();
  // Last, and without the lock: nothing may wait for a log that is stuck. What the rank itself
  // reported reaches the log through its error.
  if (!error.empty()) log_error("[comm] rank {}: {}; collectives have ended", rank_, error);
}

std::string NcclWatch::find_async_error() const {
  for (const ncclComm_t comm : comms_) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
    if (asked != ncclSuccess) state = asked;
    if (state != ncclSuccess && state != ncclInProgress) return nccl_error_text(state);
  }
  return "";
}

void NcclWatch::abort_all() {
  // A rank stuck inside NCCL never leaves unless its kernels end, so it cannot be waited for: what
  // it then does with freed communicators ends this process, which has failed anyway.
  std::unique_lock call(in_call_, kLongestCall);
  std::vector<ncclComm_t> comms;
  {
    const std::lock_guard lock(mutex_);
    comms.swap(comms_);
  }
  // As one group, all are told to quit before the first is freed: freeing memory waits for kernels
  // of the others.
  ncclGroupStart();
  for (const ncclComm_t comm : comms) ncclCommAbort(comm);
  ncclGroupEnd();
}

}  // namespace dsv::comm
