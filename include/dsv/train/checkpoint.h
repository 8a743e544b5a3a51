// Words shared by checkpoint writing and reading. A checkpoint knows nothing of models: it holds
// flat logical arrays, written in pieces by many ranks, and one JSON value. Format:
// docs/checkpoint.md.
#pragma once

#include <cstdint>
#include <string>

#include "dsv/base/json.h"
#include "dsv/tensor/tensor.h"

namespace dsv::train {

// Elements [begin, end) of the flat logical array `name` of `total` elements: what one rank holds
// of it and writes. The pieces of all ranks must tile [0, total) exactly. A rank that holds nothing
// of an array may leave it out or give an empty piece.
struct StatePiece {
  std::string name;  // 1 to 512 bytes of UTF-8 without control characters
  DType dtype = DType::kF32;
  std::int64_t total = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  Tensor data;  // contiguous, any shape of end - begin elements; undefined when that is 0
};

struct CheckpointMeta {
  std::int64_t step = 0;    // optimizer steps done; names the folder step_N
  std::string run_id;       // the same in all checkpoints of a run
  std::string config_yaml;  // what `--dump-config` prints
  Json extra =
      Json::object();  // scalars: cursor, outlier windows, … Finite numbers keep their bits.
};

// Part `rank` of `total` elements split over `size` ranks: contiguous, in rank order, sizes differ
// by at most one `align`; tails may be empty.
struct ElementRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};
ElementRange even_share(std::int64_t total, int rank, int size, std::int64_t align = 16);

}  // namespace dsv::train
