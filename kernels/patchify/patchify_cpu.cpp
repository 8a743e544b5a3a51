// One row of the patch grid at a time, in raster order, so that video is read or written in whole
// lines; tokens are kept in cache a tile at a time and found through the inverse of the token
// order.
#include <algorithm>
#include <cstdint>

#include "cpu/arguments.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "tables/entries.h"

namespace dsv::kernels::cpu {
namespace {

constexpr std::int64_t kTileTokens = 32;

struct Grid {
  std::int64_t B, C, T, H, W, pt, ph, pw, video_stride, num_tokens, num_features;
  std::int64_t rows() const { return B * (T / pt) * (H / ph); }
};

Grid grid_of(const Patchify& args) {
  const Tensor& v = args.video;
  return {v.dim(0),    v.dim(1),           v.dim(2),          v.dim(3),
          v.dim(4),    args.patch[0],      args.patch[1],     args.patch[2],
          v.stride(0), args.tokens.dim(1), args.tokens.dim(2)};
}

// Moves `count` patches of one video line between line[0 …] and tokens[…][feature …].
template <int kWidth, bool kToTokens>
void move_line(float* line, float* const* tokens, std::int64_t count, std::int64_t feature,
               std::int64_t feature_step, std::int64_t width) {
  if (kWidth != 0) width = kWidth;
  for (std::int64_t n = 0; n < count; ++n) {
    float *in_video = line + n * width, *in_token = tokens[n] + feature;
    for (std::int64_t k = 0; k < width; ++k) {
      float &video = in_video[k], &token = in_token[k * feature_step];
      if (kToTokens)
        token = video;
      else
        video = token;
    }
  }
}

template <int kWidth, bool kToTokens>
void move_row(const Grid& g, const Patchify& args, const std::int32_t* token_of_raster,
              std::int64_t row) {
  const std::int64_t grid_t = g.T / g.pt, grid_h = g.H / g.ph, grid_w = g.W / g.pw;
  const std::int64_t b = row / (grid_t * grid_h), t = row / grid_h % grid_t, h = row % grid_h;
  float* const video = args.video.f32() + b * g.video_stride;
  float* const all_tokens = args.tokens.f32() + b * g.num_tokens * g.num_features;
  for (std::int64_t w0 = 0; w0 < grid_w; w0 += kTileTokens) {
    const std::int64_t count = std::min(kTileTokens, grid_w - w0);
    float* tokens[kTileTokens];
    for (std::int64_t n = 0; n < count; ++n) {
      const std::int64_t raster = (t * grid_h + h) * grid_w + w0 + n;
      const std::int64_t s = token_of_raster != nullptr ? token_of_raster[raster] : raster;
      tokens[n] = all_tokens + s * g.num_features;
    }
    for (std::int64_t c = 0; c < g.C; ++c) {
      for (std::int64_t i = 0; i < g.pt; ++i) {
        for (std::int64_t j = 0; j < g.ph; ++j) {
          float* line = video + ((c * g.T + t * g.pt + i) * g.H + h * g.ph + j) * g.W + w0 * g.pw;
          const std::int64_t feature = args.channels_last ? (i * g.ph + j) * g.pw * g.C + c
                                                          : ((c * g.pt + i) * g.ph + j) * g.pw;
          const std::int64_t step = args.channels_last ? g.C : 1;
          move_line<kWidth, kToTokens>(line, tokens, count, feature, step, g.pw);
        }
      }
    }
  }
}

template <bool kToTokens>
void move(const Patchify& args, const Stream& stream) {
  require_f32("patchify", {&args.video, &args.tokens});
  const Grid g = grid_of(args);
  std::int32_t* token_of_raster = nullptr;
  if (args.token_order) {
    token_of_raster = scratch<std::int32_t>(g.num_tokens);
    const std::int32_t* order = args.token_order.i32();
    for (std::int64_t s = 0; s < g.num_tokens; ++s) {
      token_of_raster[order[s]] = static_cast<std::int32_t>(s);
    }
  }
  const std::int64_t row_elements = g.C * g.pt * g.ph * g.W;
  const std::int64_t grain =
      std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, row_elements));
  parallel_for(stream, g.rows(), grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end; ++row) {
      switch (g.pw) {
        case 1:
          move_row<1, kToTokens>(g, args, token_of_raster, row);
          break;
        case 2:
          move_row<2, kToTokens>(g, args, token_of_raster, row);
          break;
        case 4:
          move_row<4, kToTokens>(g, args, token_of_raster, row);
          break;
        default:
          move_row<0, kToTokens>(g, args, token_of_raster, row);
          break;
      }
    }
  });
}

}  // namespace

void patchify(const Patchify& args, const Stream& stream) {
  move<true>(args, stream);
}
void unpatchify(const Patchify& args, const Stream& stream) {
  move<false>(args, stream);
}

}  // namespace dsv::kernels::cpu
