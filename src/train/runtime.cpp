#include "dsv/train/runtime.h"

#include "dsv/kernels/machine_peak.h"
#include "dsv/kernels/session.h"

namespace dsv::train {

Runtime::Runtime(const Options& options, std::unique_ptr<comm::Communicator> world) {
  const bool cuda = options.device == DeviceChoice::kCuda ||
                    (options.device == DeviceChoice::kAuto && num_cuda_devices() > 0);
  stream_ = {.device = {}, .num_threads = options.place.num_threads};
  // Ranks that disagree are named at once; a header per call costs less than a microsecond here.
  world->set_checked(true);
  if (cuda) {
    start_cuda(options);
    world = comm::make_nccl(std::move(world), stream_,
                            {.deterministic = options.determinism == Determinism::kLayout});
  } else {
    if (options.compute == Compute::kBF16) {
      throw_error(ExitCode::kConfig,
                  "precision.compute: expected f32 or auto on the cpu device, got bf16: the CPU "
                  "kernels compute in f32");
    }
    arena_ = std::make_unique<Arena>(make_cpu_allocator());
    kernels_ = &kernels::cpu_kernels();
  }
  const auto dp = options.dp > 0 ? options.dp : world->size() / options.cp;
  mesh_ = comm::make_mesh(std::move(world), narrow<int>(dp), narrow<int>(options.cp));
}

Runtime::~Runtime() {
  tracer_.set_observer(nullptr);
}

void Runtime::start_cuda(const Options& options) {
  const int count = num_cuda_devices(), index = options.place.local_rank;
  if (count == 0) {
    throw_error(ExitCode::kConfig, "run.device: expected cpu or auto here, got cuda: {}",
                why_no_cuda());
  }
  if (index >= count) {
    throw_error(ExitCode::kConfig,
                "run.device: cuda takes one GPU a rank; this host has {}, and rank {} of the host "
                "has none left: start mpirun with at most {} ranks a host",
                count, index, count);
  }
  cuda_stream_ = make_cuda_stream(index);
  stream_ = cuda_stream_.stream;
  stream_.num_threads = options.place.num_threads;
  session_ = kernels::make_session(stream_,
                                   {.deterministic = options.determinism == Determinism::kLayout});
  stream_.session = session_.get();
  arena_ = std::make_unique<Arena>(make_cuda_allocator(index));
  kernels_ = &kernels::cuda_kernels();
  compute_dtype_ = options.compute == Compute::kF32 ? DType::kF32 : DType::kBF16;
  scopes_ = make_cuda_scopes(stream_);
  tracer_.set_observer(scopes_.get());
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

std::unique_ptr<Arena> Runtime::make_staging() const {
  if (!on_cuda()) return nullptr;
  return std::make_unique<Arena>(make_pinned_allocator(device().index));
}

std::string Runtime::processor_name() const {
  if (on_cuda()) return cuda_device_info(device().index).name;
  return std::string(kernels::cpu_isa_name());
}

double Runtime::peak_flops() const {
  if (!on_cuda()) return 1e9 * kernels::peak_fma_gflops(num_threads());
  const CudaDeviceInfo info = cuda_device_info(device().index);
  return compute_dtype_ == DType::kBF16 ? info.peak_bf16_flops : info.peak_f32_flops;
}

}  // namespace dsv::train
