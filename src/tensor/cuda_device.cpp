#include "dsv/tensor/cuda_device.h"

#include <cuda_runtime.h>

#include <chrono>
#include <cstring>

namespace dsv {
namespace {

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  throw_error(ExitCode::kEnvironment, "[cuda] {}: {} ({})", call, cudaGetErrorName(status),
              cudaGetErrorString(status));
}
#define DSV_CUDA(call) check((call), #call)

constexpr int kMajor = 9, kMinor = 0;  // kernels are built for sm_90a: no other device runs them
// Dense bf16 multiply-adds of an SM per clock, times two; f32 ones; and the clock of the
// datasheet's 989 TFLOP/s for 132 SMs (NVIDIA H100 SXM and H200).
constexpr double kBf16FlopsPerClock = 4096, kF32FlopsPerClock = 256, kBoostHz = 1.83e9;

cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native);
}

class CudaAllocator : public Allocator {
 public:
  explicit CudaAllocator(int index) : device_{DeviceKind::kCuda, index} {}

  void* allocate(std::int64_t bytes) override {
    DSV_CUDA(cudaSetDevice(device_.index));
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, static_cast<std::size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // not sticky: the device still works
      std::size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      throw_error(
          ExitCode::kEnvironment,
          "[arena] out of memory on {}: {} MiB more were asked for, {} of {} MiB are free; "
          "model.checkpointing: block, smaller micro-batches (data.micro_batch), or smaller "
          "buckets need less",
          device_, bytes >> 20, free >> 20, total >> 20);
    }
    check(status, "cudaMalloc");
    return data;
  }
  void deallocate(void* data, std::int64_t) noexcept override { cudaFree(data); }
  Device device() const override { return device_; }
  std::int64_t free_bytes() const override {
    std::size_t free = 0, total = 0;
    DSV_CUDA(cudaMemGetInfo(&free, &total));
    return static_cast<std::int64_t>(free);
  }
  void poison(void* data, std::int64_t bytes) override {
    // In the order of every stream, which is slow: a tool for tests.
    DSV_CUDA(cudaDeviceSynchronize());
    DSV_CUDA(cudaMemset(data, 0xff, static_cast<std::size_t>(bytes)));
    DSV_CUDA(cudaDeviceSynchronize());
  }

 private:
  Device device_;
};

class PinnedAllocator : public Allocator {
 public:
  explicit PinnedAllocator(int index) : index_(index) {}

  void* allocate(std::int64_t bytes) override {
    DSV_CUDA(cudaSetDevice(index_));  // from any thread: not to wake up another device
    void* data = nullptr;
    const cudaError_t status =
        cudaHostAlloc(&data, static_cast<std::size_t>(bytes), cudaHostAllocPortable);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw_error(ExitCode::kEnvironment,
                  "[arena] out of pinned host memory: {} MiB more were asked for; a smaller "
                  "data.prefetch needs less",
                  bytes >> 20);
    }
    check(status, "cudaHostAlloc");
    return data;
  }
  void deallocate(void* data, std::int64_t) noexcept override { cudaFreeHost(data); }
  Device device() const override { return {}; }
  void poison(void* data, std::int64_t bytes) override {
    std::memset(data, 0xff, static_cast<std::size_t>(bytes));
  }

 private:
  int index_;
};

// "" when device `index` can run the kernels.
std::string unusable(int index) {
  cudaDeviceProp p{};
  const cudaError_t status = cudaGetDeviceProperties(&p, index);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (p.major == kMajor && p.minor == kMinor) return "";
  return format("{} has compute capability {}.{}, the kernels are built for {}.{} (H100, H200)",
                p.name, p.major, p.minor, kMajor, kMinor);
}

}  // namespace

bool built_with_cuda() {
  return true;
}

int num_cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  int usable = 0;  // devices are numbered from 0: those before the first that is not
  while (usable < count && unusable(usable).empty()) ++usable;
  return usable;
}

std::string why_no_cuda() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return format("no usable GPU: {}", cudaGetErrorString(status));
  }
  if (count == 0) return "no GPU found";
  const std::string reason = unusable(0);
  return reason.empty() ? "" : "no usable GPU: " + reason;
}

CudaDeviceInfo cuda_device_info(int index) {
  DSV_CUDA(cudaSetDevice(index));
  cudaDeviceProp p{};
  DSV_CUDA(cudaGetDeviceProperties(&p, index));
  std::size_t free = 0, total = 0;
  DSV_CUDA(cudaMemGetInfo(&free, &total));
  int driver = 0;
  DSV_CUDA(cudaDriverGetVersion(&driver));
  const double clocks = p.multiProcessorCount * kBoostHz;
  return {.name = p.name,
          .num_sms = p.multiProcessorCount,
          .l2_bytes = p.l2CacheSize,
          .total_bytes = static_cast<std::int64_t>(total),
          .free_bytes = static_cast<std::int64_t>(free),
          .peak_bf16_flops = clocks * kBf16FlopsPerClock,
          .peak_f32_flops = clocks * kF32FlopsPerClock,
          .driver = format("{}.{}", driver / 1000, driver % 1000 / 10)};
}

std::unique_ptr<Allocator> make_cuda_allocator(int index) {
  return std::make_unique<CudaAllocator>(index);
}

OwnedStream make_cuda_stream(int index) {
  const std::string reason = index < num_cuda_devices() ? "" : why_no_cuda();
  if (index >= num_cuda_devices()) {
    throw_error(ExitCode::kEnvironment, "[cuda] device {} was asked for: {}", index,
                reason.empty() ? format("there are {}", num_cuda_devices()) : reason);
  }
  DSV_CUDA(cudaSetDevice(index));
  cudaStream_t stream = nullptr;
  DSV_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return {.stream = {.device = {DeviceKind::kCuda, index}, .native = stream},
          .owner = std::shared_ptr<void>(stream, [](void* s) {
            cudaStreamSynchronize(static_cast<cudaStream_t>(s));
            cudaStreamDestroy(static_cast<cudaStream_t>(s));
          })};
}

void synchronize(const Stream& stream) {
  if (stream.device.kind == DeviceKind::kCuda) DSV_CUDA(cudaStreamSynchronize(native(stream)));
}

std::unique_ptr<Allocator> make_pinned_allocator(int index) {
  return std::make_unique<PinnedAllocator>(index);
}

std::shared_ptr<void> pin_host_memory(void* data, std::int64_t bytes, Device device) {
  if (device.kind == DeviceKind::kCpu) return nullptr;
  DSV_CUDA(cudaSetDevice(device.index));
  if (cudaHostRegister(data, static_cast<std::size_t>(bytes), cudaHostRegisterDefault) !=
      cudaSuccess) {
    cudaGetLastError();  // not an error of what comes next
    return nullptr;
  }
  return {data, [](void* pinned) { cudaHostUnregister(pinned); }};
}

StreamTimer::StreamTimer(const Stream& stream) : stream_(stream) {
  if (stream.device.kind == DeviceKind::kCpu) return;
  cudaEvent_t begin = nullptr, end = nullptr;
  DSV_CUDA(cudaEventCreate(&begin));
  begin_ = begin;
  DSV_CUDA(cudaEventCreate(&end));
  end_ = end;
}

StreamTimer::~StreamTimer() {
  if (begin_ != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(begin_));
  if (end_ != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(end_));
}

namespace {
double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
}  // namespace

void StreamTimer::start() {
  if (begin_ == nullptr) {
    wall_ = wall_seconds();
    return;
  }
  DSV_CUDA(cudaEventRecord(static_cast<cudaEvent_t>(begin_), native(stream_)));
}

double StreamTimer::stop() {
  if (begin_ == nullptr) return wall_seconds() - wall_;
  const auto begin = static_cast<cudaEvent_t>(begin_), end = static_cast<cudaEvent_t>(end_);
  DSV_CUDA(cudaEventRecord(end, native(stream_)));
  DSV_CUDA(cudaEventSynchronize(end));
  float ms = 0;
  DSV_CUDA(cudaEventElapsedTime(&ms, begin, end));
  return 1e-3 * static_cast<double>(ms);
}

namespace detail {

void cuda_transfer(const Tensor& from, const Tensor& to, const Stream& stream) {
  DSV_CHECK(stream.device.kind == DeviceKind::kCuda,
            "[transfer] {} to {} needs the stream of a CUDA device, got one of {}", from.device(),
            to.device(), stream.device);
  DSV_CUDA(cudaMemcpyAsync(to.raw(), from.raw(), static_cast<std::size_t>(from.num_bytes()),
                           cudaMemcpyDefault, native(stream)));
  // A pageable source has been read when the call returns.
  if (to.device().kind == DeviceKind::kCpu) synchronize(stream);
}

}  // namespace detail
}  // namespace dsv
