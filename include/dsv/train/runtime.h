// Runtime: the objects a rank owns for as long as it runs, and the Context made of them.
#pragma once

#include <memory>
#include <string>

#include "dsv/autograd/context.h"
#include "dsv/tensor/cuda_device.h"
#include "dsv/train/config.h"

namespace dsv::train {

// Where a rank runs: its share of the host's cores, and which of the host's GPUs is its own.
struct Place {
  int num_threads = 1;
  int local_rank = 0;
};

class Runtime {
 public:
  struct Options {
    DeviceChoice device = DeviceChoice::kCpu;  // auto: cuda where there is a usable GPU
    Compute compute = Compute::kAuto;
    Determinism determinism = Determinism::kLayout;
    Place place;
    std::int64_t dp = 0, cp = 1;  // dp 0: the world
  };
  // Collective over `world`. Throws Error(kConfig) for a device or precision that this build or
  // machine does not have, naming what would, on every rank that lacks it.
  Runtime(const Options& options, std::unique_ptr<comm::Communicator> world);
  ~Runtime();

  // A context that records on `tape`, or on nothing.
  autograd::Context context(autograd::Tape* tape = nullptr);

  Arena& arena() { return *arena_; }
  Tracer& tracer() { return tracer_; }
  const comm::Mesh& mesh() const { return mesh_; }
  const Stream& stream() const { return stream_; }
  Device device() const { return stream_.device; }
  bool on_cuda() const { return device().kind == DeviceKind::kCuda; }
  DType compute_dtype() const { return compute_dtype_; }
  int num_threads() const { return stream_.num_threads; }
  // Host memory for batches: pinned where the device copies from it by itself, else null.
  std::unique_ptr<Arena> make_staging() const;
  // What results are bitwise equal on: the instruction set, or the GPU's name.
  std::string processor_name() const;
  // Multiply-adds of this rank's processor per second, times two, in the compute dtype: on CUDA the
  // dense rate of the datasheet, on a CPU the rate that is measured now.
  double peak_flops() const;

 private:
  void start_cuda(const Options& options);

  // Tensors may live on after the arena; everything that uses the stream goes before it.
  OwnedStream cuda_stream_;
  Stream stream_;
  std::shared_ptr<void> session_;
  std::unique_ptr<ScopeObserver> scopes_;
  std::unique_ptr<Arena> arena_;
  comm::Mesh mesh_;
  Tracer tracer_;
  const kernels::KernelTable* kernels_ = nullptr;
  DType compute_dtype_ = DType::kF32;
};

}  // namespace dsv::train
