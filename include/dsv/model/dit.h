// The video Diffusion Transformer: latents, time, and text in; prediction out.
#pragma once

#include <map>

#include "dsv/model/dit_block.h"
#include "dsv/model/embeddings.h"

namespace dsv::model {

// One micro-batch on the compute device, f32.
struct DitInputs {
  Tensor latents;    // [B, C_in, T, H, W]
  Tensor timesteps;  // [B], 0…1000
  Tensor text;       // [B, L, text_dim], rows beyond a caption are zero
  Tensor text_mask;  // [B, L], 1 where a row is text; used by the dsv family
  // What self-attention attends to; null: everything. It must outlive the tape.
  sparsity::Controller* attention = nullptr;
};

class Dit {
 public:
  explicit Dit(DitConfig config);

  // Declares all parameters: unit "embedding", one unit a block, unit "head".
  void declare(autograd::ParamStore& store) const;
  // Binds to the store's tensors: after allocate.
  void bind(const autograd::ParamStore& store);

  // The prediction [B, C_out, T, H, W] in f32.
  autograd::Variable forward(const autograd::Context& ctx, const DitInputs& inputs);

  const DitConfig& config() const { return config_; }
  // T, H, W in tokens and the checks of a latent's shape; throws Error(kConfig).
  autograd::PatchGeometry geometry(const Shape& latents) const;

 private:
  struct Positions {
    autograd::RopeTables rope;
    Tensor sincos;
  };
  // How many of the last blocks are recorded whole for batches of one shape, and what that is known
  // from.
  struct Recording {
    std::int64_t num_passes = 0;  // forward passes so far
    std::int64_t num_whole = 1;
    std::int64_t whole_bytes = 0;       // that a block keeps when it is recorded whole
    std::int64_t checkpoint_bytes = 0;  // and when it is not
  };
  Recording& plan_recording(const autograd::Context& ctx, const Shape& latents);
  const Positions& positions(const autograd::Context& ctx, const autograd::PatchGeometry& geometry,
                             const sparsity::SequenceLayout* layout);
  autograd::Variable embed_tokens(const autograd::Context& ctx, const Tensor& latents,
                                  const autograd::PatchGeometry& geometry,
                                  const sparsity::SequenceLayout* layout);

  DitConfig config_;
  Names names_;
  autograd::Param patch_weight_, patch_bias_;
  autograd::Param time_1_weight_, time_1_bias_, time_2_weight_, time_2_bias_;
  autograd::Param time_proj_weight_, time_proj_bias_;
  autograd::Param text_1_weight_, text_1_bias_, text_2_weight_, text_2_bias_;
  autograd::Param head_table_, head_weight_, head_bias_;
  std::vector<BlockParams> blocks_;
  // By token grid and order.
  std::map<std::pair<std::array<std::int64_t, 3>, const sparsity::SequenceLayout*>, Positions>
      positions_;
  std::map<std::array<std::int64_t, 4>, Recording> recordings_;  // by batch and latent grid
};

}  // namespace dsv::model
