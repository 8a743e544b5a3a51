// Model FLOPs: what MFU counts. No recompute, estimation, or predictor.
#pragma once

#include "dsv/model/dit_config.h"

namespace dsv::model {

struct Flops {
  double linear = 0;           // GEMMs of one forward pass
  double self_attention = 0;   // 4 * S^2 * C per block
  double cross_attention = 0;  // 4 * S * L * C per block
  double forward() const { return linear + self_attention + cross_attention; }
  double step() const { return 3 * forward(); }  // backward counts twice the forward
};

// Of one sample with this many tokens.
Flops model_flops(const DitConfig& config, std::int64_t num_tokens);

}  // namespace dsv::model
