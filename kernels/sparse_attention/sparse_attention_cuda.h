// The cuda filling of sparse attention is several kernels behind one entry
// (sparse_attention_cuda.cpp chooses). All are deterministic: one writer per result, sums in an
// order that the selection decides.
#pragma once

#include "cuda/session.h"
#include "dsv/kernels/sparse_attention.h"

namespace dsv::kernels::cuda {

// sparse_attention_simt_cuda.cu: f32, any head dim up to 256, any strides.
void sparse_attention_forward_simt(const SparseAttentionForward& args, const Stream& stream);
void sparse_attention_backward_simt(const SparseAttentionBackward& args, const Stream& stream);

// sparse_attention_mma_cuda.cu, sparse_attention_mma_backward_cuda.cu: bf16 on tensor cores, warp
// by warp, any head dim up to 256, any strides.
void sparse_attention_forward_mma(const SparseAttentionForward& args, const Stream& stream);
void sparse_attention_backward_mma(const SparseAttentionBackward& args, const Stream& stream);

// sparse_attention_wgmma_cuda.cu: bf16 on tensor cores, warpgroup by warpgroup, for head dims 64
// and 128 in packable rows. False, with nothing done, for any other shape.
bool sparse_attention_forward_wgmma(const SparseAttentionForward& args, const Stream& stream);
// sparse_attention_wgmma_backward_cuda.cu, _dkdv_, _dq_: the same, for blocks of keys.
bool sparse_attention_backward_wgmma(const SparseAttentionBackward& args, const Stream& stream);

}  // namespace dsv::kernels::cuda
