#include "dsv/model/dit.h"

#include <algorithm>
#include <cmath>

namespace dsv::model {
namespace {

using autograd::Activation;
using autograd::Init;
using autograd::ParamSpec;
using autograd::Variable;

// The dsv family's last norm keeps the small eps whatever its blocks use.
constexpr float kDsvHeadEps = 1e-6f;
// Added to the scores of padded text rows, as PixArt and Latte do: exp() of it is 0 beside any text
// row.
constexpr float kMaskedScore = -1e4f;
// Left free by checkpointing: auto: for libraries, and for blocks that fit no gap.
constexpr std::int64_t kSpareBytes = std::int64_t{3} << 30;

void add_linear(std::vector<ParamSpec>& specs, const std::string& name, const Shape& shape,
                Init init, double init_std) {
  specs.push_back({.name = name + ".weight", .shape = shape, .init = init, .init_std = init_std});
  specs.push_back(
      {.name = name + ".bias", .shape = {shape[0]}, .init = Init::kZeros, .decay = false});
}

std::array<std::int64_t, 3> token_grid(const autograd::PatchGeometry& g) {
  return {g.latent[0] / g.patch[0], g.latent[1] / g.patch[1], g.latent[2] / g.patch[2]};
}

std::vector<TokenPosition> ordered_positions(const sparsity::TokenOrder& order) {
  std::vector<TokenPosition> out;
  for (std::int64_t i = 0; i < order.num_tokens(); ++i) {
    const auto [t, h, w] = order.coordinates(i);
    out.push_back({t, h, w});
  }
  return out;
}

}  // namespace

Dit::Dit(DitConfig config) : config_(std::move(config)), names_(names_of(config_)) {
  validate(config_);
}

void Dit::declare(autograd::ParamStore& store) const {
  const std::int64_t width = config_.width();
  const auto& p = config_.patch_size;
  const bool wan = config_.family == Family::kWan;
  std::vector<ParamSpec> specs;
  add_linear(specs, names_.patch,
             wan ? Shape{width, config_.in_channels, p[0], p[1], p[2]}
                 : Shape{width, config_.in_channels, p[1], p[2]},
             Init::kXavierUniform, 0);
  add_linear(specs, names_.time_1, {width, config_.freq_dim}, Init::kNormal, 0.02);
  add_linear(specs, names_.time_2, {width, width}, Init::kNormal, 0.02);
  add_linear(specs, names_.time_proj, {6 * width, width}, Init::kNormal, 0.02);
  add_linear(specs, names_.text_1, {width, config_.text_dim}, Init::kNormal, 0.02);
  add_linear(specs, names_.text_2, {width, width}, Init::kNormal, 0.02);
  store.add_unit("embedding", specs);

  for (std::int64_t i = 0; i < config_.num_layers; ++i) {
    store.add_unit("block." + std::to_string(i), block_specs(config_, i));
  }

  specs.clear();
  specs.push_back({.name = names_.head_table,
                   .shape = wan ? Shape{1, 2, width} : Shape{2, width},
                   .init = Init::kNormal,
                   .init_std = 1.0 / std::sqrt(static_cast<double>(width)),
                   .decay = false});
  add_linear(specs, names_.head, {config_.out_channels * p[0] * p[1] * p[2], width}, Init::kZeros,
             0);
  store.add_unit("head", specs);
}

void Dit::bind(const autograd::ParamStore& store) {
  const auto linear = [&](const std::string& name, autograd::Param& weight, autograd::Param& bias) {
    weight = store.get(name + ".weight");
    bias = store.get(name + ".bias");
  };
  linear(names_.patch, patch_weight_, patch_bias_);
  linear(names_.time_1, time_1_weight_, time_1_bias_);
  linear(names_.time_2, time_2_weight_, time_2_bias_);
  linear(names_.time_proj, time_proj_weight_, time_proj_bias_);
  linear(names_.text_1, text_1_weight_, text_1_bias_);
  linear(names_.text_2, text_2_weight_, text_2_bias_);
  linear(names_.head, head_weight_, head_bias_);
  head_table_ = store.get(names_.head_table);
  blocks_.clear();
  for (std::int64_t i = 0; i < config_.num_layers; ++i) {
    blocks_.push_back(bind_block(config_, store, i));
  }
}

autograd::PatchGeometry Dit::geometry(const Shape& latents) const {
  const auto& p = config_.patch_size;
  const bool fits = latents.num_dims() == 5 && latents[1] == config_.in_channels &&
                    latents[2] % p[0] == 0 && latents[3] % p[1] == 0 && latents[4] % p[2] == 0;
  if (!fits) {
    throw_error(
        ExitCode::kConfig,
        "[model] expected latents [B, {}, T, H, W] in multiples of the patch {}x{}x{}, got {}; "
        "model.in_channels and model.patch_size must fit the shards",
        config_.in_channels, p[0], p[1], p[2], latents);
  }
  return {.patch = p, .latent = {latents[2], latents[3], latents[4]}};
}

// The last block is recorded whole in any case: its backward comes at once, so that it would be
// recomputed into the very memory that recording it takes. `auto` records as many more as find room
// in what the first pass of this shape, and all others, have left.
Dit::Recording& Dit::plan_recording(const autograd::Context& ctx, const Shape& latents) {
  Recording& r = recordings_[{latents[0], latents[2], latents[3], latents[4]}];
  if (ctx.tape == nullptr) return r;
  if (config_.checkpointing == Checkpointing::kAuto && r.num_passes == 1) {
    const std::int64_t room = ctx.arena.headroom() - kSpareBytes;
    const std::int64_t each = r.whole_bytes - r.checkpoint_bytes;
    const auto all = static_cast<std::int64_t>(blocks_.size());
    if (room > 0 && each > 0) r.num_whole = std::min(all, 1 + room / each);
  }
  ++r.num_passes;
  return r;
}

const Dit::Positions& Dit::positions(const autograd::Context& ctx,
                                     const autograd::PatchGeometry& geometry,
                                     const sparsity::SequenceLayout* layout) {
  const std::array<std::int64_t, 3> grid = token_grid(geometry);
  const auto found = positions_.find({grid, layout});
  if (found != positions_.end()) return found->second;
  const auto tokens = layout != nullptr ? ordered_positions(layout->order)
                                        : raster_positions(grid[0], grid[1], grid[2]);
  Positions made;
  if (config_.family == Family::kWan) {
    made.rope = rope_tables(ctx, tokens, config_.head_dim);
  } else {
    made.sincos = sincos_positions(ctx, tokens, grid[1], grid[2], config_);
  }
  return positions_.emplace(std::pair(grid, layout), std::move(made)).first->second;
}

Variable Dit::embed_tokens(const autograd::Context& ctx, const Tensor& latents,
                           const autograd::PatchGeometry& geometry,
                           const sparsity::SequenceLayout* layout) {
  // Patches are narrower than tokens: the order is changed here, and back behind the head.
  Variable patches(autograd::patchify(ctx, latents, geometry, false));
  if (layout != nullptr) {
    patches = autograd::permute_rows(ctx, patches, layout->to_order, layout->to_raster);
  }
  const Variable x = autograd::linear(ctx, patches, patch_weight_, patch_bias_);
  const Positions& at = positions(ctx, geometry, layout);
  return at.sincos.defined() ? autograd::broadcast_add(ctx, x, at.sincos) : x;
}

Variable Dit::forward(const autograd::Context& ctx, const DitInputs& inputs) {
  const autograd::PatchGeometry patches = geometry(inputs.latents.shape());
  const sparsity::SequenceLayout* const layout =
      inputs.attention != nullptr ? inputs.attention->layout(ctx, token_grid(patches)) : nullptr;
  const std::int64_t batch = inputs.latents.dim(0), width = config_.width();
  DSV_CHECK(inputs.timesteps.shape() == Shape{batch}, "[dit] expected {} timesteps, got {}", batch,
            inputs.timesteps.shape());
  DSV_CHECK(inputs.text.num_dims() == 3 && inputs.text.dim(0) == batch &&
                inputs.text.dim(2) == config_.text_dim,
            "[dit] expected text [{}, L, {}], got {}", batch, config_.text_dim,
            inputs.text.shape());

  // Time in f32 throughout: it drives every modulation.
  const Variable sinusoid(ctx.arena.empty({batch, config_.freq_dim}));
  ctx.kernels.timestep_embedding({.t = inputs.timesteps, .y = sinusoid.value()}, ctx.stream);
  const Variable hidden =
      autograd::linear(ctx, sinusoid, time_1_weight_, time_1_bias_, Activation::kSilu);
  const Variable time = autograd::linear(ctx, hidden, time_2_weight_, time_2_bias_);
  const Variable projected = autograd::linear(
      ctx, autograd::activation(ctx, time, Activation::kSilu), time_proj_weight_, time_proj_bias_);

  const Variable text_in = autograd::cast(ctx, Variable(inputs.text), ctx.compute_dtype);
  const Variable text = autograd::linear(
      ctx, autograd::linear(ctx, text_in, text_1_weight_, text_1_bias_, Activation::kGeluTanh),
      text_2_weight_, text_2_bias_);

  BlockInputs shared{.modulation = autograd::reshape(ctx, projected, {batch, 6, width}),
                     .text = text,
                     .rope = positions(ctx, patches, layout).rope,
                     .attention = inputs.attention,
                     .layout = layout};
  if (config_.family == Family::kDsv) {
    // (1 - mask) * kMaskedScore
    shared.text_bias = ctx.arena.like(inputs.text_mask);
    ctx.kernels.fill({.y = shared.text_bias, .value = kMaskedScore}, ctx.stream);
    ctx.kernels.axpby({.x = inputs.text_mask, .y = shared.text_bias, .a = -kMaskedScore, .b = 1},
                      ctx.stream);
  }

  Variable x = embed_tokens(ctx, inputs.latents, patches, layout);
  Recording& recording = plan_recording(ctx, inputs.latents.shape());
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const BlockParams& params = blocks_[i];
    const auto layer = static_cast<std::int64_t>(i);
    const std::int64_t held = ctx.arena.stats().in_use_bytes;
    if (config_.checkpointing == Checkpointing::kNone ||
        static_cast<std::int64_t>(blocks_.size() - i) <= recording.num_whole) {
      x = dit_block(ctx, config_, layer, params, x, shared);
      if (ctx.tape != nullptr) recording.whole_bytes = ctx.arena.stats().in_use_bytes - held;
      continue;
    }
    BlockInputs constants = shared;  // the rest are the region's inputs
    constants.modulation = constants.text = {};
    const auto region = [this, layer, &params, constants](const autograd::Context& c,
                                                          const std::vector<Variable>& in) {
      BlockInputs all = constants;
      all.modulation = in[1];
      all.text = in[2];
      return dit_block(c, config_, layer, params, in[0], all);
    };
    x = autograd::checkpoint(ctx, {x, shared.modulation, shared.text}, region,
                             config_.checkpointing != Checkpointing::kBlock);
    if (ctx.tape != nullptr) recording.checkpoint_bytes = ctx.arena.stats().in_use_bytes - held;
  }

  const Variable head_mod =
      autograd::broadcast_add(ctx, autograd::repeat_rows(ctx, time, 2), head_table_);
  const float eps = config_.family == Family::kWan ? config_.eps : kDsvHeadEps;
  const Variable normed = autograd::layer_norm(
      ctx, x, {}, {}, {.table = head_mod, .shift_idx = 0, .scale_idx = 1}, eps);
  Variable tokens = autograd::linear(ctx, normed, head_weight_, head_bias_);
  if (layout != nullptr) {
    tokens = autograd::permute_rows(ctx, tokens, layout->to_raster, layout->to_order);
  }
  return autograd::unpatchify(ctx, tokens, patches, config_.out_channels);
}

}  // namespace dsv::model
