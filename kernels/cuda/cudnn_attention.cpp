#include "cuda/cudnn_attention.h"

#include <utility>

#include "dsv/base/check_math.h"

namespace dsv::kernels::cuda::cudnn {
namespace {

// cuDNN's order of dimensions is B, H, S, D.
Dims rows(const AttentionShape& s, std::int64_t S) {
  return {s.B, s.H, S, s.D};
}
Dims scores(const AttentionShape& s) {
  return {s.B, s.H, s.Sq, s.Skv};
}
Dims column(const AttentionShape& s) {
  return {s.B, s.H, s.Sq, 1};
}
Dims transposed(Dims dims) {
  std::swap(dims[2], dims[3]);
  return dims;
}
Dims strides_of(const Strides& s) {
  return {s[0], s[2], s[1], 1};
}

void add_rows(Graph& g, Id id, const AttentionShape& s, std::int64_t S, const Strides& strides) {
  g.tensor(id, CUDNN_DATA_BFLOAT16, rows(s, S), strides_of(strides));
}
void add_transposed(Graph& g, Id id, const AttentionShape& s, std::int64_t S,
                    const Strides& strides) {
  g.tensor(id, CUDNN_DATA_BFLOAT16, transposed(rows(s, S)), transposed(strides_of(strides)));
}
void add_column(Graph& g, Id id, const AttentionShape& s) {
  g.tensor(id, CUDNN_DATA_FLOAT, column(s), contiguous_strides(column(s)));
}

// One operation. Spelled out as two products around a softmax it becomes the same kernel.
Graph forward(const AttentionShape& s) {
  Graph g;
  add_rows(g, kQ, s, s.Sq, s.q);
  add_rows(g, kK, s, s.Skv, s.k);
  add_rows(g, kV, s, s.Skv, s.v);
  add_rows(g, kO, s, s.Sq, s.o);
  add_column(g, kLse, s);
  g.scalar(kScale);
  Descriptor attention(CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
  attention.set(CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, g.descriptor(kQ));
  attention.set(CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, g.descriptor(kK));
  attention.set(CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, g.descriptor(kV));
  attention.set(CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, g.descriptor(kO));
  attention.set(CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, g.descriptor(kLse));
  attention.set(CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, g.descriptor(kScale));
  g.operation(std::move(attention));
  return g;
}

// The formulas of dsv/kernels/attention.h in the form that cuDNN has a pattern for. There is one
// operation for the backward too, but 9.19 takes no graph with it.
Graph backward(const AttentionShape& s, bool deterministic) {
  Graph g;
  add_rows(g, kQ, s, s.Sq, s.q);
  add_transposed(g, kK, s, s.Skv, s.k);
  add_transposed(g, kV, s, s.Skv, s.v);
  add_rows(g, kO, s, s.Sq, s.o);
  add_rows(g, kDO, s, s.Sq, s.d_o);
  add_rows(g, kDQ, s, s.Sq, s.dq);
  add_rows(g, kDK, s, s.Skv, s.dk);
  add_rows(g, kDV, s, s.Skv, s.dv);
  add_column(g, kLse, s);
  add_column(g, kDelta, s);
  g.scalar(kScale);
  g.scalar(kOne);
  const Dims keys_first = transposed(scores(s));
  const Dims keys_first_strides = transposed(contiguous_strides(scores(s)));

  // The factor is dropout's in the pattern.
  const Id o_do = g.pointwise(CUDNN_POINTWISE_MUL, kDO, kO, g.inner(rows(s, s.Sq)));
  const Id sum = g.reduce(CUDNN_REDUCE_TENSOR_ADD, o_do, g.inner(column(s)));
  g.pointwise(CUDNN_POINTWISE_MUL, sum, kOne, kDelta);

  const Id qk = g.matmul(kQ, kK, g.inner(scores(s)));
  const Id logits = g.pointwise(CUDNN_POINTWISE_MUL, qk, kScale, g.inner(scores(s)));
  const Id log_p = g.pointwise(CUDNN_POINTWISE_SUB, logits, kLse, g.inner(scores(s)));
  const Id p = g.pointwise(CUDNN_POINTWISE_EXP, log_p, g.inner(scores(s)));
  const Id p_t = g.reshape(p, g.inner(keys_first, keys_first_strides, CUDNN_DATA_BFLOAT16));
  g.matmul(p_t, kDO, kDV);

  const Id dp = g.matmul(kDO, kV, g.inner(scores(s)));
  const Id centred = g.pointwise(CUDNN_POINTWISE_SUB, dp, kDelta, g.inner(scores(s)));
  const Id dlogits = g.pointwise(CUDNN_POINTWISE_MUL, centred, p, g.inner(scores(s)));
  const Id ds = g.pointwise(CUDNN_POINTWISE_MUL, dlogits, kScale, g.inner(scores(s)));
  const Id ds_t = g.reshape(ds, g.inner(keys_first, keys_first_strides, CUDNN_DATA_BFLOAT16));
  g.matmul(ds_t, kQ, kDK);

  const Id k = g.reshape(kK, g.inner(rows(s, s.Skv), strides_of(s.k), CUDNN_DATA_BFLOAT16));
  if (deterministic) {
    g.matmul(ds, k, kDQ);
  } else {
    g.tensor(kDQSum, CUDNN_DATA_FLOAT, rows(s, s.Sq), contiguous_strides(rows(s, s.Sq)));
    g.matmul(ds, k, kDQSum);
    g.pointwise(CUDNN_POINTWISE_IDENTITY, kDQSum, kDQ);
  }
  return g;
}

}  // namespace

std::string to_string(const AttentionShape& s) {
  return format("B {}, H {}, Sq {}, Skv {}, D {}", s.B, s.H, s.Sq, s.Skv, s.D);
}

std::string to_string(AttentionGraph kind) {
  switch (kind) {
    case AttentionGraph::kForward:
      return "forward";
    case AttentionGraph::kBackwardAtomic:
      return "backward";
    case AttentionGraph::kBackwardDeterministic:
      break;
  }
  return "deterministic backward";
}

Graph attention_graph(AttentionGraph kind, const AttentionShape& shape) {
  if (kind == AttentionGraph::kForward) return forward(shape);
  return backward(shape, kind == AttentionGraph::kBackwardDeterministic);
}

std::int64_t ds_bytes(const AttentionShape& s) {
  return checked_mul(2 * round_up(s.Sq, 64), round_up(s.Skv, 128));
}

}  // namespace dsv::kernels::cuda::cudnn
