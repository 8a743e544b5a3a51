// From prompts to videos: text embedding, the sampler, latents back to frames, files.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dsv/data/latent_recipe.h"
#include "dsv/data/text.h"
#include "dsv/diffusion/flow_config.h"
#include "dsv/model/dit.h"

namespace dsv::train {

// What a prompt becomes: how the training set encoded text and latents.
struct Codec {
  data::LatentRecipe latents;
  std::string text_kind = "hash";  // any other encoder's prompts cannot be embedded here
  data::TextSettings text;
  bool operator==(const Codec&) const = default;
};
Json to_json(const Codec& codec);
Codec codec_from_json(const Json& json, const std::string& where);

struct GenerateRequest {
  std::vector<std::string> prompts;  // one clip each
  std::int64_t height = 64, width = 64, frames = 16;
  int num_steps = 20;
  double cfg_scale = 3.0;
  std::uint64_t seed = 0;  // clip i starts from noise i
  sparsity::Controller* attention = nullptr;  // null: attention to everything
};

struct Generated {
  Tensor latents;             // [B, C, T, H, W] f32 on the host, normalised as the model sees them
  std::vector<Tensor> clips;  // [3, F, H, W] f32 on the host, about [0, 1]
};

// Uses the weights that the dit is bound to, whatever they are. on_step(i, n) follows each model
// step. Throws Error(kConfig) for sizes that the latents or patches do not divide.
Generated generate(const autograd::Context& ctx, model::Dit& dit, const diffusion::FlowConfig& flow,
                   const Codec& codec, const GenerateRequest& request,
                   const std::function<void(int, int)>& on_step = {});

// STEM.mp4 (STEM_0.mp4, … when there are several), STEM.png: a contact sheet with one row per clip.
// Returns the paths, the contact sheet last.
std::vector<std::string> write_generated(const Generated& generated, const std::string& stem,
                                         double fps);

}  // namespace dsv::train
