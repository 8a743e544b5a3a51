// Session: the state behind Stream::session, and what every cuda filling asks it for.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "cuda/check.h"
#include "dsv/kernels/session.h"
#include "dsv/tensor/device.h"

namespace dsv::kernels::cuda {

struct LinearPlans;     // linear/linear_cuda.cpp: cuBLASLt handle and chosen algorithms
struct AttentionPlans;  // attention/attention_cudnn_cuda.cpp: cuDNN handle and built graphs

struct Session {
  Session(cudaStream_t stream, const SessionOptions& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  cudaStream_t stream;
  SessionOptions options;
  int num_sms = 0;
  int max_shared_bytes = 0;  // per block, with the opt-in
  std::int64_t l2_bytes = 0;
  // Libraries' state, made on first use by the kernels that own it.
  std::shared_ptr<LinearPlans> linear;
  std::shared_ptr<AttentionPlans> attention;
  std::int64_t attention_room =
      0;  // bytes of workspace for deterministic attention; 0: not decided

  // Room for one kernel call: grows to the largest call and stays, so that a steady step allocates
  // nothing. Stream order makes reuse by the next call safe. A call asks once.
  void* scratch(std::int64_t bytes);

 private:
  void* block_ = nullptr;
  std::int64_t capacity_ = 0;
};

inline Session& session_of(const Stream& stream) {
  require_session(stream);
  return *static_cast<Session*>(stream.session);
}
inline cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native);
}
template <typename T>
T* scratch(const Stream& stream, std::int64_t num_elements) {
  return static_cast<T*>(
      session_of(stream).scratch(num_elements * static_cast<std::int64_t>(sizeof(T))));
}

}  // namespace dsv::kernels::cuda
