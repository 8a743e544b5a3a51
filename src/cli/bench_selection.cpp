#include "bench_selection.h"

#include <algorithm>
#include <vector>

#include "dsv/base/check_math.h"
#include "dsv/base/philox.h"
#include "dsv/kernels/sparse_attention.h"
#include "dsv/tensor/transfer.h"

namespace dsv::cli {
namespace {

template <typename T>
Tensor on_device(std::vector<T>& host, DType dtype, const Shape& shape, BenchDevice& device) {
  const Tensor out = device.empty(shape, dtype);
  transfer(Tensor(host.data(), dtype, shape), out, device.stream());
  return out;
}

// Where pieces of `size` begin, and where the last ends; 0-sized ones fill up to `num` pieces.
std::vector<std::int32_t> starts(std::int64_t tokens, std::int64_t size, std::int64_t num) {
  std::vector<std::int32_t> out;
  for (std::int64_t i = 0; i <= num; ++i) {
    out.push_back(static_cast<std::int32_t>(std::min(tokens, i * size)));
  }
  return out;
}

}  // namespace

Selection random_selection(const SelectionOptions& o, std::int64_t batch, std::int64_t heads,
                           std::int64_t tokens, BenchDevice& device) {
  using kernels::kMaxBlockKeys;
  const bool single = o.granularity == 1;
  const std::int64_t block = single ? 1 : kMaxBlockKeys;
  const std::int64_t unit = o.granularity / block;  // blocks that are taken together
  const std::int64_t N = single ? tokens : round_up(ceil_div(tokens, block), kernels::kTileBlocks);
  const std::int64_t G = ceil_div(tokens, o.group), words = ceil_div(N, 32);
  std::vector<std::uint32_t> bits(static_cast<std::size_t>(batch * heads * G * words));
  std::vector<std::int32_t> block_start = starts(tokens, block, N);
  std::vector<std::int32_t> group_start = starts(tokens, o.group, G);
  const double own_share = static_cast<double>(o.group) / static_cast<double>(tokens);
  const double others = (o.density - own_share) / (1 - own_share);
  Selection out;
  for (std::int64_t row = 0; row < batch * heads * G; ++row) {
    const PhiloxStream random(
        {.purpose = RngPurpose::kTest, .sample = static_cast<std::uint64_t>(row)});
    const auto g = static_cast<std::size_t>(row % G);
    const std::int64_t first = group_start[g], end = group_start[g + 1];
    for (std::int64_t n = 0; n < N; ++n) {
      const std::int64_t keys = block_start[static_cast<std::size_t>(n / unit * unit)];
      const bool own = keys < end && keys + o.granularity > first;
      if (!own && philox_uniform(random.word(static_cast<std::uint64_t>(n / unit))) > others) {
        continue;
      }
      bits[static_cast<std::size_t>(row * words + n / 32)] |= 1u << (n % 32);
      const auto at = static_cast<std::size_t>(n);
      out.num_pairs += static_cast<double>((end - first) * (block_start[at + 1] - block_start[at]));
    }
  }
  out.bits = on_device(bits, DType::kU32, {batch, heads, G, words}, device);
  out.by_block = device.empty({batch, heads, N, ceil_div(G, 32)}, DType::kU32);
  out.group_start = on_device(group_start, DType::kI32, {G + 1}, device);
  if (!single) out.block_start = on_device(block_start, DType::kI32, {N + 1}, device);
  return out;
}

}  // namespace dsv::cli
