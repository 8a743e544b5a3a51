#include <algorithm>

#include "cpu/arguments.h"
#include "cpu/parallel.h"
#include "tables/entries.h"

namespace dsv::kernels::cpu {
namespace {

// Elements [begin, end) of y, one Philox block of four numbers at a time. The same expressions as
// the reference: noise is part of what a run is reproduced from, so both must agree bitwise.
template <typename Numbers>
void fill_blocks(const RandomFill& args, float* y, std::int64_t begin, std::int64_t end,
                 const Numbers& numbers) {
  const PhiloxStream stream(args.key);
  const double mean = static_cast<double>(args.mean), std = static_cast<double>(args.std);
  for (std::int64_t e = begin; e < end;) {
    const std::uint64_t element = args.first_element + static_cast<std::uint64_t>(e);
    const auto first = static_cast<std::int64_t>(element % 4);
    const std::int64_t count = std::min<std::int64_t>(4 - first, end - e);
    const std::array<double, 4> z = numbers(stream.block(element / 4));
    for (std::int64_t i = 0; i < count; ++i) {
      y[e + i] = static_cast<float>(mean + std * z[static_cast<std::size_t>(first + i)]);
    }
    e += count;
  }
}

std::array<double, 4> uniform4(const PhiloxBlock& words) {
  return {philox_uniform(words[0]), philox_uniform(words[1]), philox_uniform(words[2]),
          philox_uniform(words[3])};
}

}  // namespace

void random_fill(const RandomFill& args, const Stream& stream) {
  require_f32("random_fill", {&args.y});
  float* y = args.y.f32();
  constexpr std::int64_t kGrain = 1024;  // about 20 us of normals
  parallel_for(stream, args.y.num_elements(), kGrain,
               [&](std::int64_t begin, std::int64_t end, int) {
                 if (args.kind == RandomKind::kUniform)
                   fill_blocks(args, y, begin, end, uniform4);
                 else
                   fill_blocks(args, y, begin, end, philox_normal4);
               });
}

}  // namespace dsv::kernels::cpu
