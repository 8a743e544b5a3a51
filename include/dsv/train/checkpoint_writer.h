// Saves checkpoints while training goes on: a copy in host memory, a thread that writes it, and a
// commit that all ranks agree on. Protocol: docs/checkpoint.md.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "dsv/comm/communicator.h"
#include "dsv/train/checkpoint.h"

namespace dsv::train {

struct CheckpointStats {
  std::int64_t last_saved_step = -1;  // of this writer; -1: none yet
  std::int64_t num_saved = 0;
  std::int64_t num_failed = 0;
  bool last_save_failed = false;    // the outcome of the last save that ended
  std::string last_error;           // of the last failed save: path and reason, with the rank
  std::int64_t bytes_written = 0;   // by this rank, of committed saves
  double blocked_seconds = 0;       // in save, poll and drain: what training waited for
  double last_blocked_seconds = 0;  // of the last save alone, its commit included
  double last_write_seconds = 0;    // from snapshot to synced and read back, in the background
  std::int64_t num_snapshot_allocations = 0;  // constant once the state has its final size
};

class CheckpointWriter {
 public:
  struct Options {
    std::int64_t keep = 3;          // committed checkpoints that stay, at least 1
    bool async = true;              // false: save returns when the checkpoint is committed
    bool verify_after_save = true;  // read every shard back from the device before the commit
    bool check_free_space = true;   // refuse a save that cannot fit before writing
    // The step that this run resumed from. Checkpoints of later steps are then of another history:
    // they are set aside (renamed to step_N.superseded-…, never removed) at the first commit.
    std::optional<std::int64_t> resumed_step;
    Stream stream;  // of the pieces: where they are copied from a device
  };

  // Collective. Makes the folder `dir`, visible to all ranks, locks it against other writers,
  // proves that every rank can write there, and removes what died saves left. Throws on all ranks:
  // kIo when a rank cannot write, kEnvironment when another process writes there or the ranks see
  // different folders.
  CheckpointWriter(std::string dir, const Options& options, comm::Communicator& comm);
  // Not collective: a save that was not drained is given up (never half-committed) and logged.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // All of these are collective, called from the main thread of each rank.

  // Finishes the save before, if one is in flight, and copies this rank's pieces to host memory;
  // they may change when save returns. Step and run id must agree on all ranks; config and extra
  // are rank 0's. A save that fails (disk full, no permission, …) is removed, counted and logged,
  // and throws nothing. Wrong use throws on all ranks: pieces that do not tile their arrays, name
  // it.
  void save(const CheckpointMeta& meta, std::span<const StatePiece> pieces);
  // Commits the save in flight if all ranks have written theirs; returns at once otherwise.
  void poll();
  // Waits for the save in flight and commits it. Call it before exit.
  void drain();

  const CheckpointStats& stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv::train
