#include "dsv/train/dry_run.h"

#include <filesystem>

#include "dsv/data/shard_format.h"
#include "dsv/model/dit.h"
#include "dsv/model/flops.h"

namespace dsv::train {
namespace {

std::string human(double value, const char* unit, double base) {
  static constexpr const char* kPrefixes[] = {"", "K", "M", "G", "T", "P", "E"};
  int i = 0;
  while (value >= base && i < 6) {
    value /= base;
    ++i;
  }
  return format("{:.4g} {}{}{}", value, kPrefixes[i], base == 1024 && i > 0 ? "i" : "", unit);
}

// Pixels and frames that one latent position stands for. 96 channels of wavelets: 4 x 4 pixels, 2
// frames.
struct Factors {
  std::int64_t pixels = 4, frames = 2;
  std::string source = "assumed from model.in_channels";
};

// The shards know, where there are some; else what is usual for this number of channels.
Factors factors_of(const Config& config) {
  const std::string& shards = config.data.shards;
  if (!shards.empty() && std::filesystem::exists(shards)) {
    const data::LatentRecipe recipe = data::read_index(shards).latent;
    if (recipe.kind == "haar") {
      return {recipe.wavelet.pixel_factor(), recipe.wavelet.frame_factor(), "as in " + shards};
    }
  }
  const std::int64_t channels = config.model.in_channels;
  for (std::int64_t s = 1; s <= 32; s *= 2) {
    for (std::int64_t t = 1; t <= 16; t *= 2) {
      // The most common recipe of a channel count comes first: frames halved once.
      if (3 * s * s * t == channels && t == 2) return {.pixels = s, .frames = t};
    }
  }
  if (channels == 16) return {.pixels = 8, .frames = 4};
  if (channels == 4) return {.pixels = 8, .frames = 1};
  return {};
}

}  // namespace

MemoryEstimate estimate_memory(const Config& config, std::int64_t tokens) {
  autograd::ParamStore store;
  model::Dit(config.model).declare(store);
  MemoryEstimate out;
  // f32 masters, gradients, both moments, and the EMA; with bf16 the copy that is computed with,
  // too.
  const bool bf16 = config.precision.compute == Compute::kBF16;
  out.state_bytes = store.num_params() * (4 * (config.optim.ema ? 5 : 4) + (bf16 ? 2 : 0));
  const std::int64_t element = bf16 ? 2 : 4;
  const std::int64_t C = config.model.width(), F = config.model.ffn_dim,
                     L = config.model.num_layers;
  const std::int64_t rows = tokens * config.data.micro_batch;
  const bool geglu = config.model.ffn == model::FeedForward::kGeglu;
  // Per token of one recorded block: three norms, three residual sums, q k v, normed q and k, o
  // twice (self, cross), cross q and its norm, two projections, and the feed-forward's inner
  // tensors.
  const std::int64_t block = rows * element * (15 * C + (geglu ? 3 : 2) * F);
  // What auto records beyond keep_attention is what is free.
  const bool keeps_attention = config.model.checkpointing == model::Checkpointing::kKeepAttention ||
                               config.model.checkpointing == model::Checkpointing::kAuto;
  const std::int64_t kept = keeps_attention ? rows * element * 2 * C : rows * element * C;
  out.activation_bytes =
      config.model.checkpointing == model::Checkpointing::kNone ? L * block : L * kept + block;
  return out;
}

std::string dry_run_report(const Config& config) {
  autograd::ParamStore store;
  model::Dit(config.model).declare(store);
  const Factors factors = factors_of(config);
  const auto& patch = config.model.patch_size;
  std::string out;
  out += format("parameters        {} ({})\n", store.num_params(),
                human(static_cast<double>(store.num_params()), "", 1000));
  out += format("model             {} blocks, {} heads x {}, feed-forward {}\n",
                config.model.num_layers, config.model.num_heads, config.model.head_dim,
                config.model.ffn_dim);
  std::vector<data::Bucket> buckets = config.data.buckets;
  if (buckets.empty()) {
    out += "buckets           found in the shards; shown for 64x64, 16 frames\n";
    buckets.push_back({.batch = config.data.batch});
  }
  out += format("latents           {}x{} pixels and {} frames a position ({})\n\n", factors.pixels,
                factors.pixels, factors.frames, factors.source);
  out += format("{:>12} {:>7} {:>9} {:>7} {:>14} {:>10} {:>12} {:>14}\n", "bucket", "frames",
                "tokens", "batch", "FLOPs/step", "attention", "state/rank", "activations");
  for (const data::Bucket& b : buckets) {
    const std::int64_t latent_frames = (b.frames + factors.frames - 1) / factors.frames;
    const std::int64_t tokens = latent_frames / patch[0] * (b.height / factors.pixels / patch[1]) *
                                (b.width / factors.pixels / patch[2]);
    const model::Flops flops = model::model_flops(config.model, tokens);
    const MemoryEstimate memory = estimate_memory(config, tokens);
    out += format("{:>12} {:>7} {:>9} {:>7} {:>14} {:>9.1f}% {:>12} {:>14}\n",
                  format("{}x{}", b.height, b.width), b.frames, tokens, b.batch,
                  human(flops.step() * static_cast<double>(b.batch), "FLOP", 1000),
                  100 * flops.self_attention / flops.forward(),
                  human(static_cast<double>(memory.state_bytes), "B", 1024),
                  human(static_cast<double>(memory.activation_bytes), "B", 1024));
  }
  return out;
}

}  // namespace dsv::train
