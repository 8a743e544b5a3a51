// The NCCL communicators of one rank, and a thread that watches them: a peer whose network is gone
// shows in ncclCommGetAsyncError only, while kernels here wait for it for ever.
#pragma once

#include <nccl.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "op_log.h"

namespace dsv::comm {

// Communicators may only be freed by one thread while no other is inside a call with them, and may
// have to be freed while the rank's own thread waits for a kernel that will never end. So that
// thread calls NCCL under enter(), and only the watch aborts.
class NcclWatch {
 public:
  NcclWatch(int device_index, int rank, std::shared_ptr<const OpLog> log);
  ~NcclWatch();
  NcclWatch(const NcclWatch&) = delete;
  NcclWatch& operator=(const NcclWatch&) = delete;

  void add(ncclComm_t comm);  // the first starts the thread
  // False when the watch has freed it.
  bool remove(ncclComm_t comm);

  // Held while the rank's own thread calls NCCL. Throws as throw_if_failed().
  std::unique_lock<std::timed_mutex> enter();
  void throw_if_failed() const;

  // Ends what runs on the device and frees all communicators; later calls throw `why`. From the
  // rank's own thread, outside of enter(). Ends the process when NCCL does not let go.
  void abort(const std::string& why);

 private:
  void watch();
  std::string find_async_error() const;
  void abort_all();

  const int device_index_;
  const int rank_;
  const std::shared_ptr<const OpLog> log_;

  std::timed_mutex in_call_;
  mutable std::mutex mutex_;  // of all below; never held while NCCL may wait
  std::condition_variable changed_;
  std::vector<ncclComm_t> comms_;
  std::string failure_;
  bool aborted_ = false;
  bool stop_ = false;
  std::atomic<bool> failed_{false};  // failure_ is set and stays
  std::thread thread_;
};

// "unhandled system error: …", with NCCL's own words where it has some.
std::string nccl_error_text(ncclResult_t result);

}  // namespace dsv::comm
