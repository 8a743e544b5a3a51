// One decoded picture to upright RGB floats of a given size.
#pragma once

#include <vector>

#include "ffmpeg.h"

namespace dsv::data {

class FrameConverter {
 public:
  // Pictures are turned counter-clockwise by quarter_turns × 90° for display.
  FrameConverter(std::int64_t height, std::int64_t width, int quarter_turns,
                 std::int64_t max_pixels)
      : height_(height), width_(width), quarter_turns_(quarter_turns), max_pixels_(max_pixels) {}

  // out [3, H, W] f32 in [0, 1] (rows contiguous). Throws Error(kCorruptInput) for pictures that
  // cannot be converted.
  void convert(const AVFrame& picture, AVRational pixel_aspect, const Tensor& out);

 private:
  void prepare(const AVFrame& picture, AVRational pixel_aspect);

  std::int64_t height_, width_;
  int quarter_turns_;
  std::int64_t max_pixels_;
  // The conversion is set up again when a picture differs from the one before.
  SwsPtr scaler_;
  int source_height_ = 0, source_width_ = 0, source_format_ = -1, source_range_ = -1,
      source_space_ = -1;
  AVRational source_aspect_{0, 1};
  std::int64_t cover_height_ = 0, cover_width_ = 0, row_bytes_ = 0;
  std::vector<std::uint8_t> rgb_;
};

}  // namespace dsv::data
