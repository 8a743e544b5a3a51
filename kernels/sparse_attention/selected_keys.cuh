// From a group's row of bits to the positions of its keys, in ascending order, without gaps: 128
// threads decode a stretch of bits at a time into a ring in shared memory, from which tiles of keys
// are taken. What the next stretch needs from global memory is fetched while this one is used.
#pragma once

#include "sparse_attention/selection_view.cuh"

namespace dsv::kernels::cuda {

constexpr int kDecoders = 128;
// A stretch is 128 blocks or 1024 single keys: at most 2048 keys on top of what was left of the one
// before, of the tile in use, and of the one before it, at most 128 each.
constexpr int kRingKeys = 4096;
constexpr int kMostTileKeys = 128;

struct SelectedKeysStorage {
  int ring[kRingKeys];
  int totals[2][kDecoders / kWarp];
};

// Barrier: called by all threads that take part, of which the first 128 decode. kSlots: every block
// that is selected takes 16 places, with -1 for keys that it does not have.
template <typename Barrier, bool kSlots = false>
class SelectedKeys {
 public:
  __device__ SelectedKeys(const SelectionView& selection, const std::uint32_t* row, int thread,
                          SelectedKeysStorage& storage, Barrier barrier)
      : selection_(selection),
        row_(row),
        storage_(storage),
        barrier_(barrier),
        thread_(thread),
        blocks_(selection.block_start == nullptr ? 8 * kDecoders : kDecoders) {
    fetch();
  }

  // Gives up the tile before and makes the next one ready: its number of keys, 0 at the end. The
  // same in all threads, each of which may then ask for any key's position, and for whether there
  // will be more keys after this tile.
  template <int kKeys>
  __device__ int next_tile() {
    static_assert(kKeys <= kMostTileKeys && kRingKeys % kKeys == 0);
    taken_ += in_tile_;
    if (written_ - taken_ <= kKeys && first_ < selection_.N) {
      do {
        decode();
      } while (written_ - taken_ <= kKeys && first_ < selection_.N);
      barrier_();
    }
    in_tile_ = min(kKeys, written_ - taken_);
    return in_tile_;
  }
  __device__ int position(int i) const { return positions()[i]; }
  // Whole tiles were taken before this one, so that it does not wrap around.
  __device__ const int* positions() const {
    return storage_.ring + static_cast<unsigned>(taken_) % kRingKeys;
  }
  __device__ bool more() const { return written_ - taken_ > in_tile_; }

 private:
  // Starts loading this thread's part of the stretch: the word with its eight bits of single keys,
  // or with the bit of its block, and where that block lies. Nothing is computed with these before
  // they are used, so that no thread waits for them here.
  __device__ void fetch() {
    word_ = 0;
    if (thread_ >= kDecoders) return;
    if (selection_.block_start == nullptr) {
      const int first = first_ + 8 * thread_;
      if (first < selection_.N) word_ = row_[first / 32];
    } else {
      const int n = first_ + thread_;
      if (n < selection_.N) {
        word_ = row_[n / 32];
        start_ = selection_.block_start[n];
        end_ = selection_.block_start[n + 1];
      }
    }
  }
  // The keys that it selects: bit i is key `start` + i.
  __device__ std::uint32_t mask(int& start) const {
    if (selection_.block_start == nullptr) {
      start = first_ + 8 * thread_;
      const int left = max(selection_.N - start, 0);
      return word_ >> start % 32 & (left >= 8 ? 0xffu : (1u << left) - 1);
    }
    start = start_;
    return (word_ >> (first_ + thread_) % 32 & 1) != 0 ? (1u << (end_ - start_)) - 1 : 0;
  }
  __device__ void decode() {
    const int lane = thread_ % kWarp, warp = thread_ / kWarp;
    int start;
    std::uint32_t mask = this->mask(start);
    const bool selected = kSlots && (word_ >> (first_ + thread_) % 32 & 1) != 0;
    const int count = !kSlots ? __popc(mask) : selected ? static_cast<int>(kMaxBlockKeys) : 0;
    first_ += blocks_;
    fetch();
    int before = count;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, step);
      if (lane >= step) before += other;
    }
    if (thread_ < kDecoders && lane == kWarp - 1) storage_.totals[odd_][warp] = before;
    barrier_();
    int to = written_ + before - count;
#pragma unroll
    for (int w = 0; w < kDecoders / kWarp; ++w) {
      const int total = storage_.totals[odd_][w];
      if (w < warp) to += total;
      written_ += total;
    }
    odd_ ^= 1;
    if constexpr (kSlots) {
      for (int i = 0; i < count; ++i, ++to) {
        storage_.ring[static_cast<unsigned>(to) % kRingKeys] =
            (mask >> i & 1) != 0 ? start + i : -1;
      }
    } else {
      for (; mask != 0; mask &= mask - 1, ++to) {
        storage_.ring[static_cast<unsigned>(to) % kRingKeys] =
            start + __ffs(static_cast<int>(mask)) - 1;
      }
    }
  }

  const SelectionView& selection_;
  const std::uint32_t* row_;
  SelectedKeysStorage& storage_;
  Barrier barrier_;
  int thread_, blocks_;
  int first_ = 0;  // block of the stretch that was fetched
  std::uint32_t word_ = 0;
  int start_ = 0, end_ = 0;
  int written_ = 0, taken_ = 0, in_tile_ = 0;
  int odd_ = 0;
};

struct BlockBarrier {
  __device__ void operator()() const { __syncthreads(); }
};

}  // namespace dsv::kernels::cuda
