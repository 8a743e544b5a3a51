// Between the warpgroup that copies rows to shared memory and those that multiply them: a ring of
// slots, each with a barrier for "full" and one for "empty".
#pragma once

#include "attention/attention_tiles.cuh"
#include "cuda/mbarrier.cuh"
#include "cuda/wgmma.cuh"

namespace dsv::kernels::cuda {

constexpr int kWarpgroup = 4 * kWarp;

// Where one side stands in the ring. The copying side waits for the opposite parity, by which all
// slots are empty at first.
template <int kSlots>
struct RingPlace {
  int slot = 0, parity = 0;
  __device__ void advance() {
    if (++slot == kSlots) slot = 0, parity ^= 1;
  }
};

// A "full" barrier counts the threads that copy, each of which arrives when its copies have landed,
// and the one of them that writes what else a slot says.
constexpr int kCopyArrivals = kWarpgroup + 1;
__device__ inline void announce(std::uint64_t& full, int thread) {
  barrier_arrive_when_copied(shared_address(&full));
  if (thread == 0) barrier_arrive(shared_address(&full));
}
// Of those who multiply.
__device__ inline void wait_full(std::uint64_t& full, int parity) {
  barrier_wait(shared_address(&full), parity);
  fence_async_proxy();
}

// The copying warpgroup's share of a tile of kRows rows in blocks of 64 columns (wgmma.cuh): a
// thread keeps to one column of 16-byte chunks and to every kStep-th row.
template <int kDim, int kRows>
struct CopyShare {
  static constexpr int kChunks = kDim / 8, kStep = kWarpgroup / kChunks;
  static_assert(kStep % 8 == 0 && kRows % kStep == 0);
  int row, column;
  std::uint32_t to;  // of its first chunk within the tile; others lie kStep rows apart

  __device__ explicit CopyShare(int thread) : row(thread / kChunks), column(thread % kChunks * 8) {
    to = column / 64 * kRows * kSwizzledRow + swizzled(row, column / 8 % 8);
  }
};

// Starts a tile of the rows at positions[0 .. count - 1] of one head, zeros after them and, kGaps,
// in place of negative positions.
template <int kDim, int kRows, bool kGaps = false>
__device__ inline void start_gathered(const HeadsView<const Bf16>& from, const HeadTile& head,
                                      int thread, std::uint32_t tile, const int* positions,
                                      int count) {
  using Share = CopyShare<kDim, kRows>;
  constexpr int kAtOnce = std::min(8, kRows / Share::kStep);
  const Share share(thread);
  const char* const base =
      reinterpret_cast<const char*>(from.row_of(head.b, head.h, 0) + share.column);
  const auto stride = static_cast<std::uint32_t>(2 * from.row);
  const std::uint32_t to = tile + share.to;
  positions += share.row;
  if (!kGaps && count == kRows) {
#pragma unroll
    for (int first = 0; first < kRows; first += kAtOnce * Share::kStep) {
      std::uint32_t at[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) at[i] = positions[first + i * Share::kStep];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        copy_async_16(to + (first + i * Share::kStep) * kSwizzledRow,
                      base + static_cast<std::uint64_t>(at[i]) * stride);
      }
    }
  } else {
#pragma unroll(kGaps ? 4 : 1)
    for (int r = 0; r < kRows; r += Share::kStep) {
      const int at = r + share.row < count ? positions[r] : -1;
      copy_async_16(to + r * kSwizzledRow, base + static_cast<std::uint64_t>(max(at, 0)) * stride,
                    at >= 0);
    }
  }
}

// Starts a tile of the rows first .. first + count - 1 of one head, zeros after them.
template <int kDim, int kRows>
__device__ inline void start_range(const HeadsView<const Bf16>& from, const HeadTile& head,
                                   int thread, std::uint32_t tile, int first, int count) {
  using Share = CopyShare<kDim, kRows>;
  const Share share(thread);
  const Bf16* at = from.row_of(head.b, head.h, first + share.row) + share.column;
  const std::uint32_t to = tile + share.to;
#pragma unroll
  for (int r = 0; r < kRows; r += Share::kStep) {
    const bool there = r + share.row < count;
    copy_async_16(to + r * kSwizzledRow, there ? at : from.data, there);
    at += Share::kStep * from.row;
  }
}

// c (64 x 8 kN) = A B^T over kDim columns, or += where `add` is not 0, of tiles whose blocks lie so
// many bytes apart. Starts.
template <int kDim, int kN>
__device__ inline void start_multiply_rows(std::uint32_t a, int a_block, std::uint32_t b,
                                           int b_block, int add, float (&c)[kN][4]) {
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    wgmma_shared<0, 0>(wgmma_operand(a + k / 4 * a_block + k % 4 * 32),
                       wgmma_operand(b + k / 4 * b_block + k % 4 * 32), k == 0 ? add : 1, c);
  }
}

// c (64 x 8 kN) += A B, or = A B where `add` is 0: A (64 x 16 kK) in registers, B (16 kK rows).
template <int kK, int kN>
__device__ inline void start_multiply_add(const std::uint32_t (&a)[kK][4], std::uint32_t b,
                                          int b_block, int add, float (&c)[kN][4]) {
#pragma unroll
  for (int k = 0; k < kK; ++k) {
    wgmma_registers<1>(a[k], wgmma_operand(b + k * 2 * kSwizzledAtom, b_block), k == 0 ? add : 1,
                       c);
  }
}

// A warpgroup's accumulators, row by row times `factor` (of rows g and g + 8 of each warp), rounded
// to bf16, to rows row(0 .. 63) of a head, but not where that is negative. Rows must be packable.
template <int kDim, typename Row>
__device__ inline void store_warpgroup(const float (&c)[kDim / 8][4], const float (&factor)[2],
                                       const HeadsView<Bf16>& to, const HeadTile& head,
                                       const Row& row) {
  const int thread = fresh_thread(), lane = thread % kWarp, t = lane % 4;
  const int warp_row = thread % kWarpgroup / kWarp * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = row(warp_row + half * 8);
    Bf16* const out = at < 0 ? nullptr : to.row_of(head.b, head.h, at) + t * 8;
#pragma unroll
    for (int n = 0; n < kDim / 8; n += 4) {
      // Four lanes hold four words of each of four chunks: transposed, each has a whole chunk.
      std::uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        w[i] = pack_bf16(c[n + i][2 * half] * factor[half], c[n + i][2 * half + 1] * factor[half]);
      }
#pragma unroll
      for (int bit = 1; bit < 4; bit *= 2) {
        const bool upper = (t & bit) != 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if ((i & bit) != 0) continue;
          const std::uint32_t give = upper ? w[i] : w[i + bit];
          const std::uint32_t got = __shfl_xor_sync(0xffffffffu, give, bit);
          if (upper)
            w[i] = got;
          else
            w[i + bit] = got;
        }
      }
      if (out != nullptr)
        *reinterpret_cast<uint4*>(out + n * 8) = make_uint4(w[0], w[1], w[2], w[3]);
    }
  }
}

}  // namespace dsv::kernels::cuda
