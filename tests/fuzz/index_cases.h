// Examples and cases of index.json.
#pragma once

#include <string>
#include <vector>

#include "target.h"

namespace dsv::fuzz {

// Haar latents of one level in space: 12 channels. Without a checksum.
std::string index_example();
// Latents that this engine cannot decode: any channels, any shape. Without a checksum.
std::string foreign_index_example();

std::vector<Case> index_cases();

}  // namespace dsv::fuzz
