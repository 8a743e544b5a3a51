// What a file or folder of this engine holds, as JSON: behind `dsv inspect`.
#pragma once

#include <string>

#include "dsv/base/json.h"

namespace dsv::train {

// `path` may be a run or a folder of checkpoints ("kind": "checkpoints", one entry each), a
// checkpoint or its manifest.json ("checkpoint"), a shard set ("shards"), or a safetensors file
// ("safetensors"). "valid" and, where false, "problems" (array of texts) are always there. Without
// `verify`, manifests, sizes and headers are checked; with it every byte is: against its CRC where
// the format has them; other safetensors files are read through, "crc32c" and "non_finite" (NaN or
// infinite values, per tensor that has some) say what was found. Damage is reported, not thrown;
// throws Error(kConfig) when the path is none of these and Error(kIo) when it cannot be read at
// all.
Json inspect(const std::string& path, bool verify);

// The same for people, in lines.
std::string inspection_text(const Json& inspection);

}  // namespace dsv::train
