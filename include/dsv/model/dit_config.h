// The shape of a video Diffusion Transformer and the switches between its two families. Source:
// Wan2.1 as in diffusers' WanTransformer3DModel; DSV (arXiv 2502.07590), table of models.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv::model {

enum class Family { kWan, kDsv };
enum class FeedForward { kGeluTanh, kGeglu };
// What a block keeps for its backward pass: everything; only its input; its input and the attention
// output with lse, so that everything but attention is computed again. kAuto is kKeepAttention for
// the first blocks and kNone for as many of the last as the device has memory for. The last block
// keeps everything in any case, which costs nothing. Results are the same bits.
enum class Checkpointing { kNone, kBlock, kKeepAttention, kAuto };

struct DitConfig {
  std::string preset = "tiny-cpu";  // where the fields below start from
  Family family = Family::kWan;
  std::int64_t num_layers = 4;
  std::int64_t num_heads = 4;
  std::int64_t head_dim = 32;  // even
  std::int64_t ffn_dim = 512;  // inner width of the feed-forward
  FeedForward ffn = FeedForward::kGeluTanh;
  std::int64_t in_channels = 96;   // latent channels
  std::int64_t out_channels = 96;  // of the prediction; twice in_channels with learn_sigma
  bool learn_sigma = false;        // the second half of the prediction is ignored by the loss
  std::array<std::int64_t, 3> patch_size{1, 2, 2};  // latent frames, rows, columns per token
  std::int64_t text_dim = 64;                       // width of text embeddings
  std::int64_t text_len = 64;                       // rows of text, zero-padded
  std::int64_t freq_dim = 256;                      // sinusoid of the timestep
  float eps = 1e-6f;            // of norms: wan all, dsv the affine block norms are 1e-5
  bool cross_attn_norm = true;  // wan: affine norm before cross-attention
  bool qk_norm = true;          // wan: RMSNorm over the full width of q and k
  // dsv: the token grid for which the fixed position embedding has unit spacing, and its stretch.
  std::array<std::int64_t, 2> pos_base_size{16, 16};
  double pos_interpolation_scale = 1.0;
  Checkpointing checkpointing = Checkpointing::kNone;

  std::int64_t width() const { return num_heads * head_dim; }
};

// "tiny-cpu", "dsv-0.8b", "dsv-2.7b", "dsv-30b", "wan-1.3b", "wan-14b".
std::vector<std::string> preset_names();
// Throws Error(kConfig) that lists the names and the nearest one.
DitConfig preset(const std::string& name);
// Throws Error(kConfig) naming the first field that cannot be built.
void validate(const DitConfig& config);

}  // namespace dsv::model
