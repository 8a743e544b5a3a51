// Writes clips as H.264 .mp4 files: samples, synthetic data, test clips. FFmpeg with libx264 is
// hidden in the .cpp.
#pragma once

#include <memory>
#include <string>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

struct VideoWriterOptions {
  double fps = 16;
  int crf = 16;                     // x264's quality: 0 lossless, 51 worst
  std::string preset = "veryfast";  // x264's speed
  int threads = 1;                  // the bytes depend on it; the default is the reproducible one
  // Full-resolution chroma. Off: 4:2:0, which every player shows, where width and height are even.
  bool full_chroma = false;
  bool variable_rate = false;  // frames carry their own times, in units of 1/90000 s
};

// Colours are BT.709, limited range, tagged so. The file appears under its name with finish();
// without it the destructor removes what was written. Throws Error(kEnvironment) without libx264,
// Error(kIo) when writing fails, Error(kConfig) for sizes and rates that cannot be.
class VideoWriter {
 public:
  VideoWriter(const std::string& path, std::int64_t height, std::int64_t width,
              const VideoWriterOptions& options = {});
  ~VideoWriter();
  VideoWriter(const VideoWriter&) = delete;
  VideoWriter& operator=(const VideoWriter&) = delete;

  // frame [3, H, W] f32 in [0, 1] (clamped), contiguous rows. time_s only with variable_rate,
  // rising.
  void add(const Tensor& frame);
  void add(const Tensor& frame, double time_s);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// A whole clip [3, F, H, W].
inline void write_video(const std::string& path, const Tensor& clip,
                        const VideoWriterOptions& options = {}) {
  DSV_CHECK(clip.num_dims() == 4 && clip.dim(0) == 3,
            "[video] expected a clip [3, F, H, W], got {}", clip.shape());
  VideoWriter writer(path, clip.dim(2), clip.dim(3), options);
  for (std::int64_t f = 0; f < clip.dim(1); ++f) writer.add(clip.select(1, f));
  writer.finish();
}

}  // namespace dsv::data
