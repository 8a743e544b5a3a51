// Runtime: the objects a rank owns for as long as it runs, and the Context made of them.
#pragma once

#include <memory>

#include "dsv/autograd/context.h"
#include "dsv/train/config.h"

namespace dsv::train {

// Throws Error(kConfig) for a device or precision that this build does not have, naming what would.
void require_device(DeviceChoice device, Compute compute);

class Runtime {
 public:
  struct Options {
    DeviceChoice device = DeviceChoice::kAuto;
    Compute compute = Compute::kAuto;
    int num_threads = 1;
    std::int64_t dp = 0, cp = 1;  // dp 0: the world
  };
  // Collective over `world`. Throws Error(kConfig) for a device or precision that this build or
  // machine does not have, naming what would.
  Runtime(const Options& options, std::unique_ptr<comm::Communicator> world);

  // A context that records on `tape`, or on nothing.
  autograd::Context context(autograd::Tape* tape = nullptr);

  Arena& arena() { return *arena_; }
  Tracer& tracer() { return tracer_; }
  const comm::Mesh& mesh() const { return mesh_; }
  const Stream& stream() const { return stream_; }
  Device device() const { return stream_.device; }

 private:
  Stream stream_;
  comm::Mesh mesh_;
  std::unique_ptr<Arena> arena_;
  Tracer tracer_;
  const kernels::KernelTable* kernels_ = nullptr;
  DType compute_dtype_ = DType::kF32;
};

}  // namespace dsv::train
