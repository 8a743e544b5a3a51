// Random numbers of one mutation: a pure function of (seed, target, iteration), so that any input
// that was ever made can be made again.
#pragma once

#include <string_view>

#include "dsv/base/philox.h"

namespace dsv::fuzz {

class Random {
 public:
  Random(std::uint64_t seed, std::string_view target, std::uint64_t iteration)
      : stream_({.seed = seed,
                 .purpose = RngPurpose::kTest,
                 .step = fnv1a(target.data(), target.size()),
                 .sample = iteration}) {}

  std::uint32_t word() {
    if (next_ % 4 == 0) block_ = stream_.block(next_ / 4);
    return block_[next_++ % 4];
  }
  // In [0, n), n > 0.
  std::size_t below(std::size_t n) {
    return static_cast<std::size_t>(std::uint64_t{word()} * n >> 32);
  }
  bool one_in(std::size_t n) { return below(n) == 0; }
  template <typename List>
  const auto& pick(const List& list) {
    return list[below(std::size(list))];
  }

 private:
  PhiloxStream stream_;
  PhiloxBlock block_{};
  std::uint64_t next_ = 0;
};

}  // namespace dsv::fuzz
