// Attention as graphs that cuDNN's fused engines know. cuDNN matches patterns: which operations
// there are and which tensors have memory decide which engine, if any, takes a graph.
#pragma once

#include <string>

#include "cuda/cudnn_graph.h"

namespace dsv::kernels::cuda::cudnn {

// Strides in elements of B, S, and H; D is contiguous.
using Strides = std::array<std::int64_t, 3>;

struct AttentionShape {
  std::int64_t B = 0, H = 0, Sq = 0, Skv = 0, D = 0;
  Strides q{}, k{}, v{}, o{};       // bf16
  Strides d_o{}, dq{}, dk{}, dv{};  // bf16, of the backward
  auto operator<=>(const AttentionShape&) const = default;
};
std::string to_string(const AttentionShape& shape);

enum class AttentionGraph {
  kForward,
  kBackwardAtomic,         // dq is added up in f32 memory, in whatever order blocks of keys finish
  kBackwardDeterministic,  // ds is kept in memory (ds_bytes) and multiplied with k for dq
};
std::string to_string(AttentionGraph kind);

// The tensors that a graph has pointers for.
enum AttentionId : Id {
  kQ = 1,
  kK,
  kV,
  kO,
  kLse,    // f32 (B, H, Sq), contiguous
  kScale,  // scalar
  kDO,
  kDQ,
  kDK,
  kDV,
  kDelta,  // f32 (B, H, Sq), contiguous: <o, do>, written by the backward
  kOne,    // scalar 1, of the backward
  kDQSum,  // f32 (B, H, Sq, D), contiguous: written by kBackwardAtomic
};

Graph attention_graph(AttentionGraph kind, const AttentionShape& shape);

// What kBackwardDeterministic needs per head of a sample, as cuDNN 9.19 rounds it up to its tiles.
std::int64_t ds_bytes(const AttentionShape& shape);

}  // namespace dsv::kernels::cuda::cudnn
