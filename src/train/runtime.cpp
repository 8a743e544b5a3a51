#include "dsv/train/runtime.h"

namespace dsv::train {

void require_device(DeviceChoice device, Compute compute) {
  if (device == DeviceChoice::kCuda) {
    throw_error(ExitCode::kConfig,
                "run.device: expected cpu or auto, got cuda: this build has no CUDA backend");
  }
  if (compute == Compute::kBF16) {
    throw_error(ExitCode::kConfig,
                "precision.compute: expected f32 or auto on the cpu device, got bf16: the CPU "
                "kernels compute in f32");
  }
}

Runtime::Runtime(const Options& options, std::unique_ptr<comm::Communicator> world) {
  require_device(options.device, options.compute);
  stream_ = {.device = {}, .num_threads = options.num_threads};
  // Ranks that disagree are named at once; a header per call costs less than a microsecond here.
  world->set_checked(true);
  const auto dp = options.dp > 0 ? options.dp : world->size() / options.cp;
  mesh_ = comm::make_mesh(std::move(world), narrow<int>(dp), narrow<int>(options.cp));
  arena_ = std::make_unique<Arena>(make_cpu_allocator());
  kernels_ = &kernels::cpu_kernels();
}

autograd::Context Runtime::context(autograd::Tape* tape) {
  return {.kernels = *kernels_,
          .arena = *arena_,
          .stream = stream_,
          .mesh = mesh_,
          .tracer = tracer_,
          .compute_dtype = compute_dtype_,
          .tape = tape};
}

}  // namespace dsv::train
