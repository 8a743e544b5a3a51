// Still pictures: contact sheets of samples, previews. The PNG encoder is FFmpeg's.
#pragma once

#include <string>
#include <vector>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

// image [3, H, W] f32 in [0, 1] (clamped), contiguous rows. Atomic; throws Error(kIo), and
// Error(kEnvironment) where FFmpeg has no PNG encoder.
void write_png(const std::string& path, const Tensor& image);

// One row per clip, `columns` frames of it evenly spread from first to last, separated by lines of
// `gap` white pixels. Clips [3, F, H, W] f32 of one size each; smaller ones are padded with white.
Tensor contact_sheet(const std::vector<Tensor>& clips, std::int64_t columns, std::int64_t gap = 2);

}  // namespace dsv::data
