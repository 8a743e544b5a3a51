#include "bench_device.h"

#include "dsv/kernels/affinity.h"

namespace dsv::cli {
namespace {

train::Runtime::Options pinned(const DeviceOption& option) {
  train::Runtime::Options out = runtime_options(option);
  out.place.num_threads = kernels::pin_all_cores(option.threads);
  return out;
}

}  // namespace

BenchDevice::BenchDevice(const DeviceOption& option)
    : runtime_(pinned(option), comm::make_self()),
      context_(runtime_.context()),
      timer_(runtime_.stream()) {}

Tensor BenchDevice::random(const Shape& shape, DType dtype) {
  const Tensor numbers = empty(shape, DType::kF32);
  kernels().random_fill({.y = numbers, .key = {.sample = next_++}}, stream());
  if (dtype == DType::kF32) return numbers;
  const Tensor out = empty(shape, dtype);
  kernels().cast({.x = numbers, .y = out}, stream());
  return out;
}

double BenchDevice::seconds(const std::function<void()>& run) {
  timer_.start();
  run();
  return timer_.stop();
}

std::string BenchDevice::describe() const {
  const std::string what = format("{}, {}", runtime_.processor_name(), runtime_.compute_dtype());
  return on_cuda() ? what : format("{} thread(s), {}", runtime_.num_threads(), what);
}

}  // namespace dsv::cli
