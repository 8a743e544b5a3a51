// One row of the patch grid at a time, in raster order, so that video is read or written in whole
// lines. A tile of tokens is put together (or taken apart) in the first-level cache and moved to
// its place as a whole; tokens are found through the inverse of the token order.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/arguments.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "tables/entries.h"

namespace dsv::kernels::cpu {
namespace {

struct Grid {
  std::int64_t B, C, T, H, W, pt, ph, pw, video_stride, num_tokens, num_features;
  bool channels_last;

  explicit Grid(const Patchify& args)
      : B(args.video.dim(0)),
        C(args.video.dim(1)),
        T(args.video.dim(2)),
        H(args.video.dim(3)),
        W(args.video.dim(4)),
        pt(args.patch[0]),
        ph(args.patch[1]),
        pw(args.patch[2]),
        video_stride(args.video.stride(0)),
        num_tokens(args.tokens.dim(1)),
        num_features(args.tokens.dim(2)),
        channels_last(args.channels_last) {}

  std::int64_t num_rows() const { return B * (T / pt) * (H / ph); }
  // 16 KiB of tokens, half of the smallest first-level caches.
  std::int64_t tile_tokens() const {
    return std::clamp<std::int64_t>(4096 / std::max<std::int64_t>(1, num_features), 4, 64);
  }
};

// Moves `count` patches of one video line between line[0 …] and tile[0 …], where the elements of a
// patch are `step` apart and patches num_features; kWidth is g.pw, or 0 when it is not known to the
// compiler.
template <int kWidth, bool kToTokens>
void move_line(const Grid& g, float* line, float* tile, std::int64_t count, std::int64_t step) {
  const std::int64_t width = kWidth != 0 ? kWidth : g.pw, stride = g.num_features;
  const auto piece = static_cast<std::size_t>(width) * sizeof(float);
  if (step == 1) {
    for (std::int64_t n = 0; n < count; ++n) {
      float *video = line + n * width, *token = tile + n * stride;
      kToTokens ? std::memcpy(token, video, piece) : std::memcpy(video, token, piece);
    }
    return;
  }
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::int64_t k = 0; k < width; ++k) {
      float &video = line[n * width + k], &token = tile[n * stride + k * step];
      kToTokens ? token = video : video = token;
    }
  }
}

// Moves `count` patches between the tile and the video, whose first element is at `video`.
template <int kWidth, bool kToTokens>
void move_tile(const Grid& g, float* video, float* tile, std::int64_t count) {
  for (std::int64_t c = 0; c < g.C; ++c) {
    for (std::int64_t i = 0; i < g.pt; ++i) {
      for (std::int64_t j = 0; j < g.ph; ++j) {
        float* line = video + ((c * g.T + i) * g.H + j) * g.W;
        // Every channel is a stream of its own, more than the hardware follows.
        for (std::int64_t e = 0; e < count * g.pw; e += 16) {
          __builtin_prefetch(line + g.ph * g.W + e, kToTokens ? 0 : 1);
        }
        const std::int64_t feature =
            g.channels_last ? (i * g.ph + j) * g.pw * g.C + c : ((c * g.pt + i) * g.ph + j) * g.pw;
        move_line<kWidth, kToTokens>(g, line, tile + feature, count, g.channels_last ? g.C : 1);
      }
    }
  }
}

template <int kWidth, bool kToTokens>
void move_row(const Grid& g, const Patchify& args, const std::int32_t* token_of_raster, float* tile,
              std::int64_t row) {
  const std::int64_t grid_t = g.T / g.pt, grid_h = g.H / g.ph, grid_w = g.W / g.pw;
  const std::int64_t b = row / (grid_t * grid_h), t = row / grid_h % grid_t, h = row % grid_h;
  float* const video = args.video.f32() + b * g.video_stride + (t * g.pt * g.H + h * g.ph) * g.W;
  float* const tokens = args.tokens.f32() + b * g.num_tokens * g.num_features;
  const auto token_bytes = static_cast<std::size_t>(g.num_features) * sizeof(float);
  for (std::int64_t w = 0; w < grid_w; w += g.tile_tokens()) {
    const std::int64_t count = std::min(g.tile_tokens(), grid_w - w);
    const std::int64_t raster = (t * grid_h + h) * grid_w + w;
    const auto for_each_token = [&](const auto& move) {
      for (std::int64_t n = 0; n < count; ++n) {
        const std::int64_t s =
            token_of_raster != nullptr ? token_of_raster[raster + n] : raster + n;
        move(tokens + s * g.num_features, tile + n * g.num_features);
      }
    };
    if constexpr (kToTokens) {
      move_tile<kWidth, true>(g, video + w * g.pw, tile, count);
      for_each_token([=](float* token, float* mine) { std::memcpy(token, mine, token_bytes); });
    } else {
      for_each_token([=](float* token, float* mine) { std::memcpy(mine, token, token_bytes); });
      move_tile<kWidth, false>(g, video + w * g.pw, tile, count);
    }
  }
}

template <bool kToTokens>
void move_all(const Patchify& args, const Stream& stream) {
  require_f32("patchify", {&args.video, &args.tokens});
  const Grid g(args);
  const std::int64_t tile_elements = (g.tile_tokens() * g.num_features + 15) / 16 * 16;
  const std::int64_t order_elements = args.token_order ? g.num_tokens : 0;
  auto* const tiles = scratch<float>(stream.num_threads * tile_elements + order_elements);
  std::int32_t* token_of_raster = nullptr;
  if (args.token_order) {
    static_assert(sizeof(std::int32_t) == sizeof(float));
    token_of_raster = reinterpret_cast<std::int32_t*>(tiles + stream.num_threads * tile_elements);
    const std::int32_t* order = args.token_order.i32();
    for (std::int64_t s = 0; s < g.num_tokens; ++s) {
      token_of_raster[order[s]] = static_cast<std::int32_t>(s);
    }
  }
  const std::int64_t row_elements = std::max<std::int64_t>(1, g.C * g.pt * g.ph * g.W);
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / row_elements);
  parallel_for(stream, g.num_rows(), grain, [&](std::int64_t begin, std::int64_t end, int thread) {
    float* tile = tiles + thread * tile_elements;
    for (std::int64_t row = begin; row < end; ++row) {
      switch (g.pw) {
        case 1:
          move_row<1, kToTokens>(g, args, token_of_raster, tile, row);
          break;
        case 2:
          move_row<2, kToTokens>(g, args, token_of_raster, tile, row);
          break;
        case 4:
          move_row<4, kToTokens>(g, args, token_of_raster, tile, row);
          break;
        default:
          move_row<0, kToTokens>(g, args, token_of_raster, tile, row);
          break;
      }
    }
  });
}

}  // namespace

void patchify(const Patchify& args, const Stream& stream) {
  move_all<true>(args, stream);
}
void unpatchify(const Patchify& args, const Stream& stream) {
  move_all<false>(args, stream);
}

}  // namespace dsv::kernels::cpu
