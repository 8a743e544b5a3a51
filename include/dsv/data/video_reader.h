// Reads clips out of video files: anything FFmpeg decodes, still images included. FFmpeg is hidden
// in the .cpp. Files may be hostile or broken: every failure is an Error that names the file.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

struct VideoInfo {
  std::string codec;
  std::int64_t height = 0, width = 0;  // as shown: turned upright
  double aspect = 1;                   // width / height as shown, with the shape of pixels
  std::int64_t num_frames = 0;         // found in the file
  double last_frame_s = 0;             // time of the last frame after the first
  double period_s = 0;                 // mean time between frames; 0 for one frame
  double duration_s = 0;               // last_frame_s + period_s
  std::string damage;  // "" or what is missing from the file, as when it was cut off

  // Latest start of a clip of `frames` frames at `fps` that the file can fill (its last frame may
  // be half a period after the file's last one); negative when the file is too short.
  double latest_start_s(std::int64_t frames, double fps) const {
    return last_frame_s + period_s / 2 + 1e-9 - static_cast<double>(frames - 1) / fps;
  }
};

struct VideoLimits {
  std::int64_t max_side = 16384;
  std::int64_t max_pixels = 1 << 26;  // of a picture, also after scaling it to cover the target
  std::int64_t max_frames = 100'000'000;
};

// What happened while clips were read. `problem` is empty, or says what was wrong with the file;
// the clips handed over before are good.
struct ReadOutcome {
  std::int64_t num_clips = 0;
  std::string problem;
};

class VideoReader {
 public:
  // Opens the file and reads through it once without decoding, to know every frame's time. Throws
  // Error(kIo) when it cannot be read, Error(kCorruptInput) when it is no video, has only sound or
  // a cover picture, is empty, or exceeds the limits.
  explicit VideoReader(const std::string& path, const VideoLimits& limits = {}, int threads = 1);
  ~VideoReader();
  VideoReader(const VideoReader&) = delete;
  VideoReader& operator=(const VideoReader&) = delete;

  const VideoInfo& info() const;

  // Decodes once from the beginning and hands over one clip [3, frames, height, width] f32 in [0,
  // 1] per start (seconds after the first frame, rising; clips may overlap), each as soon as it is
  // complete. Frame i of a clip is the frame nearest in time to start + i / fps (the earlier of
  // two), so a variable rate is sampled evenly. Pictures are converted with the file's colour
  // matrix and range (BT.709 from 720 lines on and BT.601 below where it does not say), turned
  // upright, scaled to cover height × width (area average downwards, bicubic upwards) and cropped
  // at the centre. Damaged frames are dropped. done(index, clip) returns false to stop.
  ReadOutcome read_clips(const std::vector<double>& starts_s, std::int64_t frames, double fps,
                         std::int64_t height, std::int64_t width,
                         const std::function<bool(std::size_t index, const Tensor& clip)>& done);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dsv::data
