#include <cmath>

#include "dsv/base/error.h"
#include "dsv/base/nearest.h"
#include "dsv/model/dit_config.h"

namespace dsv::model {
namespace {

// The paper's family: 4-channel latents of the Stable Diffusion VAE, learned sigma, 120 rows of
// T5-XXL. Position embeddings have unit spacing at 512 x 512 pixels: 512 / 8 / patch 2 = 32 tokens.
// eps is that of the affine block norms; the head's is fixed at 1e-6.
DitConfig dsv_family(std::int64_t layers, std::int64_t heads, std::int64_t head_dim,
                     FeedForward ffn) {
  return {.family = Family::kDsv,
          .num_layers = layers,
          .num_heads = heads,
          .head_dim = head_dim,
          .ffn_dim = 4 * heads * head_dim,
          .ffn = ffn,
          .in_channels = 4,
          .out_channels = 8,
          .learn_sigma = true,
          .text_dim = 4096,
          .text_len = 120,
          .eps = 1e-5f,
          .cross_attn_norm = false,
          .qk_norm = false,
          .pos_base_size = {32, 32}};
}

// Wan2.1 text-to-video: 16-channel latents, 512 rows of UMT5-XXL.
DitConfig wan_family(std::int64_t layers, std::int64_t heads, std::int64_t ffn_dim) {
  return {.num_layers = layers,
          .num_heads = heads,
          .head_dim = 128,
          .ffn_dim = ffn_dim,
          .in_channels = 16,
          .out_channels = 16,
          .text_dim = 4096,
          .text_len = 512};
}

struct Preset {
  const char* name;
  DitConfig config;
};

// tiny-cpu is the struct's own defaults: 96 = 3 * 4^2 * 2 channels of the built-in wavelet latents.
const std::vector<Preset>& presets() {
  static const std::vector<Preset> kPresets{
      {"tiny-cpu", {}},
      {"dsv-0.8b", dsv_family(28, 12, 96, FeedForward::kGeglu)},
      {"dsv-2.7b", dsv_family(32, 16, 128, FeedForward::kGeglu)},
      {"dsv-30b", dsv_family(42, 24, 256, FeedForward::kGeluTanh)},
      {"wan-1.3b", wan_family(30, 12, 8960)},
      {"wan-14b", wan_family(40, 40, 13824)},
  };
  return kPresets;
}

// Errors begin with the field's path, so that the configuration reader can add file and line.
template <typename... Args>
void require(bool holds, const char* field, std::string_view pattern, const Args&... args) {
  if (!holds) throw_error(ExitCode::kConfig, "model.{}: {}", field, format(pattern, args...));
}

void require_in(std::int64_t value, std::int64_t low, std::int64_t high, const char* field) {
  require(value >= low && value <= high, field, "expected {} … {}, got {}", low, high, value);
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& p : presets()) names.emplace_back(p.name);
  return names;
}

DitConfig preset(const std::string& name) {
  for (const Preset& p : presets()) {
    if (name != p.name) continue;
    DitConfig config = p.config;
    config.preset = name;
    return config;
  }
  const std::string nearest = nearest_name(name, preset_names());
  throw_error(ExitCode::kConfig, "model.preset: expected {}, got '{}'{}",
              join_names(preset_names()), name,
              nearest.empty() ? "" : "; did you mean " + nearest + "?");
}

void validate(const DitConfig& c) {
  preset(c.preset);
  require_in(c.num_layers, 1, 1024, "num_layers");
  require_in(c.num_heads, 1, 1024, "num_heads");
  require_in(c.head_dim, 2, 256, "head_dim");
  require(c.head_dim % 2 == 0, "head_dim", "expected an even number, got {}", c.head_dim);
  require_in(c.ffn_dim, 1, 1 << 20, "ffn_dim");
  require_in(c.in_channels, 1, 1 << 16, "in_channels");
  require_in(c.out_channels, 1, 1 << 17, "out_channels");
  const std::int64_t factor = c.learn_sigma ? 2 : 1;
  require(c.out_channels == factor * c.in_channels, "out_channels",
          "expected {} ({} model.in_channels {} learn_sigma), got {}", factor * c.in_channels,
          c.learn_sigma ? "twice" : "equal to", c.learn_sigma ? "with" : "without", c.out_channels);
  for (const std::int64_t size : c.patch_size) require_in(size, 1, 64, "patch_size");
  require_in(c.text_dim, 1, 1 << 17, "text_dim");
  require_in(c.text_len, 1, 1 << 14, "text_len");
  require_in(c.freq_dim, 2, 1 << 14, "freq_dim");
  require(c.freq_dim % 2 == 0, "freq_dim", "expected an even number, got {}", c.freq_dim);
  require(std::isfinite(c.eps) && c.eps > 0 && c.eps <= 1e-2f, "eps",
          "expected above 0 and at most 0.01, got {}", c.eps);
  for (const std::int64_t size : c.pos_base_size) require_in(size, 1, 1 << 16, "pos_base_size");
  require(std::isfinite(c.pos_interpolation_scale) && c.pos_interpolation_scale > 0,
          "pos_interpolation_scale", "expected a number above 0, got {}",
          c.pos_interpolation_scale);
  if (c.family == Family::kWan) return;

  require(c.width() % 4 == 0, "num_heads",
          "expected num_heads * head_dim to be a multiple of 4, as rows and columns share the dsv "
          "family's sin-cos embedding, got {} * {}",
          c.num_heads, c.head_dim);
  require(c.patch_size[0] == 1, "patch_size",
          "expected 1 latent frame per token in the dsv family, got {}", c.patch_size[0]);
  require(!c.qk_norm, "qk_norm", "expected false in the dsv family, which has no norm of q and k");
  require(!c.cross_attn_norm, "cross_attn_norm",
          "expected false in the dsv family, which has no norm before cross-attention");
}

}  // namespace dsv::model
