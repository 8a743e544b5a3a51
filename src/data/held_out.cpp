#include "dsv/data/held_out.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

namespace dsv::data {
namespace {

double held_out_value(std::uint64_t id) {
  std::uint64_t h = (id >> 16) + 0x9E3779B97F4A7C15ull;  // splitmix64
  h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ull;
  h = (h ^ (h >> 27)) * 0x94D049BB133111EBull;
  h ^= h >> 31;
  return static_cast<double>(h % 100) + static_cast<double>(h / 100 % 1'000'000) * 1e-6;
}

}  // namespace

Split split_held_out(const std::vector<SampleRecord>& samples, double percent) {
  DSV_CHECK(percent >= 0 && percent <= 50, "[held out] expected a percentage in [0, 50], got {}",
            percent);
  const auto n = static_cast<std::int64_t>(samples.size());
  std::vector<std::int64_t> order(samples.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](std::int64_t i) {
    const std::uint64_t id = samples[static_cast<std::size_t>(i)].id;
    return std::pair(held_out_value(id), id);
  };
  std::sort(order.begin(), order.end(),
            [&](std::int64_t a, std::int64_t b) { return key(a) < key(b); });

  std::int64_t count = 0;
  if (percent > 0 && n > 1) {
    while (count < n && key(order[static_cast<std::size_t>(count)]).first < percent) ++count;
    const std::int64_t least = n < 16 ? 1 : 8, most = std::max<std::int64_t>(1, n / 2);
    if (count > most) count = 0;  // one long video among few: the fill below decides
    while (count < least) {
      std::int64_t next = count + 1;
      const double u = key(order[static_cast<std::size_t>(count)]).first;
      while (next < n && key(order[static_cast<std::size_t>(next)]).first == u) ++next;
      count = next <= most ? next : least;
    }
  }
  Split split;
  split.held_out.assign(order.begin(), order.begin() + count);
  split.train.assign(order.begin() + count, order.end());
  const auto by_id = [&](std::int64_t a, std::int64_t b) {
    return samples[static_cast<std::size_t>(a)].id < samples[static_cast<std::size_t>(b)].id;
  };
  std::sort(split.held_out.begin(), split.held_out.end(), by_id);
  std::sort(split.train.begin(), split.train.end(), by_id);
  return split;
}

std::vector<std::vector<std::int64_t>> group_by_shape(const std::vector<SampleRecord>& samples,
                                                      const std::vector<std::int64_t>& numbers,
                                                      std::int64_t max_batch) {
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::vector<std::int64_t>> groups;
  for (const std::int64_t i : numbers) {
    const SampleRecord& r = samples[static_cast<std::size_t>(i)];
    groups[{r.height, r.width, r.frames}].push_back(i);
  }
  std::vector<std::vector<std::int64_t>> batches;
  for (const auto& [shape, members] : groups) {
    for (std::size_t at = 0; at < members.size(); at += static_cast<std::size_t>(max_batch)) {
      const auto end = std::min(members.size(), at + static_cast<std::size_t>(max_batch));
      batches.emplace_back(members.begin() + static_cast<std::ptrdiff_t>(at),
                           members.begin() + static_cast<std::ptrdiff_t>(end));
    }
  }
  return batches;
}

}  // namespace dsv::data
