// Looks a shard set over: for `dsv data check` and `dsv data stats`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dsv/data/shard_format.h"

namespace dsv::data {

struct ShardProblem {
  std::string where;  // file, and sample where it is one
  std::string what;
  bool is_note = false;  // nothing is lost: left-over files, tensors that no sample uses
};

struct CheckReport {
  std::int64_t num_samples = 0, num_good = 0, num_shards = 0;
  std::int64_t num_bytes = 0;  // of checked payload
  double seconds = 0;
  std::vector<ShardProblem> problems;
  bool good() const;  // nothing but notes
};

// Reads every byte that the index names: index, shard headers, names, dtypes, shapes, CRC-32C,
// values that are not finite; and notes what the index does not name. Problems of the set never
// throw. progress(done, total) in samples returns false to stop.
CheckReport check_shards(const std::string& folder,
                         const std::function<bool(std::int64_t, std::int64_t)>& progress = {});

// Numbers of a set from its index alone: samples and seconds per bucket, latent recipe and the
// range of its statistics, captions (lengths, empty, distinct), bytes.
Json summarise(const ShardIndex& index);

}  // namespace dsv::data
