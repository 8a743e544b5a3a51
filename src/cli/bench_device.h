// What `dsv bench` measures on: a runtime, random tensors on its device, and times by its clock.
#pragma once

#include <functional>
#include <string>

#include "device_option.h"
#include "dsv/train/runtime.h"

namespace dsv::cli {

class BenchDevice {
 public:
  explicit BenchDevice(const DeviceOption& option);

  const kernels::KernelTable& kernels() const { return context_.kernels; }
  const Stream& stream() const { return context_.stream; }
  Arena& arena() { return runtime_.arena(); }
  DType compute_dtype() const { return runtime_.compute_dtype(); }
  bool on_cuda() const { return runtime_.on_cuda(); }

  Tensor empty(const Shape& shape, DType dtype) { return arena().empty(shape, dtype); }
  // Standard normals; never the same twice.
  Tensor random(const Shape& shape, DType dtype);
  // Of one call, on the device's own clock.
  double seconds(const std::function<void()>& run);
  // What the compute dtype can reach at most: measured now on a CPU, the datasheet's on a GPU.
  double peak_gflops() const { return runtime_.peak_flops() / 1e9; }
  // "2 thread(s), AVX-512, F32" or "NVIDIA H100 80GB HBM3, BF16".
  std::string describe() const;

 private:
  train::Runtime runtime_;
  autograd::Context context_;
  StreamTimer timer_;
  std::uint64_t next_ = 0;
};

}  // namespace dsv::cli
