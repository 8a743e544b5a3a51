// Which kernel runs an attention call on CUDA.
#include "attention/attention_cuda.h"

#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;
// Shapes whose heads want more workspace than this in cuDNN's deterministic backward take our own
// two passes, which need none. The shape alone decides, so that a run repeats its bits whatever
// memory is free.
constexpr std::int64_t kMostForOneHead = std::int64_t{16} << 30;

// Half of what is free when the first step has come as far as a backward, by which time nearly all
// memory that a step uses is taken.
std::int64_t deterministic_room(const Stream& stream) {
  Session& session = session_of(stream);
  if (session.attention_room == 0) {
    std::size_t free = 0, total = 0;
    DSV_CUDA(cudaMemGetInfo(&free, &total));
    session.attention_room = static_cast<std::int64_t>(free / 2) + 1;
  }
  return session.attention_room;
}

void check(const Tensor& q, const Tensor& k) {
  const std::int64_t D = q.dim(3);
  DSV_CHECK(D <= kMaxHeadDim, "[attention] expected a head dim ≤ {}, got {}", kMaxHeadDim, D);
  require_f32_or_bf16("attention", {&q, &k});
}

}  // namespace

void attention_forward(const AttentionForward& args, const Stream& stream) {
  check(args.q, args.k);
  if (args.q.dtype() == DType::kF32) return attention_forward_simt(args, stream);
  if (!args.key_bias && attention_forward_cudnn(args, stream)) return;
  attention_forward_mma(args, stream);
}

void attention_backward(const AttentionBackward& args, const Stream& stream) {
  check(args.q, args.k);
  if (args.q.dtype() == DType::kF32) return attention_backward_simt(args, stream);
  const DeterministicRoom room{.most_for_one_head = kMostForOneHead,
                               .bytes = deterministic_room(stream)};
  if (!args.key_bias && attention_backward_cudnn(args, stream, room)) return;
  attention_backward_mma(args, stream);
}

}  // namespace dsv::kernels::cuda
