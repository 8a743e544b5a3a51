// A block turns 256 groups by 32 words of bits through shared memory: it reads 128 bytes of a row
// at a time and writes 32. A warp turns one square of 32 x 32 bits by swapping ever smaller
// quarters between its lanes.
#include "cuda/launch.cuh"
#include "dsv/base/error.h"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kSquares = 8;  // of 32 groups, next to each other
constexpr int kWords = 32;   // of a group's row
constexpr int kThreads = 256;
constexpr int kTurnedWords = 8;  // at a time: all of them would not fit in shared memory

// Bit j of lane i's word becomes bit i of lane j's.
__device__ std::uint32_t transpose_square(std::uint32_t word) {
  constexpr std::uint32_t kLeft[5] = {0x0000ffff, 0x00ff00ff, 0x0f0f0f0f, 0x33333333, 0x55555555};
#pragma unroll
  for (int step = 0; step < 5; ++step) {
    const int half = 16 >> step;
    const std::uint32_t left = kLeft[step], other = __shfl_xor_sync(~0u, word, half);
    word = threadIdx.x & half ? (word & ~left) | (other >> half & left)
                              : (word & left) | (other & left) << half;
  }
  return word;
}

__global__ void __launch_bounds__(kThreads)
    transpose(const std::uint32_t* in, std::uint32_t* out, std::int64_t G, std::int64_t in_words,
              std::int64_t N, std::int64_t out_words, std::int64_t word_blocks) {
  __shared__ std::uint32_t rows[kSquares * 32][kWords + 1];
  __shared__ std::uint32_t turned[kTurnedWords][32][kSquares + 1];
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  const std::int64_t r = blockIdx.x / word_blocks;
  const std::int64_t first_word = blockIdx.x % word_blocks * kWords;
  const std::int64_t first_square = std::int64_t{blockIdx.y} * kSquares;
  const std::int64_t word = first_word + lane;
  for (int row = warp; row < kSquares * 32; row += kThreads / kWarp) {
    const std::int64_t g = first_square * 32 + row;
    rows[row][lane] = g < G && word < in_words ? in[(r * G + g) * in_words + word] : 0u;
  }
  for (int w = 0; w < kWords; w += kTurnedWords) {
    __syncthreads();
    for (int i = 0; i < kTurnedWords; ++i) {
      turned[i][lane][warp] = transpose_square(rows[warp * 32 + lane][w + i]);
    }
    __syncthreads();
    constexpr int kTurned = kTurnedWords * 32 * kSquares;
    for (int at = static_cast<int>(threadIdx.x); at < kTurned; at += kThreads) {
      const int column = at / kSquares;
      const std::int64_t n = (first_word + w) * 32 + column, square = first_square + at % kSquares;
      if (n >= N || square >= out_words) continue;
      out[(r * N + n) * out_words + square] = turned[column / 32][column % 32][at % kSquares];
    }
  }
}

}  // namespace

void bit_transpose(const BitTranspose& args, const Stream& stream) {
  require_session(stream);
  const std::int64_t R = args.in.dim(0), G = args.in.dim(1), in_words = args.in.dim(2);
  const std::int64_t N = args.out.dim(1), out_words = args.out.dim(2);
  if (R * N * out_words == 0) return;
  const std::int64_t word_blocks = (in_words + kWords - 1) / kWords;
  const dim3 grid(num_blocks(R * word_blocks, 1), num_blocks(out_words, kSquares));
  transpose<<<grid, kThreads, 0, native(stream)>>>(args.in.u32(), args.out.u32(), G, in_words, N,
                                                   out_words, word_blocks);
  DSV_CUDA_LAUNCHED();
}

}  // namespace dsv::kernels::cuda
