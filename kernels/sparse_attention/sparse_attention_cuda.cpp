// Which kernel runs a sparse attention call on CUDA. Shapes, strides, and dtypes decide alone.
#include "sparse_attention/sparse_attention_cuda.h"

#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

void check(const Tensor& q, const Tensor& k) {
  const std::int64_t D = q.dim(3);
  DSV_CHECK(D <= kMaxHeadDim, "[sparse_attention] expected a head dim ≤ {}, got {}", kMaxHeadDim,
            D);
  require_f32_or_bf16("sparse_attention", {&q, &k});
}

}  // namespace

void sparse_attention_forward(const SparseAttentionForward& args, const Stream& stream) {
  check(args.q, args.k);
  if (args.q.dtype() == DType::kF32) return sparse_attention_forward_simt(args, stream);
  if (sparse_attention_forward_wgmma(args, stream)) return;
  sparse_attention_forward_mma(args, stream);
}

void sparse_attention_backward(const SparseAttentionBackward& args, const Stream& stream) {
  check(args.q, args.k);
  if (args.q.dtype() == DType::kF32) return sparse_attention_backward_simt(args, stream);
  if (sparse_attention_backward_wgmma(args, stream)) return;
  sparse_attention_backward_mma(args, stream);
}

}  // namespace dsv::kernels::cuda
