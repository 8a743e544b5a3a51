// manifest.json: what makes a folder of shards a checkpoint. It is written last, ends in the CRC of
// all its bytes before, and is the first thing that a reader believes or refuses.
#pragma once

#include <string>
#include <string_view>

#include "dsv/train/checkpoint_layout.h"

namespace dsv::train {

constexpr std::string_view kManifestName = "manifest.json";
constexpr std::int64_t kMaxManifestBytes = 100'000'000;

// The text of the file. parse_manifest(manifest_text(m)) holds the same values as m.
std::string manifest_text(const Manifest& manifest);

// Checks the CRC, the types and ranges of all values, the names and coverage of all arrays, and
// that file sizes and numbers of checksums follow from the layout; sets the offsets. Allocates no
// more than a small multiple of the text's size. Throws Error(kCorruptInput), "[checkpoint] WHERE:
// …".
Manifest parse_manifest(std::string_view text, const std::string& where);

// The text with its CRC line, and back; parts of the above for tests that forge manifests.
std::string seal_manifest(const Json& body);
Json unseal_manifest(std::string_view text, const std::string& where);

}  // namespace dsv::train
