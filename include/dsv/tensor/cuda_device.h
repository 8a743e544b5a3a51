// CUDA devices: memory, streams, and time. A build without CUDA has the same functions; it has no
// device, and asking for one throws Error(kEnvironment) that says what to configure.
#pragma once

#include <memory>
#include <string>

#include "dsv/base/trace.h"
#include "dsv/tensor/arena.h"
#include "dsv/tensor/tensor.h"

namespace dsv {

bool built_with_cuda();
// Devices that can run this build's kernels (compute capability 9.0). 0 without a driver.
int num_cuda_devices();
// Why there is none, in one line for people; "" when there is.
std::string why_no_cuda();

struct CudaDeviceInfo {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int num_sms = 0;
  std::int64_t l2_bytes = 0;
  std::int64_t total_bytes = 0, free_bytes = 0;
  double peak_bf16_flops = 0;  // dense tensor-core rate at the boost clock: the MFU denominator
  double peak_f32_flops = 0;   // fused multiply-adds outside the tensor cores
  std::string driver;          // "13.0"
};
CudaDeviceInfo cuda_device_info(int index);

// Bytes on device `index`. Out of memory throws Error(kEnvironment) that says how much was asked
// for, what is free, and which settings need less.
std::unique_ptr<Allocator> make_cuda_allocator(int index);

// A stream of device `index`, made the calling thread's current device. Stream::native is the
// cudaStream_t; the owner destroys it, after waiting for it.
struct OwnedStream {
  Stream stream;
  std::shared_ptr<void> owner;
};
OwnedStream make_cuda_stream(int index);

// Times trace scopes by events on the stream, and shows them to profilers as NVTX ranges.
std::unique_ptr<ScopeObserver> make_cuda_scopes(const Stream& stream);

// What the driver's management library says of a device now; negative where it says nothing.
struct CudaUsage {
  double utilisation_percent = -1;  // share of the last sampling period with a kernel running
  double memory_used_bytes = -1;    // of all processes
  double power_watts = -1;
  double sm_clock_mhz = -1;
  double temperature_c = -1;
};
CudaUsage cuda_usage(int index);

// Waits until everything given to the stream is done; throws what a kernel reported. A CPU stream
// has nothing to wait for.
void synchronize(const Stream& stream);

// Pinned host memory, which device `index` copies from and to without the processor's help.
// Allocating it is slow: use it through an Arena.
std::unique_ptr<Allocator> make_pinned_allocator(int index);

// Pins memory that exists, as long as the result lives: copies between it and `device` then run at
// the bus's rate. Null on the CPU, and where the system grants it not, which costs speed alone.
std::shared_ptr<void> pin_host_memory(void* data, std::int64_t bytes, Device device);

// Device seconds between marks on a stream.
class StreamTimer {
 public:
  explicit StreamTimer(const Stream& stream);
  ~StreamTimer();
  StreamTimer(const StreamTimer&) = delete;
  StreamTimer& operator=(const StreamTimer&) = delete;

  void start();
  // Waits for the stream to get here and returns the seconds since start().
  double stop();

 private:
  Stream stream_;
  void* begin_ = nullptr;  // cudaEvent_t; on the CPU the wall clock takes their place
  void* end_ = nullptr;
  double wall_ = 0;
};

namespace detail {
// transfer() with a CUDA device on either side.
void cuda_transfer(const Tensor& from, const Tensor& to, const Stream& stream);
}  // namespace detail

}  // namespace dsv
