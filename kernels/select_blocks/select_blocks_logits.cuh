// From proxies and keys to logarithms of block masses (of single keys: logits), in units of log 2.
// Warps share the keys of a tile of groups, block by block; no two write the same place.
#pragma once

#include "cuda/mma.cuh"
#include "select_blocks/select_blocks_views.cuh"

namespace dsv::kernels::cuda {

// exp2(f (s - top)) with NaN as nothing. `base` = -f top; s may be inf, where top is what it counts
// as; rounding may lift the exponent of the largest s a little above 0, which the caller's
// logarithm takes back.
__device__ inline float weight_of(float s, float f, float base) {
  return exp2_fast(fminf(fmaxf(fmaf(s, f, base), -200.0f), 1.0f));
}

// The logarithm of a block's mass from its largest product and its weights' sum.
__device__ inline float log_mass(float top, float f, float sum) {
  return top == kNoMass ? kNoMass : __fmul_rn(top, f) + log2f(sum);
}

// The logit of a single key.
__device__ inline float log_of_key(float s, const Factor& factor) {
  return fminf(fmaxf(s, kNoMass), factor.most) * factor.log2;  // NaN: fmaxf takes the other
}

// --- bf16, r = 16: tensor cores ------------------------------------------------------------------
//
// A product is 16 proxies by 8 keys over all 16 channels. Which key is which column is ours to
// choose: column 2t+e of product j is key 2j+e of the t-th of four blocks, so that after eight
// products a lane holds all 16 keys of its block t for its two groups, and sums them without its
// neighbours. Channels are dealt so that a lane's four lie side by side: both operands agree on it.
// A proxy is a sum of three bf16, which is all of its 24 bits: keys are bf16 anyway, so that
// products are as good as those of f32.

constexpr int kParts = 3;

__device__ inline void load_proxies(const float* proxies, std::uint32_t (&parts)[kParts][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = g + i % 2 * 8, channel = 4 * t + i / 2 * 2;
    float x[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) x[e] = proxies[(channel + e) * kSelectGroups + row];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      parts[part][i] = pack_bf16(x[0], x[1]);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float rest = x[e] - __bfloat162float(__float2bfloat16_rn(x[e]));
        x[e] = isfinite(x[e]) ? rest : 0.0f;
      }
    }
  }
}

template <bool kSingleKeys>
__device__ inline void logits_mma(const Selection<__nv_bfloat16>& p, const GroupTile& tile,
                                  const Factor& factor, const TileShared& shared, float* rows) {
  constexpr int kKeys = 16;  // of a block
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const int g = lane / 4, t = lane % 4;
  std::uint32_t parts[kParts][4];
  load_proxies(shared.proxies, parts);
  const auto first_of = [&](int block) {
    return kSingleKeys ? min(block * kKeys, p.Skv) : p.block_first(block);
  };
  const __nv_bfloat16* const keys = p.k.row_of(tile.b, tile.h, 0) + 4 * t;
  const int num_blocks = kSingleKeys ? (p.Skv + kKeys - 1) / kKeys : p.N;
  float most[2] = {kNoMass, kNoMass};
  for (int four = warp * 4; four < num_blocks; four += 4 * kSelectWarps) {
    const int first = first_of(four + g / 2), size = first_of(four + g / 2 + 1) - first;
    uint2 key[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int i = 2 * j + g % 2;
      key[j] = i < size ? __ldg(reinterpret_cast<const uint2*>(keys + (first + i) * p.k.row))
                        : uint2{0, 0};
    }
    const int my_size = __shfl_sync(0xffffffffu, size, 8 * t);
    float s[8][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
      for (int part = kParts - 1; part >= 0; --part) mma(parts[part], key[j].x, key[j].y, s[j]);
    }
    if (!__all_sync(0xffffffffu, my_size == kKeys)) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[j][e] = 2 * j + e % 2 < my_size ? s[j][e] : kNoMass;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* const row = rows + (g + 8 * half) * p.row_stride;
      if constexpr (kSingleKeys) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float2 pair{log_of_key(s[j][2 * half], factor),
                            log_of_key(s[j][2 * half + 1], factor)};
          most[half] = fmaxf(most[half], fmaxf(pair.x, pair.y));
          *reinterpret_cast<float2*>(row + (four + t) * kKeys + 2 * j) = pair;
        }
      } else {
        float top = kNoMass;
#pragma unroll
        for (int j = 0; j < 8; ++j) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        top = fminf(top, factor.most);
        const float base = top == kNoMass ? 0.0f : -__fmul_rn(top, factor.log2);
        float sum[2] = {};
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          sum[0] += weight_of(s[j][2 * half], factor.log2, base);
          sum[1] += weight_of(s[j][2 * half + 1], factor.log2, base);
        }
        const float log = log_mass(top, factor.log2, sum[0] + sum[1]);
        most[half] = fmaxf(most[half], log);
        row[four + t] = log;
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    most[half] = fmaxf(most[half], __shfl_xor_sync(0xffffffffu, most[half], 1));
    most[half] = fmaxf(most[half], __shfl_xor_sync(0xffffffffu, most[half], 2));
    if (t == 0) shared.warp_most[warp * kSelectGroups + g + 8 * half] = most[half];
  }
}

// --- Any rank, f32 or bf16: multiply-adds --------------------------------------------------------
// A lane has one key of the block and eight of the groups.

template <typename T>
__device__ inline void logits_simt(const Selection<T>& p, const GroupTile& tile,
                                   const Factor& factor, const TileShared& shared, float* rows) {
  constexpr int kKeys = 16, kOwn = kSelectGroups / 2;
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const int i = lane % kKeys, own = lane / kKeys * kOwn;
  const bool single_keys = p.block_start == nullptr;
  const int num_blocks = single_keys ? (p.Skv + kKeys - 1) / kKeys : p.N;
  const auto first_of = [&](int block) {
    return single_keys ? min(block * kKeys, p.Skv) : p.block_first(block);
  };
  float most[kOwn];
#pragma unroll
  for (int u = 0; u < kOwn; ++u) most[u] = kNoMass;
  for (int block = warp; block < num_blocks; block += kSelectWarps) {
    const int first = first_of(block), size = first_of(block + 1) - first;
    float s[kOwn] = {};
    if (i < size) {
      const T* const key = p.k.row_of(tile.b, tile.h, first + i);
#pragma unroll 2
      for (int c = 0; c < p.r; ++c) {
        const float k = to_f32(key[c]);
        const float4* const x =
            reinterpret_cast<const float4*>(shared.proxies + c * kSelectGroups + own);
#pragma unroll
        for (int u = 0; u < kOwn; u += 4) {
          const float4 four = x[u / 4];
          s[u] = fmaf(four.x, k, s[u]), s[u + 1] = fmaf(four.y, k, s[u + 1]);
          s[u + 2] = fmaf(four.z, k, s[u + 2]), s[u + 3] = fmaf(four.w, k, s[u + 3]);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kOwn; ++u) {
      float* const row = rows + (own + u) * p.row_stride;
      const float product = i < size ? s[u] : kNoMass;
      if (single_keys) {
        const float log = log_of_key(product, factor);
        most[u] = fmaxf(most[u], log);
        row[block * kKeys + i] = log;
        continue;
      }
      float top = fmaxf(product, kNoMass);
#pragma unroll
      for (int offset = 1; offset < kKeys; offset *= 2) {
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
      }
      top = fminf(top, factor.most);
      const float base = top == kNoMass ? 0.0f : -__fmul_rn(top, factor.log2);
      float sum = exp2f(fminf(fmaxf(fmaf(product, factor.log2, base), -200.0f), 1.0f));
#pragma unroll
      for (int offset = 1; offset < kKeys; offset *= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      }
      const float log = log_mass(top, factor.log2, sum);
      most[u] = fmaxf(most[u], log);
      if (i == 0) row[block] = log;
    }
  }
#pragma unroll
  for (int u = 0; u < kOwn; ++u) {
#pragma unroll
    for (int offset = 1; offset < kKeys; offset *= 2) {
      most[u] = fmaxf(most[u], __shfl_xor_sync(0xffffffffu, most[u], offset));
    }
    if (i == 0) shared.warp_most[warp * kSelectGroups + own + u] = most[u];
  }
}

}  // namespace dsv::kernels::cuda
