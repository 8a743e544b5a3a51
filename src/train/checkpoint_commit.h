// The steps of a commit that rank 0 does alone: from a folder of synced shards to a checkpoint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint_files.h"
#include "dsv/train/checkpoint_layout.h"

namespace dsv::train {

struct CommitPlan {
  std::string dir;         // of checkpoints
  std::string unfinished;  // name of the folder there that holds the shards: "step_N.tmp-…"
  bool verify = true;      // read the manifest back and look at the size of every shard
  // Checkpoints of later steps are of another history and are set aside; a step_N that is not is
  // replaced.
  std::int64_t newest_of_history = 0;
};

// Writes and syncs manifest.json, renames the folder to step_N, syncs `dir`. When it throws, the
// folder has its old name, and what was step_N before is still there.
void commit_folder(const CommitPlan& plan, const Manifest& manifest, const FaultSite& site);

// Takes all but the newest `keep` checkpoints out of sight of readers; returns the paths to remove.
std::vector<std::string> retire_old(const std::string& dir, std::int64_t keep);

}  // namespace dsv::train
