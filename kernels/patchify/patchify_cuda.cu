// A block moves 32 consecutive tokens of a sample: a warp works on one token at a time, its lanes
// on neighbouring features, so that tokens are read and written in whole lines. The video is
// touched in pieces of a few bytes; the rest of their lines belongs to the block's other tokens,
// mostly, and stays in the caches until then.
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/raw_pack.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kTokens = 32, kWarps = 8, kTokensPerWarp = kTokens / kWarps;

struct Grid {
  std::int64_t C, T, H, W, pt, ph, pw, video_stride, grid_h, grid_w, num_tokens, num_features,
      num_chunks;
  const std::int32_t* order;  // null: raster
  bool channels_last;

  explicit Grid(const Patchify& args)
      : C(args.video.dim(1)),
        T(args.video.dim(2)),
        H(args.video.dim(3)),
        W(args.video.dim(4)),
        pt(args.patch[0]),
        ph(args.patch[1]),
        pw(args.patch[2]),
        video_stride(args.video.stride(0)),
        grid_h(H / ph),
        grid_w(W / pw),
        num_tokens(args.tokens.dim(1)),
        num_features(args.tokens.dim(2)),
        num_chunks((num_tokens + kTokens - 1) / kTokens),
        order(args.token_order ? args.token_order.i32() : nullptr),
        channels_last(args.channels_last) {}

  // Of the first element of a token's patch, within its sample.
  __device__ std::int64_t patch_offset(std::int64_t token) const {
    const std::int64_t raster = order != nullptr ? order[token] : token;
    const std::int64_t w = raster % grid_w, rows = raster / grid_w;
    const std::int64_t h = rows % grid_h, t = rows / grid_h;
    return (t * pt * H + h * ph) * W + w * pw;
  }
  // From there to a feature's element.
  __device__ std::int64_t feature_offset(std::int64_t feature) const {
    std::int64_t c = 0, rest = feature;
    if (channels_last) {
      c = rest % C;
      rest /= C;
    }
    const std::int64_t k = rest % pw;
    rest /= pw;
    const std::int64_t j = rest % ph;
    rest /= ph;
    const std::int64_t i = rest % pt;
    if (!channels_last) c = rest / pt;
    return ((c * T + i) * H + j) * W + k;
  }
};

// N features at a time lie next to each other in the video, too.
template <int N, bool kToTokens, typename T>
__global__ void __launch_bounds__(32 * kWarps)
    move_kernel(std::conditional_t<kToTokens, const float, float>* __restrict__ video,
                std::conditional_t<kToTokens, T, const T>* __restrict__ tokens,
                const __grid_constant__ Grid grid) {
  __shared__ std::int64_t patch[kTokens];
  const std::int64_t b = blockIdx.x / grid.num_chunks;
  const std::int64_t first = (blockIdx.x - b * grid.num_chunks) * kTokens;
  const int count = static_cast<int>(min(std::int64_t{kTokens}, grid.num_tokens - first));
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  if (warp == 0 && lane < count) patch[lane] = grid.patch_offset(first + lane);
  __syncthreads();
  auto* const sample = video + b * grid.video_stride;
  auto* const rows = tokens + (b * grid.num_tokens + first) * grid.num_features;
  for (std::int64_t f = std::int64_t{lane} * N; f < grid.num_features; f += 32 * N) {
    auto* const from_patch = sample + grid.feature_offset(f);
    auto* const feature = rows + f;
    float moved[kTokensPerWarp][N];
#pragma unroll
    for (int u = 0; u < kTokensPerWarp; ++u) {
      const int n = warp + u * kWarps;
      if (n >= count) continue;
      if constexpr (kToTokens) {
        load_pack(from_patch + patch[n], moved[u]);
      } else {
        load_pack(feature + n * grid.num_features, moved[u]);
      }
    }
#pragma unroll
    for (int u = 0; u < kTokensPerWarp; ++u) {
      const int n = warp + u * kWarps;
      if (n >= count) continue;
      if constexpr (kToTokens) {
        store_pack(feature + n * grid.num_features, moved[u]);
      } else {
        store_pack(from_patch + patch[n], moved[u]);
      }
    }
  }
}

template <bool kToTokens>
void move_all(const Patchify& args, const Stream& stream) {
  require_session(stream);
  require_f32("patchify", {&args.video});
  const Grid grid(args);
  const std::int64_t blocks = args.tokens.dim(0) * grid.num_chunks;
  if (blocks == 0 || grid.num_features == 0) return;
  with_dtype("patchify", args.tokens.dtype(), [&](auto type) {
    using T = decltype(type);
    float* video = args.video.f32();
    T* tokens = data<T>(args.tokens);
    const bool pairs = !grid.channels_last && grid.pw % 2 == 0 && is_packable(video, grid.W, 2) &&
                       is_packable(video, grid.video_stride, 2) &&
                       is_packable(tokens, grid.num_features, 2);
    const auto kernel = pairs ? move_kernel<2, kToTokens, T> : move_kernel<1, kToTokens, T>;
    kernel<<<static_cast<unsigned>(blocks), 32 * kWarps, 0, native(stream)>>>(video, tokens, grid);
    DSV_CUDA_LAUNCHED();
  });
}

}  // namespace

void patchify(const Patchify& args, const Stream& stream) {
  move_all<true>(args, stream);
}
void unpatchify(const Patchify& args, const Stream& stream) {
  move_all<false>(args, stream);
}

}  // namespace dsv::kernels::cuda
