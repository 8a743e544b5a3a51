// What one task of the cpu selection computes: plain numbers and pointers, the same for every
// instruction set. A unit is what is taken or left as a whole: a block, or the blocks of a tile.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "dsv/base/check_math.h"

namespace dsv::kernels::cpu {

// Groups whose masses one task holds at a time: a panel is a register tile wide at most.
constexpr std::int64_t kMaxPanelGroups = 32;
constexpr std::int64_t kMaxTileRows = 12;
// Heads whose keys are copied at a time.
constexpr std::int64_t kHeadsAtOnce = 4;
// Keys whose logits are worked on at a time; a chunk is whole units, at least one. A multiple of 12
// and 6, the rows of a register tile. The running maximum is brought up to date once a chunk.
constexpr std::int64_t kChunkKeys = 192;

// The keys' layout, the same for all heads and groups. Room for all of it comes from one block.
struct UnitTable {
  std::int64_t num_units, num_keys, num_words, num_chunks;
  int unit;                    // blocks of a unit
  bool any_empty;              // units
  const std::int32_t* start;   // (num_units + 1): first key
  const std::int32_t* size;    // (num_units): keys
  const std::int32_t* chunk;   // (num_chunks + 1): first unit
  const std::uint32_t* there;  // (num_words): blocks that have keys
};

constexpr std::int64_t padded_units(std::int64_t num_units) {
  return round_up(num_units, 64);
}
// All chunks but the last hold more than kChunkKeys - 64 keys.
constexpr std::int64_t max_chunks(std::int64_t num_keys) {
  return num_keys / (kChunkKeys - 64) + 2;
}

// Workspace of one thread in floats: masses of one panel of groups, and lists of one group. That is
// all there ever is of groups x blocks.
constexpr std::int64_t selection_scratch_floats(std::int64_t num_units, std::int64_t num_keys) {
  return padded_units(num_units) * (2 * kMaxPanelGroups + 4) +
         kMaxPanelGroups * (max_chunks(num_keys) + kChunkKeys);
}

constexpr std::int64_t kRowsAhead = 8;

// Rows of several heads: row s of head h begins at data + s row + h head.
struct HeadsRows {
  const float* data;
  std::int64_t row, head, num_rows, num_heads, r;
  const float* at(std::int64_t s, std::int64_t h) const { return data + s * row + h * head; }
  // Asks for a row that comes later: rows lie pages apart, where the processor does not look ahead.
  void fetch(std::int64_t s) const {
    for (std::int64_t h = 0; h < num_heads; ++h) __builtin_prefetch(at(s, h));
  }
};

// Proxies of the groups of one panel in these heads: (heads, r, panel width), `head_stride` apart.
struct ProxyTask {
  HeadsRows q;
  const std::int32_t* group_start;  // of the panel's first group
  std::int64_t num_groups;
  bool centre;
  float* proxies;
  std::int64_t head_stride;
  float* sums;  // (heads, r): workspace
};

// One panel of groups of one head.
struct SelectionTask {
  const float* keys;     // (num_keys, r) and up to a register tile's rows more, contiguous
  const float* proxies;  // (r, panel width)
  std::int64_t r;
  const std::int32_t* group_start;  // of the panel's first group
  std::int64_t num_groups, query_offset;
  float factor;  // of products, in units of log 2
  float mass;
  std::int64_t min_keys, max_keys;
  const UnitTable* units;
  std::uint32_t* bits;  // of the panel's first group, as the next two
  std::int32_t* num_keys;
  float* covered;
  float* scratch;
};

}  // namespace dsv::kernels::cpu
