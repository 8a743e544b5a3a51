// Clips side by side as one picture.
#pragma once

#include <vector>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

// One row per clip, `columns` frames of it evenly spread from first to last, separated by lines of
// `gap` white pixels. Clips [3, F, H, W] f32 of one size each; smaller ones are padded with white.
Tensor contact_sheet(const std::vector<Tensor>& clips, std::int64_t columns, std::int64_t gap = 2);

}  // namespace dsv::data
