// JSON files whose last member is the CRC-32C of the bytes before it: indices and manifests.
#pragma once

#include <string>
#include <string_view>

#include "dsv/base/crc32c.h"
#include "dsv/base/format.h"

namespace dsv::fuzz {

// How the last member begins (docs/data.md, docs/checkpoint.md).
constexpr std::string_view kIndexSeal = ",\n\"crc32c\": \"", kManifestSeal = ",\n \"crc32c\": \"";

// The text without its checksum.
inline std::string unsealed(const std::string& text, std::string_view seal) {
  const auto at = text.rfind(seal);
  return at == text.npos ? text : text.substr(0, at) + "\n}\n";
}

// A text that ends in a closed object, with the right checksum.
inline std::string sealed(const std::string& text, std::string_view seal) {
  const auto at = text.rfind("\n}");
  if (at == text.npos) return text;
  const std::string body = text.substr(0, at);
  return body + std::string(seal) + format("{:08x}", crc32c(body.data(), body.size())) + "\"\n}\n";
}

}  // namespace dsv::fuzz
