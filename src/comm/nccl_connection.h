// What the NCCL transports of one rank are made of: the state that its groups share, and a
// connection to the other ranks of a group.
#pragma once

#include <cuda_runtime.h>

#include "collectives.h"
#include "nccl_watch.h"

namespace dsv::comm {

// Throws Error(kEnvironment) naming the call.
void check_cuda(cudaError_t status, const char* call);
#define DSV_COMM_CUDA(call) ::dsv::comm::check_cuda((call), #call)

// All groups use one stream, so one piece of memory serves all.
struct NcclShared {
  // Room for the parts that a reduction receives: larger tensors go in pieces.
  static constexpr std::int64_t kScratchBytes = std::int64_t{64} << 20;

  NcclShared(const Stream& stream, const NcclOptions& options, const Collectives& world);
  ~NcclShared();
  NcclShared(const NcclShared&) = delete;
  NcclShared& operator=(const NcclShared&) = delete;

  // False when the stream has work that does not end.
  bool wait() const;

  const Stream stream;
  const cudaStream_t native;
  const NcclOptions options;
  void* scratch = nullptr;  // null for a world of one rank
  NcclWatch watch;
};

// One ncclComm_t, of more than one rank.
class NcclConnection {
 public:
  // Collective over `group`.
  NcclConnection(Collectives& group, std::shared_ptr<NcclShared> shared);
  // Aborts instead of waiting when an error is in flight: peers may be elsewhere, and what they
  // were to send never comes.
  ~NcclConnection();
  NcclConnection(const NcclConnection&) = delete;
  NcclConnection& operator=(const NcclConnection&) = delete;

  ncclComm_t comm() const { return comm_; }

 private:
  std::shared_ptr<NcclShared> shared_;
  ncclComm_t comm_ = nullptr;
  int exceptions_at_start_;
};

}  // namespace dsv::comm
