// The one list of kernels: declared here, filled by the reference, cpu, and cuda tables.
#pragma once

#include <span>
#include <string_view>

#include "dsv/kernels/activation.h"
#include "dsv/kernels/adamw.h"
#include "dsv/kernels/attention.h"
#include "dsv/kernels/bit_transpose.h"
#include "dsv/kernels/broadcast_add.h"
#include "dsv/kernels/elementwise.h"
#include "dsv/kernels/flow_mix.h"
#include "dsv/kernels/gated_residual.h"
#include "dsv/kernels/gather_rows.h"
#include "dsv/kernels/geglu.h"
#include "dsv/kernels/layer_norm.h"
#include "dsv/kernels/linear.h"
#include "dsv/kernels/mse_loss.h"
#include "dsv/kernels/patchify.h"
#include "dsv/kernels/random_fill.h"
#include "dsv/kernels/reduce.h"
#include "dsv/kernels/rms_norm.h"
#include "dsv/kernels/rope.h"
#include "dsv/kernels/score_stats.h"
#include "dsv/kernels/segment_mean.h"
#include "dsv/kernels/select_blocks.h"
#include "dsv/kernels/sparse_attention.h"
#include "dsv/kernels/timestep_embedding.h"

// X(entry, argument struct): adding a kernel starts with a line here.
#define DSV_KERNEL_LIST(X)                              \
  X(linear_forward, LinearForward)                      \
  X(linear_backward, LinearBackward)                    \
  X(attention_forward, AttentionForward)                \
  X(attention_backward, AttentionBackward)              \
  X(sparse_attention_forward, SparseAttentionForward)   \
  X(sparse_attention_backward, SparseAttentionBackward) \
  X(bit_transpose, BitTranspose)                        \
  X(select_blocks, SelectBlocks)                        \
  X(score_stats, ScoreStats)                            \
  X(predictor_backward, PredictorBackward)              \
  X(attention_profile, AttentionProfile)                \
  X(segment_mean, SegmentMean)                          \
  X(gather_rows, GatherRows)                            \
  X(layer_norm_forward, LayerNormForward)               \
  X(layer_norm_backward, LayerNormBackward)             \
  X(rms_norm_forward, RmsNormForward)                   \
  X(rms_norm_backward, RmsNormBackward)                 \
  X(gated_residual_forward, GatedResidualForward)       \
  X(gated_residual_backward, GatedResidualBackward)     \
  X(activation_forward, ActivationForward)              \
  X(activation_backward, ActivationBackward)            \
  X(geglu_forward, GegluForward)                        \
  X(geglu_backward, GegluBackward)                      \
  X(rope, Rope)                                         \
  X(patchify, Patchify)                                 \
  X(unpatchify, Patchify)                               \
  X(timestep_embedding, TimestepEmbedding)              \
  X(broadcast_add_forward, BroadcastAddForward)         \
  X(broadcast_add_backward, BroadcastAddBackward)       \
  X(fill, Fill)                                         \
  X(axpby, Axpby)                                       \
  X(cast, Cast)                                         \
  X(random_fill, RandomFill)                            \
  X(sum_squares, SumSquares)                            \
  X(mse_loss_forward, MseLossForward)                   \
  X(mse_loss_backward, MseLossBackward)                 \
  X(flow_mix, FlowMix)                                  \
  X(adamw, AdamW)

namespace dsv::kernels {

// Shapes, strides, and dtypes are checked by autograd::functions (or the caller), not by the
// kernels.
struct KernelTable {
  const char* name;  // "reference" | "cpu" | "cuda"
#define DSV_DECLARE_ENTRY(entry, Args) void (*entry)(const Args&, const Stream&) = nullptr;
  DSV_KERNEL_LIST(DSV_DECLARE_ENTRY)
#undef DSV_DECLARE_ENTRY
};

// One loop nest per kernel in double accumulation, single-threaded: the oracle of the other tables.
const KernelTable& reference_kernels();
// SIMD and threads, chosen at run time for this processor.
const KernelTable& cpu_kernels();
// On one GPU, asynchronous on the stream, which must carry a session (dsv/kernels/session.h). Throws
// Error(kEnvironment) in a build without CUDA.
const KernelTable& cuda_kernels();

// Names of the entries a table leaves empty, for the support test and error messages.
struct EntryName {
  const char* name;
  bool filled;
};
std::size_t num_kernels();
EntryName kernel_entry(const KernelTable& table, std::size_t i);

// What `cpu_kernels` runs on here: "AVX-512", "AVX2", "portable".
std::string_view cpu_isa_name();

}  // namespace dsv::kernels
