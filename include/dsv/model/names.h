// Parameter names of the two families, equal to diffusers' so that weights go in and out unchanged.
#pragma once

#include <string>

#include "dsv/model/dit_config.h"

namespace dsv::model {

// Prefixes and full names; "" where the family has no such parameter.
struct Names {
  std::string patch, time_1, time_2, time_proj, text_1, text_2, head_table, head;
  std::string block;  // prefix up to the index: "blocks." or "transformer_blocks."
  // Below a block's prefix "blocks.3.":
  std::string table, self, cross, self_norm, cross_norm, ffn_norm, ffn_in, ffn_out;
};

Names names_of(const DitConfig& config);

}  // namespace dsv::model
