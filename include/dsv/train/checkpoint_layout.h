// Where every byte of a checkpoint lies: a pure function of which rank holds which range. Writer,
// reader and `dsv inspect` derive offsets from it, so no file can claim other ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dsv/train/checkpoint.h"

namespace dsv::train {

// The unit of checksums: chunk i of a file is bytes [i, i + 1) * kChunkBytes of it.
constexpr std::int64_t kChunkBytes = std::int64_t{4} << 20;
constexpr int kMaxShards = 100'000;

// Elements [begin, end) of an array, in shard `file` at byte `offset` from the file's beginning
// (filled by plan_shards).
struct ShardPiece {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  int file = 0;
  std::int64_t offset = 0;
};

struct LogicalArray {
  std::string name;
  DType dtype = DType::kF32;
  std::int64_t total = 0;
  std::vector<ShardPiece> pieces;  // ascending, none empty

  std::int64_t num_bytes() const { return total * size_of(dtype); }
};

struct ShardFile {
  std::int64_t num_bytes = 0;
  std::vector<std::uint32_t> chunk_crcs;
};

// Everything that manifest.json says. Arrays are ordered by falling element size, then by name, so
// that every piece is aligned to its elements.
struct Manifest {
  CheckpointMeta meta;
  std::string save_id;           // 32 hex digits, new for every save
  std::vector<ShardFile> files;  // by rank
  std::vector<LogicalArray> arrays;
};

// The head of a shard file (8 length bytes and the JSON header, padded so that the payload begins
// at a multiple of 64) and the size of the whole file.
struct ShardPlan {
  std::string head;
  std::int64_t num_bytes = 0;
};

std::string shard_name(int rank);  // "rank_00003.safetensors"
std::string piece_name(std::string_view array, std::int64_t begin,
                       std::int64_t end);  // "array[0,8)"

bool comes_before(const LogicalArray& a, const LogicalArray& b);  // the order of arrays

// Throws Error(code) naming the array when its pieces overlap, leave a hole, lie outside of
// [0, total), or when total × element size does not fit in 63 bits.
void check_coverage(const LogicalArray& array, ExitCode code);

// Lays out all shards, or shard `only` alone (then the other plans stay empty), and sets the
// offsets of their pieces. The arrays must have passed check_coverage. Throws Error(kCorruptInput)
// where a size does not fit in 63 bits.
std::vector<ShardPlan> plan_shards(Manifest& manifest, int only = -1);

// The sizes of the files that plan_shards lays out, by rank, and the same offsets, without the heads: a
// hostile manifest of many pieces of one long name would make them much larger than itself.
std::vector<std::int64_t> plan_sizes(Manifest& manifest);

}  // namespace dsv::train
