// The cuda filling of attention is several kernels behind one entry (attention_cuda.cpp chooses):
// cuDNN's, where it takes the shape and keeps the promise of determinism; ours on tensor cores for
// every other bf16 shape; plain f32 for parity.
#pragma once

#include "cuda/session.h"
#include "dsv/kernels/attention.h"

namespace dsv::kernels::cuda {

// attention_simt_cuda.cu: f32, any head dim up to 256, any strides, key bias. Deterministic.
void attention_forward_simt(const AttentionForward& args, const Stream& stream);
void attention_backward_simt(const AttentionBackward& args, const Stream& stream);

// attention_mma_cuda.cu, attention_mma_backward_cuda.cu: bf16 on tensor cores, any head dim up to
// 256, any strides, key bias. Deterministic: dq by query tiles, dk and dv by key tiles, one writer.
void attention_forward_mma(const AttentionForward& args, const Stream& stream);
void attention_backward_mma(const AttentionBackward& args, const Stream& stream);

// attention_cudnn_cuda.cpp: cuDNN's fused attention for bf16 without key bias. Graphs are built
// once per shape and kept in the session. False, with nothing done, where cuDNN has no kernel for
// the shape and strides.
bool attention_forward_cudnn(const AttentionForward& args, const Stream& stream);
// With session options deterministic: cuDNN's deterministic algorithm, which wants 2·Sq·Skv bytes
// of workspace for each head of a call. What it computes does not depend on how many heads a call
// takes.
struct DeterministicRoom {
  std::int64_t most_for_one_head = 0;  // false for shapes whose heads want more
  std::int64_t bytes = 0;              // heads per call: as many as fit, at least one
};
bool attention_backward_cudnn(const AttentionBackward& args, const Stream& stream,
                              const DeterministicRoom& room);

}  // namespace dsv::kernels::cuda
