// Still pictures. The PNG encoder is FFmpeg's.
#pragma once

#include <string>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

// image [3, H, W] f32 in [0, 1] (clamped), contiguous rows. Atomic; throws Error(kIo), and Error(kEnvironment) where
// there is no FFmpeg, or it has no PNG encoder.
void write_png(const std::string& path, const Tensor& image);

}  // namespace dsv::data
