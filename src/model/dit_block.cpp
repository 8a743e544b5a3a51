#include "dsv/model/dit_block.h"

#include <cmath>

namespace dsv::model {
namespace {

using autograd::Init;
using autograd::Param;
using autograd::ParamSpec;
using autograd::Variable;

std::string prefix(const Names& names, std::int64_t layer) {
  return names.block + std::to_string(layer) + ".";
}

void add_norm(std::vector<ParamSpec>& specs, const std::string& name, std::int64_t width,
              bool bias) {
  specs.push_back(
      {.name = name + ".weight", .shape = {width}, .init = Init::kOnes, .decay = false});
  if (bias) {
    specs.push_back(
        {.name = name + ".bias", .shape = {width}, .init = Init::kZeros, .decay = false});
  }
}

void add_linear(std::vector<ParamSpec>& specs, const std::string& name, std::int64_t out,
                std::int64_t in, bool bias) {
  specs.push_back({.name = name + ".weight", .shape = {out, in}});
  if (bias) {
    specs.push_back({.name = name + ".bias", .shape = {out}, .init = Init::kZeros, .decay = false});
  }
}

// q, k, v lie side by side, weights and then biases, so that one GEMM makes all three.
void add_attention(std::vector<ParamSpec>& specs, const std::string& name, std::int64_t width,
                   bool qkv_bias, bool qk_norm) {
  for (const char* part : {".to_q", ".to_k", ".to_v"}) {
    add_linear(specs, name + part, width, width, false);
  }
  if (qkv_bias) {
    for (const char* part : {".to_q", ".to_k", ".to_v"}) {
      specs.push_back(
          {.name = name + part + ".bias", .shape = {width}, .init = Init::kZeros, .decay = false});
    }
  }
  add_linear(specs, name + ".to_out.0", width, width, true);
  if (qk_norm) {
    add_norm(specs, name + ".norm_q", width, false);
    add_norm(specs, name + ".norm_k", width, false);
  }
}

std::int64_t ffn_rows(const DitConfig& config) {
  return config.ffn == FeedForward::kGeglu ? 2 * config.ffn_dim : config.ffn_dim;
}

// Asks the run's controller for keys, where there is one with a token order.
autograd::SelectKeys key_selector(const BlockInputs& inputs, std::int64_t layer,
                                  const Variable& h) {
  if (inputs.attention == nullptr || inputs.layout == nullptr) return {};
  return [controller = inputs.attention, layout = inputs.layout, layer, hidden = h.value()](
             const autograd::Context& ctx, const Tensor& q, const Tensor& k) {
    return controller->select(ctx, layer, *layout, {.hidden = hidden, .q = q, .k = k});
  };
}

Variable self_attention(const autograd::Context& ctx, const DitConfig& config, std::int64_t layer,
                        const BlockParams& p, const Variable& h, const BlockInputs& inputs) {
  const Variable qkv = autograd::linear(ctx, h, p.qkv_weight, p.qkv_bias);
  const Variable o = autograd::attention(ctx, qkv, qkv,
                                         {.num_heads = config.num_heads,
                                          .norm_q = p.norm_q,
                                          .norm_k = p.norm_k,
                                          .norm_eps = config.eps,
                                          .rope = inputs.rope,
                                          .select = key_selector(inputs, layer, h),
                                          .keep = true});
  return autograd::linear(ctx, o, p.self_out_weight, p.self_out_bias);
}

Variable cross_attention(const autograd::Context& ctx, const DitConfig& config,
                         const BlockParams& p, const Variable& h, const BlockInputs& inputs) {
  const Variable q = autograd::linear(ctx, h, p.q_weight, p.q_bias);
  const Variable kv = autograd::linear(ctx, inputs.text, p.kv_weight, p.kv_bias);
  const Variable o = autograd::attention(ctx, q, kv,
                                         {.num_heads = config.num_heads,
                                          .norm_q = p.cross_norm_q,
                                          .norm_k = p.cross_norm_k,
                                          .norm_eps = config.eps,
                                          .key_bias = inputs.text_bias});
  return autograd::linear(ctx, o, p.cross_out_weight, p.cross_out_bias);
}

Variable feed_forward(const autograd::Context& ctx, const DitConfig& config, const BlockParams& p,
                      const Variable& h) {
  if (config.ffn == FeedForward::kGeglu) {
    const Variable wide = autograd::linear(ctx, h, p.ffn_in_weight, p.ffn_in_bias);
    return autograd::linear(ctx, autograd::geglu(ctx, wide), p.ffn_out_weight, p.ffn_out_bias);
  }
  const Variable wide =
      autograd::linear(ctx, h, p.ffn_in_weight, p.ffn_in_bias, autograd::Activation::kGeluTanh);
  return autograd::linear(ctx, wide, p.ffn_out_weight, p.ffn_out_bias);
}

}  // namespace

std::vector<ParamSpec> block_specs(const DitConfig& config, std::int64_t layer) {
  const Names names = names_of(config);
  const std::string at = prefix(names, layer);
  const std::int64_t width = config.width();
  const bool wan = config.family == Family::kWan;
  std::vector<ParamSpec> specs;
  specs.push_back({.name = at + names.table,
                   .shape = wan ? Shape{1, 6, width} : Shape{6, width},
                   .init = Init::kNormal,
                   .init_std = 1.0 / std::sqrt(static_cast<double>(width)),
                   .decay = false});
  if (!names.self_norm.empty()) add_norm(specs, at + names.self_norm, width, true);
  add_attention(specs, at + names.self, width, wan, config.qk_norm && wan);
  if (!names.cross_norm.empty()) add_norm(specs, at + names.cross_norm, width, true);
  add_attention(specs, at + names.cross, width, wan, config.qk_norm && wan);
  if (!names.ffn_norm.empty()) add_norm(specs, at + names.ffn_norm, width, true);
  add_linear(specs, at + names.ffn_in, ffn_rows(config), width, true);
  add_linear(specs, at + names.ffn_out, width, config.ffn_dim, true);
  return specs;
}

BlockParams bind_block(const DitConfig& config, const autograd::ParamStore& store,
                       std::int64_t layer) {
  const Names names = names_of(config);
  const std::string at = prefix(names, layer);
  const auto get = [&](const std::string& name) {
    return store.find(at + name, nullptr) != nullptr ? store.get(at + name) : Param{};
  };
  const auto fused = [&](const std::string& room, std::initializer_list<const char*> parts,
                         const char* kind) {
    std::vector<std::string> list;
    for (const char* part : parts) list.push_back(at + room + part + kind);
    return store.find(list.front(), nullptr) != nullptr ? store.fused(list) : Param{};
  };
  const std::string &self = names.self, &cross = names.cross;
  const auto norm = [&](const std::string& name, const char* kind) {
    return name.empty() ? Param{} : get(name + kind);
  };
  return {.table = get(names.table),
          .qkv_weight = fused(self, {".to_q", ".to_k", ".to_v"}, ".weight"),
          .qkv_bias = fused(self, {".to_q", ".to_k", ".to_v"}, ".bias"),
          .norm_q = get(self + ".norm_q.weight"),
          .norm_k = get(self + ".norm_k.weight"),
          .self_out_weight = get(self + ".to_out.0.weight"),
          .self_out_bias = get(self + ".to_out.0.bias"),
          .q_weight = get(cross + ".to_q.weight"),
          .q_bias = get(cross + ".to_q.bias"),
          .kv_weight = fused(cross, {".to_k", ".to_v"}, ".weight"),
          .kv_bias = fused(cross, {".to_k", ".to_v"}, ".bias"),
          .cross_norm_q = get(cross + ".norm_q.weight"),
          .cross_norm_k = get(cross + ".norm_k.weight"),
          .cross_out_weight = get(cross + ".to_out.0.weight"),
          .cross_out_bias = get(cross + ".to_out.0.bias"),
          .self_norm_weight = norm(names.self_norm, ".weight"),
          .self_norm_bias = norm(names.self_norm, ".bias"),
          .cross_norm_weight = norm(names.cross_norm, ".weight"),
          .cross_norm_bias = norm(names.cross_norm, ".bias"),
          .ffn_norm_weight = norm(names.ffn_norm, ".weight"),
          .ffn_norm_bias = norm(names.ffn_norm, ".bias"),
          .ffn_in_weight = get(names.ffn_in + ".weight"),
          .ffn_in_bias = get(names.ffn_in + ".bias"),
          .ffn_out_weight = get(names.ffn_out + ".weight"),
          .ffn_out_bias = get(names.ffn_out + ".bias")};
}

Variable dit_block(const autograd::Context& ctx, const DitConfig& config, std::int64_t layer,
                   const BlockParams& p, const Variable& x_in, const BlockInputs& inputs) {
  const Variable mod = autograd::broadcast_add(ctx, inputs.modulation, p.table);
  // 1) self-attention
  Variable h = autograd::layer_norm(ctx, x_in, p.self_norm_weight, p.self_norm_bias,
                                    {.table = mod, .shift_idx = 0, .scale_idx = 1}, config.eps);
  Variable x = autograd::gated_residual(
      ctx, x_in, self_attention(ctx, config, layer, p, h, inputs), mod, 2);
  // 2) cross-attention to text, ungated
  h = p.cross_norm_weight.defined()
          ? autograd::layer_norm(ctx, x, p.cross_norm_weight, p.cross_norm_bias, {}, config.eps)
          : x;
  x = autograd::gated_residual(ctx, x, cross_attention(ctx, config, p, h, inputs), {}, 0);
  // 3) feed-forward
  h = autograd::layer_norm(ctx, x, p.ffn_norm_weight, p.ffn_norm_bias,
                           {.table = mod, .shift_idx = 3, .scale_idx = 4}, config.eps);
  return autograd::gated_residual(ctx, x, feed_forward(ctx, config, p, h), mod, 5);
}

}  // namespace dsv::model
