// The keys that a row of bits selects, in ascending order, as many at a time as there is room for.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace dsv::kernels::cpu {

// Blocks [begin, end) that hold keys [first_key, end_key), and where each block begins (null: block
// n is key n).
struct KeyRange {
  const std::int32_t* block_start;
  std::int64_t begin, end;
  std::int64_t first_key, end_key;

  KeyRange(const std::int32_t* block_start, std::int64_t num_blocks, std::int64_t first_key,
           std::int64_t end_key)
      : block_start(block_start),
        begin(first_key),
        end(end_key),
        first_key(first_key),
        end_key(end_key) {
    if (block_start == nullptr) return;
    const std::int32_t* const last = block_start + num_blocks;
    begin = std::upper_bound(block_start, last, first_key) - block_start - 1;
    end = std::lower_bound(block_start, last, end_key) - block_start;
  }
};

class SelectedKeys {
 public:
  SelectedKeys(const std::uint32_t* row, const KeyRange& range)
      : row_(row), range_(range), index_(range.begin / 32), num_words_((range.end + 31) / 32) {
    if (index_ < num_words_) word_ = load() & ~0u << (range.begin % 32);
  }

  // Writes the next keys, `most` or all that are left, and returns how many.
  std::int64_t next(std::int64_t most, std::int32_t* keys) {
    std::int64_t n = 0;
    for (;;) {
      const std::int64_t until = std::min(end_, at_ + most - n);
      while (at_ < until) keys[n++] = static_cast<std::int32_t>(at_++);
      if (n == most) return n;
      while (word_ == 0) {
        if (++index_ >= num_words_) return n;
        word_ = load();
      }
      const std::int64_t block = 32 * index_ + std::countr_zero(word_);
      word_ &= word_ - 1;
      const std::int32_t* const start = range_.block_start;
      at_ = start == nullptr ? block : std::max<std::int64_t>(start[block], range_.first_key);
      end_ =
          start == nullptr ? block + 1 : std::min<std::int64_t>(start[block + 1], range_.end_key);
    }
  }

 private:
  std::uint32_t load() const {
    const std::int64_t left = range_.end - 32 * index_;
    return left >= 32 ? row_[index_] : row_[index_] & ~(~0u << left);
  }

  const std::uint32_t* row_;
  KeyRange range_;
  std::int64_t index_, num_words_;
  std::uint32_t word_ = 0;         // blocks of this word still to come
  std::int64_t at_ = 0, end_ = 0;  // keys of the current block still to come
};

}  // namespace dsv::kernels::cpu
