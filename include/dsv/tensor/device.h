// Where bytes live, and the queue that work on them goes to.
#pragma once

#include <string>

namespace dsv {

enum class DeviceKind { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

std::string to_string(const Device& device);  // "cpu", "cuda:0"

// The queue of a kernel call. On the CPU work is done when the call returns, by `num_threads`
// threads of this rank; on CUDA `native` is the cudaStream_t and the call is asynchronous.
struct Stream {
  Device device;
  int num_threads = 1;
  void* native = nullptr;
  void* session = nullptr;  // of the kernels on CUDA: dsv/kernels/session.h
};

}  // namespace dsv
