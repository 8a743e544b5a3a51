// A selection as kernels see it, and the numbering of blocks of threads by head, group, and tile.
#pragma once

#include "attention/attention_views.cuh"
#include "dsv/kernels/sparse_attention.h"

namespace dsv::kernels::cuda {

struct SelectionView {
  const std::uint32_t* bits = nullptr;      // (B, H, G, W)
  const std::uint32_t* by_block = nullptr;  // (B, H, N, group_words): backward only
  const int* group_start = nullptr;
  const int* block_start = nullptr;  // null: block n is key n
  int G = 0, N = 0, W = 0, group_words = 0;

  // `head` counts heads of all samples.
  __device__ const std::uint32_t* row_of(std::int64_t head, int g) const {
    return bits + (head * G + g) * W;
  }
  __device__ const std::uint32_t* column_of(std::int64_t head, int n) const {
    return by_block + (head * N + n) * group_words;
  }
};

inline SelectionView selection_view(const Tensor& bits, const Tensor& group_start,
                                    const Tensor& block_start, std::int64_t num_keys) {
  const std::int64_t N = block_start ? block_start.dim(0) - 1 : num_keys;
  DSV_CHECK(num_keys < std::int64_t{1} << 30 && N < std::int64_t{1} << 30,
            "[sparse_attention] expected at most 2^30 keys, got {}", num_keys);
  SelectionView view;
  view.bits = data<const std::uint32_t>(bits);
  view.group_start = data<const int>(group_start);
  if (block_start) view.block_start = data<const int>(block_start);
  view.G = static_cast<int>(group_start.dim(0) - 1);
  view.N = static_cast<int>(N);
  view.W = static_cast<int>(ceil_div(N, 32));
  return view;
}
inline SelectionView selection_view(const SparseAttentionForward& args) {
  return selection_view(args.bits, args.group_start, args.block_start, args.k.dim(1));
}
inline SelectionView selection_view(const SparseAttentionBackward& args) {
  SelectionView view = selection_view(args.bits, args.group_start, args.block_start, args.k.dim(1));
  view.by_block = data<const std::uint32_t>(args.by_block);
  view.group_words = static_cast<int>(ceil_div(std::int64_t{view.G}, 32));
  return view;
}

// Part of a group's queries: `at.first` up to `end`, maybe none. A group takes as many tiles as the
// largest group may need; heads come one after the other.
struct GroupTile {
  HeadTile at;
  int head, g, end;
};
constexpr int tiles_per_group(int queries_per_tile) {
  return static_cast<int>(kMaxGroupQueries) / queries_per_tile;
}
__device__ inline GroupTile group_tile(const SelectionView& selection, int number,
                                       int queries_per_tile, int H) {
  const int parts = tiles_per_group(queries_per_tile);
  const int row = number / parts, head = row / selection.G, g = row % selection.G;
  const int first = selection.group_start[g] + number % parts * queries_per_tile;
  const int end = min(first + queries_per_tile, selection.group_start[g + 1]);
  return {{head / H, head % H, first}, head, g, end};
}
// That of this block; reads its number afresh (head_tile).
__device__ inline GroupTile group_tile(const SelectionView& selection, int queries_per_tile,
                                       int H) {
  int block;
  asm volatile("mov.u32 %0, %%ctaid.x;\n" : "=r"(block));
  return group_tile(selection, block, queries_per_tile, H);
}
inline int num_group_tiles(std::int64_t B, std::int64_t H, int G, int queries_per_tile) {
  return narrow<std::int32_t>(B * H * G * tiles_per_group(queries_per_tile));
}

// Slots of a tile of kSlots keys: those of single keys lie next to each other, a block has 16.
struct KeySlot {
  int block, key;  // key -1: the block has fewer
};
__device__ inline KeySlot key_slot(const SelectionView& selection, int slot) {
  if (selection.block_start == nullptr) return {slot, slot < selection.N ? slot : -1};
  constexpr int kSlots = static_cast<int>(kMaxBlockKeys);
  const int n = slot / kSlots;
  if (n >= selection.N) return {n, -1};
  const int key = selection.block_start[n] + slot % kSlots;
  return {n, key < selection.block_start[n + 1] ? key : -1};
}
inline std::int64_t num_key_slots(const SelectionView& selection) {
  return selection.block_start == nullptr ? selection.N : kMaxBlockKeys * selection.N;
}

}  // namespace dsv::kernels::cuda
