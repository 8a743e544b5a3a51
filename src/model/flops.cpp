#include "dsv/model/flops.h"

namespace dsv::model {

Flops model_flops(const DitConfig& config, std::int64_t num_tokens) {
  const auto S = static_cast<double>(num_tokens), C = static_cast<double>(config.width());
  const auto L = static_cast<double>(config.text_len), F = static_cast<double>(config.ffn_dim);
  const auto layers = static_cast<double>(config.num_layers);
  const auto& p = config.patch_size;
  const auto patch = static_cast<double>(p[0] * p[1] * p[2]);
  const double ffn_in = (config.ffn == FeedForward::kGeglu ? 2 : 1) * F;
  // Multiply-adds per token: q, k, v, out; cross q and out; feed-forward. Text rows: cross k and v.
  const double per_token = 4 * C * C + 2 * C * C + C * ffn_in + F * C;
  const double per_text_row = 2 * C * C;
  Flops flops;
  flops.linear = 2 * layers * (S * per_token + L * per_text_row);
  flops.linear += 2 * S * C * patch * static_cast<double>(config.in_channels + config.out_channels);
  flops.linear += 2 * L * C * (static_cast<double>(config.text_dim) + C);
  flops.linear += 2 * C * (static_cast<double>(config.freq_dim) + C + 6 * C);
  flops.self_attention = layers * 4 * S * S * C;
  flops.cross_attention = layers * 4 * S * L * C;
  return flops;
}

}  // namespace dsv::model
