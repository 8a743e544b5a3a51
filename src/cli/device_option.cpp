#include "device_option.h"

#include <omp.h>

#include <CLI/CLI.hpp>

namespace dsv::cli {

void add_device_option(CLI::App* command, DeviceOption* option, const char* compute) {
  option->compute = compute;
  command->add_option("--device", option->device, "auto (cuda where there is a GPU), cpu, or cuda")
      ->capture_default_str();
  command
      ->add_option(
          "--compute", option->compute,
          "Of GEMM and attention operands: f32, bf16 (cuda only), or auto (f32 on the cpu, "
          "bf16 on cuda)")
      ->capture_default_str();
  command->add_option("--threads", option->threads, "CPU threads (default: all)");
}

train::Runtime::Options runtime_options(const DeviceOption& option) {
  train::Runtime::Options out;
  out.place.num_threads = option.threads > 0 ? option.threads : omp_get_max_threads();
  if (option.device == "auto") {
    out.device = train::DeviceChoice::kAuto;
  } else if (option.device == "cpu") {
    out.device = train::DeviceChoice::kCpu;
  } else if (option.device == "cuda") {
    out.device = train::DeviceChoice::kCuda;
  } else {
    throw_error(ExitCode::kConfig, "--device: expected auto, cpu, or cuda, got '{}'",
                option.device);
  }
  if (option.compute == "auto") {
    out.compute = train::Compute::kAuto;
  } else if (option.compute == "f32") {
    out.compute = train::Compute::kF32;
  } else if (option.compute == "bf16") {
    out.compute = train::Compute::kBF16;
  } else {
    throw_error(ExitCode::kConfig, "--compute: expected auto, f32, or bf16, got '{}'",
                option.compute);
  }
  return out;
}

}  // namespace dsv::cli
