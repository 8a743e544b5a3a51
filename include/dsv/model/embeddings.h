// Position: 3-D rotary tables (wan) and fixed sin-cos embeddings (dsv), for any list of token
// coordinates.
#pragma once

#include <vector>

#include "dsv/autograd/functions.h"
#include "dsv/model/dit_config.h"

namespace dsv::model {

// Where a token sits in the token grid.
struct TokenPosition {
  std::int64_t t = 0, h = 0, w = 0;
};

// Raster order: w fastest.
std::vector<TokenPosition> raster_positions(std::int64_t T, std::int64_t H, std::int64_t W);

// Interleaved pairs, the head split over t, h, w as D - 2a, a, a with a = 2 * floor(D / 6); base
// 10^4; angles in double, rounded once. Source: Wan2.1 as in diffusers' WanRotaryPosEmbed.
autograd::RopeTables rope_tables(const autograd::Context& ctx,
                                 const std::vector<TokenPosition>& positions,
                                 std::int64_t head_dim);

// Fixed [S, C]: 2-D sin-cos over (w, h), C/2 each, plus 1-D sin-cos over frames, each as [sin |
// cos] with base 10^4. Spatial positions are i * base_size / tokens_on_axis / interpolation_scale.
// Source: Latte's and PixArt's embeddings in diffusers.
Tensor sincos_positions(const autograd::Context& ctx, const std::vector<TokenPosition>& positions,
                        std::int64_t H, std::int64_t W, const DitConfig& config);

}  // namespace dsv::model
