// Finds and reads checkpoints. Nothing in a checkpoint is believed before it is checked, and what
// is not valid is never used, nor passed over in silence.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dsv/comm/communicator.h"
#include "dsv/train/checkpoint.h"
#include "dsv/train/checkpoint_layout.h"

namespace dsv::train {

class CheckpointReader {
 public:
  struct Options {
    bool strict = false;  // an invalid newest checkpoint is an error; else the one before is tried
    bool required = false;  // an empty folder is an error
    Stream stream;          // of the tensors read to: where they are copied to a device
  };

  // Collective: the newest checkpoint in `dir` that is valid in every byte, the same on all ranks;
  // ranks share the work of checking. Each one passed over is logged as a warning with file and
  // reason. Empty only when `dir` holds no checkpoint at all, so that a start from scratch is never
  // an accident. Throws on all ranks: kCorruptInput (strict, newest invalid), kNothingToResume
  // (none valid, or none and required).
  static std::optional<CheckpointReader> open_newest_valid(const std::string& dir,
                                                           const Options& options,
                                                           comm::Communicator& comm);

  // Collective: the checkpoint in folder `path`, checked in every byte; or, without `payload`, in
  // manifest, shard sizes and shard headers. Throws on all ranks kCorruptInput, or kIo.
  static CheckpointReader open(const std::string& path, const Options& options,
                               comm::Communicator& comm, bool payload = true);

  // Collective: compares every byte with its CRC again. Throws Error(kCorruptInput) on all ranks.
  void verify(comm::Communicator& comm) const;

  const std::string& path() const { return path_; }
  const CheckpointMeta& meta() const { return manifest_->meta; }
  const Manifest& manifest() const { return *manifest_; }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  const LogicalArray* find(std::string_view name) const;

  // Not collective. Fills `out`, contiguous and of the stored dtype, with elements [begin, end) of
  // the array, whatever ranks wrote them. Throws Error(kResumeRefused) when the array is absent,
  // has another dtype or fewer elements.
  void read(std::string_view name, std::int64_t begin, std::int64_t end, const Tensor& out) const;

 private:
  CheckpointReader(std::string path, Manifest manifest, const Stream& stream);
  void check_shards(int rank, int size, bool payload) const;

  std::string path_;
  std::shared_ptr<const Manifest> manifest_;  // names in by_name_ point into it
  Stream stream_;
  std::unordered_map<std::string_view, const LogicalArray*> by_name_;
};

}  // namespace dsv::train
