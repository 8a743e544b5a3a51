#include "cuda/session.h"

#include <algorithm>

namespace dsv::kernels {
namespace cuda {

void check_cuda(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  const char* name = cudaGetErrorName(status);
  if (status == cudaErrorMemoryAllocation) {
    throw_error(ExitCode::kEnvironment,
                "[cuda] out of device memory in {} ({}:{}); smaller micro-batches or buckets, or "
                "model.checkpointing: block need less",
                call, file, line);
  }
  throw_error(ExitCode::kEnvironment, "[cuda] {} at {}:{}: {} ({})", call, file, line, name,
              cudaGetErrorString(status));
}

void require_session(const Stream& stream) {
  DSV_CHECK(stream.device.kind == DeviceKind::kCuda && stream.session != nullptr,
            "[cuda] expected a stream of a CUDA device with a session, got one of {}",
            stream.device);
}

void refuse_dtype(const char* op, DType dtype) {
  throw_error(ExitCode::kConfig, "[{}] the cuda backend computes in f32 and bf16, got {}", op,
              dtype);
}

void require_f32_or_bf16(const char* op, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors) {
    if (t->defined() && t->dtype() != DType::kF32 && t->dtype() != DType::kBF16) {
      refuse_dtype(op, t->dtype());
    }
  }
}

void require_f32(const char* op, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors) {
    if (!t->defined() || t->dtype() == DType::kF32) continue;
    throw_error(ExitCode::kConfig, "[{}] expected f32, got {}", op, t->dtype());
  }
}

Session::Session(cudaStream_t s, const SessionOptions& o) : stream(s), options(o) {
  int device = 0;
  DSV_CUDA(cudaGetDevice(&device));
  DSV_CUDA(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device));
  DSV_CUDA(
      cudaDeviceGetAttribute(&max_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  int l2 = 0;
  DSV_CUDA(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device));
  l2_bytes = l2;
}

Session::~Session() {
  cudaStreamSynchronize(stream);
  cudaFree(block_);
}

void* Session::scratch(std::int64_t bytes) {
  if (bytes > capacity_) {
    // cudaFree waits for the device, so that no kernel loses the old block.
    DSV_CUDA(cudaFree(block_));
    block_ = nullptr;
    capacity_ = 0;
    const std::int64_t rounded = round_up(bytes, 1 << 20);
    DSV_CUDA(cudaMalloc(&block_, static_cast<std::size_t>(rounded)));
    capacity_ = rounded;
  }
  return block_;
}

}  // namespace cuda

std::shared_ptr<void> make_session(const Stream& stream, const SessionOptions& options) {
  if (stream.device.kind == DeviceKind::kCpu) return nullptr;
  return std::make_shared<cuda::Session>(cuda::native(stream), options);
}

}  // namespace dsv::kernels
