// One Philox block of four numbers per thread. Every operation is the one that base/philox.h and
// base/box_muller.h do, in the same order, so the bits are theirs: this file is compiled without
// contraction to fused multiply-adds (kernels/CMakeLists.txt).
#include "cuda/launch.cuh"
#include "cuda/raw_pack.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// log_of_uniform and circle_of_uniform once more: device code cannot refer to the arrays of
// box_muller.h, only to local copies of them.
__device__ double log_on_device(double u) {
  using namespace box_muller;
  constexpr auto kCoefficients = kLog;
  const std::uint64_t shifted = __builtin_bit_cast(std::uint64_t, u) + (kOne - kLowestM);
  const auto e = static_cast<double>(static_cast<std::int64_t>(shifted >> 52) - 1023);
  const double m = __builtin_bit_cast(double, (shifted & 0xfffffffffffffu) + kLowestM);
  const double s = (m - 1) / (m + 1), s2 = s * s;
  return e * kLn2Hi + (2 * s + (s * s2 * polynomial(s2, kCoefficients) + e * kLn2Lo));
}

struct Circle {
  double cos, sin;
};
__device__ Circle circle_on_device(double u) {
  using namespace box_muller;
  constexpr auto kSinCoefficients = kSin;
  constexpr auto kCosCoefficients = kCos;
  const double shifted = 4 * u + kMagic;
  const auto quarter = __builtin_bit_cast(std::uint64_t, shifted) & 3;
  const double r = u - 0.25 * (shifted - kMagic), r2 = r * r;
  const double sin = r * polynomial(r2, kSinCoefficients);
  const double cos = 1 + r2 * polynomial(r2, kCosCoefficients);
  const bool odd = (quarter & 1) != 0;
  const auto negated_if = [](double x, std::uint64_t condition) {
    return __builtin_bit_cast(double, __builtin_bit_cast(std::uint64_t, x) ^ (condition << 63));
  };
  return {negated_if(odd ? sin : cos, ((quarter + 1) >> 1) & 1),
          negated_if(odd ? cos : sin, quarter >> 1)};
}

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
      const double radius = __dsqrt_rn(-2.0 * log_on_device(z0));
      const Circle circle = circle_on_device(z1);
      z0 = radius * circle.cos;
      z1 = radius * circle.sin;
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
