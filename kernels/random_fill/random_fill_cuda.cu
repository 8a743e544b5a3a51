// One Philox block of four numbers per thread. Every operation is the one that base/philox.h and
// base/box_muller.h do, in the same order, so the bits are theirs: this file is compiled without
// contraction to fused multiply-adds (kernels/CMakeLists.txt).
#include "cuda/launch.cuh"
#include "cuda/raw_pack.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kThreads = 256;

struct FillArgs {
  float* y;
  std::int64_t n;
  PhiloxStream stream;
  std::uint64_t first_block;
  int skipped;  // numbers of the first block that come before y
  double mean, std;
};

// kAligned: every block's four numbers can be stored at once.
template <RandomKind kKind, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    random_fill_kernel(const __grid_constant__ FillArgs args) {
  const std::int64_t block = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t begin = 4 * block - args.skipped;
  if (begin >= args.n) return;
  const PhiloxBlock words = args.stream.block(args.first_block + static_cast<std::uint64_t>(block));
  float out[4];
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    double z0 = philox_uniform(words[i]), z1 = philox_uniform(words[i + 1]);
    if constexpr (kKind == RandomKind::kNormal) {
      const double radius = __dsqrt_rn(-2.0 * log_of_uniform(z0));
      const auto [cos, sin] = circle_of_uniform(z1);
      z0 = radius * cos;
      z1 = radius * sin;
    }
    out[i] = static_cast<float>(args.mean + args.std * z0);
    out[i + 1] = static_cast<float>(args.mean + args.std * z1);
  }
  if (kAligned && begin + 4 <= args.n) {
    store_pack(args.y + begin, out);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::int64_t e = begin + i;
    if (e >= 0 && e < args.n) args.y[e] = out[i];
  }
}

template <RandomKind kKind>
void launch(const FillArgs& args, const Stream& stream) {
  const bool aligned = args.skipped == 0 && is_packable(args.y, 0, 4);
  const auto kernel = aligned ? random_fill_kernel<kKind, true> : random_fill_kernel<kKind, false>;
  const std::int64_t blocks = (args.skipped + args.n + 3) / 4;
  kernel<<<num_blocks(blocks, kThreads), kThreads, 0, native(stream)>>>(args);
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void random_fill(const RandomFill& args, const Stream& stream) {
  require_session(stream);
  require_f32("random_fill", {&args.y});
  if (args.y.num_elements() == 0) return;
  const FillArgs fill{.y = args.y.f32(),
                      .n = args.y.num_elements(),
                      .stream = PhiloxStream(args.key),
                      .first_block = args.first_element / 4,
                      .skipped = static_cast<int>(args.first_element % 4),
                      .mean = static_cast<double>(args.mean),
                      .std = static_cast<double>(args.std)};
  if (args.kind == RandomKind::kUniform) {
    launch<RandomKind::kUniform>(fill, stream);
  } else {
    launch<RandomKind::kNormal>(fill, stream);
  }
}

}  // namespace dsv::kernels::cuda
