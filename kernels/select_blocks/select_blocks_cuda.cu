// A block of threads takes a tile of 16 groups of one head at a time. Its warps share the keys and
// write the logarithm of each block's mass to the tile's rows of workspace, which L2 mostly holds;
// then each warp selects for two of the groups (select_blocks_threshold.cuh). The grid is what runs
// at one time, and so is the workspace: groups x blocks never exist as a whole.
#include "select_blocks/select_blocks_logits.cuh"
#include "select_blocks/select_blocks_threshold.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

enum class Products { kMma, kMmaSingleKeys, kSimt };

template <Products kProducts, typename T>
__global__ void __launch_bounds__(kSelectThreads, kSelectBlocksPerSm)
    select_blocks_kernel(const __grid_constant__ Selection<T> p) {
  __shared__ FewCandidates few[kSelectWarps];
  __shared__ float warp_most[kSelectWarps * kSelectGroups];
  extern __shared__ __align__(16) float proxies[];
  const TileShared shared{proxies, warp_most};
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  float* const rows = p.rows + blockIdx.x * (kSelectGroups * p.row_stride);
  for (int at = static_cast<int>(blockIdx.x); at < p.num_tiles; at += static_cast<int>(gridDim.x)) {
    const int head = at / p.tiles_per_head;
    const GroupTile tile{head / p.H, head % p.H, at % p.tiles_per_head * kSelectGroups};
    const Factor factor(p.slope[tile.h] * p.scale);
    fill_proxies(p, tile, proxies);
    __syncthreads();
    if constexpr (kProducts == Products::kSimt) {
      logits_simt(p, tile, factor, shared, rows);
    } else {
      logits_mma<kProducts == Products::kMmaSingleKeys>(p, tile, factor, shared, rows);
    }
    __syncthreads();
#pragma unroll 1
    for (int i = warp; i < kSelectGroups && tile.first + i < p.G; i += kSelectWarps) {
      float most = kNoMass;
      for (int w = 0; w < kSelectWarps; ++w) most = fmaxf(most, warp_most[w * kSelectGroups + i]);
      GroupSelection<T> group(p, tile, tile.first + i, rows + i * p.row_stride, most, few[warp]);
      group.run(static_cast<std::int64_t>(head) * p.G + tile.first + i);
    }
    __syncthreads();
  }
}

template <typename T>
LowRank<T> low_rank(const Tensor& t) {
  return {data<T>(t), t.stride(0), t.stride(1), t.stride(2)};
}

// Whether rows of r = 16 bf16 can be read four elements at a time.
bool has_mma(const Tensor& k) {
  bool packable = k.dtype() == DType::kBF16 && k.dim(3) == 16;
  for (const int d : {0, 1, 2}) {
    packable &= is_packable(data<__nv_bfloat16>(k), k.stride(d), 4);
  }
  return packable;
}

template <Products kProducts, typename T>
void launch(const SelectBlocks& args, const Stream& stream) {
  const std::int64_t B = args.q_lr.dim(0), H = args.q_lr.dim(2), r = args.q_lr.dim(3);
  const std::int64_t Skv = args.k_lr.dim(1), G = args.bits.dim(2);
  const std::int64_t N = args.block_start ? args.block_start.num_elements() - 1 : Skv;
  const std::int64_t tiles = ceil_div(G, kSelectGroups);
  const std::int64_t stride = round_up(std::max<std::int64_t>(N, 1), kRowUnits);
  const Session& session = session_of(stream);
  const std::int64_t row_bytes = kSelectGroups * stride * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t grid =
      std::min({B * H * tiles, std::int64_t{session.num_sms} * kSelectBlocksPerSm,
                std::max<std::int64_t>(1, kMaxRowBytes / row_bytes)});
  const Selection<T> p{.q = low_rank<T>(args.q_lr),
                       .k = low_rank<T>(args.k_lr),
                       .block_start = args.block_start ? args.block_start.i32() : nullptr,
                       .group_start = args.group_start.i32(),
                       .slope = args.slope.f32(),
                       .mass = args.mass.f32(),
                       .min_keys = args.min_keys.i32(),
                       .max_keys = args.max_keys.i32(),
                       .bits = args.bits.u32(),
                       .num_keys = args.num_keys.i32(),
                       .covered = args.covered.f32(),
                       .rows = scratch<float>(stream, grid * kSelectGroups * stride),
                       .row_stride = stride,
                       .query_offset = args.query_offset,
                       .scale = args.scale,
                       .unit = args.unit,
                       .Skv = narrow<int>(Skv),
                       .H = narrow<int>(H),
                       .G = narrow<int>(G),
                       .r = narrow<int>(r),
                       .N = narrow<int>(N),
                       .num_units = narrow<int>(ceil_div(N, args.unit)),
                       .num_words = narrow<int>(args.bits.dim(3)),
                       .tiles_per_head = narrow<int>(tiles),
                       .num_tiles = narrow<int>(B * H * tiles),
                       .centre = args.proxy == Proxy::kCentre};
  const auto shared_bytes = static_cast<std::size_t>(r * kSelectGroups) * sizeof(float);
  select_blocks_kernel<kProducts>
      <<<static_cast<unsigned>(grid), kSelectThreads, shared_bytes, native(stream)>>>(p);
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void select_blocks(const SelectBlocks& args, const Stream& stream) {
  require_f32("select_blocks", {&args.slope, &args.mass, &args.covered});
  require_f32_or_bf16("select_blocks", {&args.q_lr, &args.k_lr});
  DSV_CHECK(args.q_lr.dtype() == args.k_lr.dtype(), "[select_blocks] q_lr is {}, k_lr is {}",
            args.q_lr.dtype(), args.k_lr.dtype());
  DSV_CHECK(args.q_lr.dim(3) <= 256, "[select_blocks] expected a rank ≤ 256, got {}",
            args.q_lr.dim(3));
  DSV_CHECK(args.scale > 0, "[select_blocks] expected a scale > 0, got {}", args.scale);
  DSV_CHECK(args.unit == 1 || args.unit == kTileBlocks,
            "[select_blocks] expected a unit of 1 or {}, got {}", kTileBlocks, args.unit);
  require_session(stream);
  if (args.num_keys.num_elements() == 0) return;
  if (has_mma(args.k_lr)) {
    return args.block_start ? launch<Products::kMma, __nv_bfloat16>(args, stream)
                            : launch<Products::kMmaSingleKeys, __nv_bfloat16>(args, stream);
  }
  with_dtype("select_blocks", args.k_lr.dtype(),
             [&](auto type) { launch<Products::kSimt, decltype(type)>(args, stream); });
}

}  // namespace dsv::kernels::cuda
