// Pieces of safetensors files for corpora.
#pragma once

#include <string>
#include <vector>

#include "target.h"

namespace dsv::fuzz {

inline std::string length_bytes(std::uint64_t n) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(n >> (8 * i));
  return out;
}

inline std::string file_of(const std::string& header, std::size_t payload_bytes = 0) {
  return length_bytes(header.size()) + header + std::string(payload_bytes, 'p');
}

// The header {"a": ENTRY}.
inline std::string one(const std::string& entry, std::size_t payload_bytes = 8) {
  return file_of("{\"a\":" + entry + "}", payload_bytes);
}

inline std::string entry(const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
  return "{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + offsets +
         "]}";
}

std::vector<Case> safetensors_cases();

}  // namespace dsv::fuzz
