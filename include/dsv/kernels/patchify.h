// Video latents to tokens and back, in raster (t,h,w; w fastest) or any given token order.
#pragma once

#include <array>

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// Token s covers the patch at raster position r = token_order[s] (undefined: r = s) of the grid
// (T/pt, H/ph, W/pw). Its features run (c, pt, ph, pw) with pw fastest, or (pt, ph, pw, c) with c
// fastest when channels_last. patchify reads video and writes tokens; unpatchify the other way.
// Pure moves: each is the other's gradient.
struct Patchify {
  Tensor video;        // (B, C, T, H, W)          f32, contiguous but for the stride of B
  Tensor tokens;       // (B, S, C * pt * ph * pw) f32|bf16, contiguous
  Tensor token_order;  // in (S) i32, a permutation; undefined: raster
  std::array<std::int64_t, 3> patch{1, 2, 2};
  bool channels_last = false;
};

}  // namespace dsv::kernels
