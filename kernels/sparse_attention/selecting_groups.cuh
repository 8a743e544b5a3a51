// From the columns of bits of a tile of keys to the groups that have selected any of them, in
// ascending order, and their queries, some at a time. Every warp walks by itself.
#pragma once

#include "sparse_attention/selection_view.cuh"

namespace dsv::kernels::cuda {

// The tile is kSlots slots from `first_slot` on (key_slot). kOwn of them are this thread's.
template <int kSlots, int kQueries, int kOwn>
class SelectingGroups {
 public:
  int first = 0, end = 0;    // queries of this step, at most kQueries
  bool selected[kOwn] = {};  // whether the step's group has selected the thread's slots

  // own[i]: blocks of the thread's slots, -1 for none.
  __device__ SelectingGroups(const SelectionView& selection, int head, int first_slot,
                             const int (&own)[kOwn])
      : selection_(selection), head_(head) {
    const bool single = selection.block_start == nullptr;
    first_block_ = single ? first_slot : first_slot / static_cast<int>(kMaxBlockKeys);
    num_blocks_ = single ? kSlots : kSlots / static_cast<int>(kMaxBlockKeys);
    num_blocks_ = min(num_blocks_, selection.N - first_block_);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) own_[i] = own[i];
  }

  // False at the end. The same in all threads.
  __device__ bool next() {
    first += kQueries;
    if (first >= group_end_) {
      do {
        while (left_ == 0) {
          if (word_ + 1 >= selection_.group_words) return false;
          ++word_;
          load_word();
        }
        const int bit = __ffs(static_cast<int>(left_)) - 1, g = word_ * 32 + bit;
        left_ &= left_ - 1;
        first = selection_.group_start[g];
        group_end_ = selection_.group_start[g + 1];
#pragma unroll
        for (int i = 0; i < kOwn; ++i) selected[i] = (words_[i] >> bit & 1) != 0;
      } while (first >= group_end_);
    }
    end = min(first + kQueries, group_end_);
    return true;
  }

 private:
  __device__ void load_word() {
    std::uint32_t any = 0;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int n = lane; n < num_blocks_; n += kWarp) {
      any |= selection_.column_of(head_, first_block_ + n)[word_];
    }
    left_ = __reduce_or_sync(0xffffffffu, any);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      words_[i] = own_[i] < 0 ? 0 : selection_.column_of(head_, own_[i])[word_];
    }
  }

  const SelectionView& selection_;
  int head_, first_block_, num_blocks_;
  int own_[kOwn];
  std::uint32_t words_[kOwn] = {};
  std::uint32_t left_ = 0;
  int word_ = -1, group_end_ = 0;
};

}  // namespace dsv::kernels::cuda
