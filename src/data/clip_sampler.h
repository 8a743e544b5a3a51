// Picks the frames of clips out of the pictures of a file, by time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "dsv/data/host_tensor.h"
#include "frame_converter.h"

namespace dsv::data {

// Fills clips from a stream of pictures in rising time.
class ClipSampler {
 public:
  struct Target {
    double time_s;
    std::size_t clip;
    std::int64_t frame;
  };

  ClipSampler(const std::vector<double>& starts_s, std::int64_t frames, double fps,
              std::int64_t height, std::int64_t width, FrameConverter& converter,
              AVRational pixel_aspect, const std::function<bool(std::size_t, const Tensor&)>& done)
      : frames_(frames),
        height_(height),
        width_(width),
        converter_(converter),
        pixel_aspect_(pixel_aspect),
        done_(done),
        clips_(starts_s.size()),
        missing_(starts_s.size(), frames),
        picture_(host_tensor({3, height, width})) {
    for (std::size_t c = 0; c < starts_s.size(); ++c) {
      for (std::int64_t f = 0; f < frames; ++f) {
        targets_.push_back({starts_s[c] + static_cast<double>(f) / fps, c, f});
      }
    }
    std::stable_sort(targets_.begin(), targets_.end(),
                     [](const Target& a, const Target& b) { return a.time_s < b.time_s; });
  }

  bool finished() const { return stopped_ || next_ == targets_.size(); }
  std::int64_t num_clips() const { return num_clips_; }

  // The next picture; takes its reference.
  void add(AVFrame& picture, double time_s) {
    while (!finished() && targets_[next_].time_s <= time_s) {
      const double wanted = targets_[next_].time_s;
      // Times come in units of the file: halfway means halfway to within a microsecond.
      const bool earlier = have_last_ && wanted - last_s_ <= time_s - wanted + 1e-6;
      take(earlier ? *last_ : picture, earlier ? last_s_ : time_s);
    }
    av_frame_unref(last_.get());
    av_frame_move_ref(last_.get(), &picture);
    last_s_ = time_s;
    have_last_ = true;
  }

  // The pictures are over: the last one stands for targets up to `tolerance_s` after it.
  void finish(double tolerance_s) {
    while (!finished() && have_last_ && targets_[next_].time_s <= last_s_ + tolerance_s) {
      take(*last_, last_s_);
    }
  }

 private:
  void take(const AVFrame& picture, double time_s) {
    const Target& target = targets_[next_++];
    if (!converted_ || converted_s_ != time_s) {
      converter_.convert(picture, pixel_aspect_, picture_);
      converted_ = true;
      converted_s_ = time_s;
    }
    Tensor& clip = clips_[target.clip];
    if (!clip.defined()) clip = host_tensor({3, frames_, height_, width_});
    const std::int64_t n = height_ * width_;
    for (std::int64_t rgb = 0; rgb < 3; ++rgb) {
      std::copy_n(picture_.f32() + rgb * n, n, clip.f32() + (rgb * frames_ + target.frame) * n);
    }
    if (--missing_[target.clip] == 0) {
      ++num_clips_;
      stopped_ = !done_(target.clip, clip);
      clip = Tensor();
    }
  }

  std::int64_t frames_, height_, width_;
  FrameConverter& converter_;
  AVRational pixel_aspect_;
  const std::function<bool(std::size_t, const Tensor&)>& done_;
  std::vector<Tensor> clips_;
  std::vector<std::int64_t> missing_;
  std::vector<Target> targets_;
  std::size_t next_ = 0;
  std::int64_t num_clips_ = 0;
  bool stopped_ = false;
  AvFramePtr last_ = make_frame();
  double last_s_ = 0;
  bool have_last_ = false;
  Tensor picture_;
  bool converted_ = false;
  double converted_s_ = 0;
};

}  // namespace dsv::data
