#include "nccl_connection.h"

#include <chrono>
#include <cstring>
#include <exception>
#include <thread>

namespace dsv::comm {
namespace {

// What was enqueued before a connection is given up ends within this, or never.
constexpr auto kLongestGoodbye = std::chrono::seconds(30);

}  // namespace

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  throw_error(ExitCode::kEnvironment, "[comm] {}: {} ({})", call, cudaGetErrorName(status),
              cudaGetErrorString(status));
}

NcclShared::NcclShared(const Stream& s, const NcclOptions& o, const Collectives& world)
    : stream(s),
      native(static_cast<cudaStream_t>(s.native)),
      options(o),
      watch(s.device.index, world.rank(), world.op_log()) {
  if (world.size() > 1) DSV_COMM_CUDA(cudaMalloc(&scratch, kScratchBytes));
}

// cudaFree waits for kernels that still use it.
NcclShared::~NcclShared() {
  cudaFree(scratch);
}

bool NcclShared::wait() const {
  const auto deadline = std::chrono::steady_clock::now() + kLongestGoodbye;
  while (cudaStreamQuery(native) == cudaErrorNotReady) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

NcclConnection::NcclConnection(Collectives& group, std::shared_ptr<NcclShared> shared)
    : shared_(std::move(shared)), exceptions_at_start_(std::uncaught_exceptions()) {
  DSV_COMM_CUDA(cudaSetDevice(shared_->stream.device.index));
  ncclUniqueId id{};
  ncclResult_t result = group.rank() == 0 ? ncclGetUniqueId(&id) : ncclSuccess;
  if (result == ncclSuccess) {
    const std::string mine = group.rank() == 0 ? std::string(id.internal, sizeof(id)) : "";
    std::memcpy(&id, group.gather_messages(mine)[0].data(), sizeof(id));
    const auto call = shared_->watch.enter();
    result = ncclCommInitRank(&comm_, group.size(), id, group.rank());
  }
  if (result != ncclSuccess) {
    throw_error(ExitCode::kEnvironment,
                "[comm] rank {} of {} of group {} cannot connect through NCCL: {}", group.rank(),
                group.size(), group.name(), nccl_error_text(result));
  }
  shared_->watch.add(comm_);
}

NcclConnection::~NcclConnection() {
  if (std::uncaught_exceptions() > exceptions_at_start_) {
    shared_->watch.abort("collectives ended because of an error on this rank");
  } else if (!shared_->wait()) {
    shared_->watch.abort("collectives ended because they did not complete");
  }
  if (shared_->watch.remove(comm_)) ncclCommDestroy(comm_);
}

}  // namespace dsv::comm
