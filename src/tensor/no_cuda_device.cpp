// In place of cuda_device.cpp where the build has no CUDA.
#include <chrono>

#include "dsv/tensor/cuda_device.h"

namespace dsv {
namespace {

constexpr const char* kReason =
    "this build has no CUDA backend: configure with -DDSV_CUDA=ON, which needs nvcc, cuBLASLt, "
    "cuDNN "
    "9, and NCCL";

[[noreturn]] void refuse() {
  throw_error(ExitCode::kEnvironment, "[cuda] {}", kReason);
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

bool built_with_cuda() {
  return false;
}
int num_cuda_devices() {
  return 0;
}
std::string why_no_cuda() {
  return kReason;
}
CudaDeviceInfo cuda_device_info(int) {
  refuse();
}
std::unique_ptr<Allocator> make_cuda_allocator(int) {
  refuse();
}
OwnedStream make_cuda_stream(int) {
  refuse();
}

std::unique_ptr<ScopeObserver> make_cuda_scopes(const Stream&) {
  refuse();
}
CudaUsage cuda_usage(int) {
  refuse();
}

void synchronize(const Stream& stream) {
  if (stream.device.kind != DeviceKind::kCpu) refuse();
}

std::unique_ptr<Allocator> make_pinned_allocator(int) {
  refuse();
}

std::shared_ptr<void> pin_host_memory(void*, std::int64_t, Device device) {
  if (device.kind != DeviceKind::kCpu) refuse();
  return nullptr;
}

StreamTimer::StreamTimer(const Stream& stream) : stream_(stream) {}
StreamTimer::~StreamTimer() = default;
void StreamTimer::start() {
  wall_ = wall_seconds();
}
double StreamTimer::stop() {
  return wall_seconds() - wall_;
}

namespace detail {
void cuda_transfer(const Tensor&, const Tensor&, const Stream&) {
  refuse();
}
}  // namespace detail

}  // namespace dsv
