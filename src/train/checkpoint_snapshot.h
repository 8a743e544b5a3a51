// The image of a rank's shard file in host memory, and the merging of what ranks say they hold.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dsv/train/checkpoint.h"
#include "dsv/train/checkpoint_layout.h"

namespace dsv::train {

// Host memory that grows and is reused: a steady run maps it once. Pinned for the device that it is
// copied from: pageable memory would take ten times as long (wan-1.3b: 17 GB).
class SnapshotBuffer {
 public:
  SnapshotBuffer() = default;
  ~SnapshotBuffer();
  SnapshotBuffer(const SnapshotBuffer&) = delete;
  SnapshotBuffer& operator=(const SnapshotBuffer&) = delete;

  void reserve(std::int64_t num_bytes, Device from);  // contents are lost when it grows
  char* data() const { return data_; }
  std::int64_t num_allocations() const { return num_allocations_; }

 private:
  void release();

  char* data_ = nullptr;
  std::shared_ptr<void> pinned_;
  std::int64_t capacity_bytes_ = 0;
  std::int64_t num_allocations_ = 0;
};

// Throws Error(kInternal) for a piece that is not what StatePiece promises.
void check_piece(const StatePiece& piece);

// What one rank saves, as text for the other ranks.
std::string describe_pieces(const CheckpointMeta& meta, std::span<const StatePiece> pieces);
// All ranks' texts as arrays in the manifest's order. Throws Error(kInternal) where ranks save
// another step or run, and naming the array where they disagree on its type or size or do not tile
// it.
std::vector<LogicalArray> merge_pieces(std::span<const std::string> texts);

// Copies the pieces to their places in the image of shard `rank`; `manifest` is planned.
void copy_pieces(const Manifest& manifest, int rank, std::span<const StatePiece> pieces,
                 const Stream& stream, char* image);

}  // namespace dsv::train
