// Latents without a pretrained autoencoder: an invertible orthonormal 3-D Haar transform of RGB
// clips. Every level splits every band again (a wavelet packet), so all bands have one size and a
// latent position sees exactly its own block of 2^levels_t frames × 2^levels_s rows × 2^levels_s
// columns.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::data {

struct WaveletSpec {
  int levels_t = 1;  // [0, 4]
  int levels_s = 2;  // [0, 5]

  std::int64_t frame_factor() const { return std::int64_t{1} << levels_t; }
  std::int64_t pixel_factor() const { return std::int64_t{1} << levels_s; }
  std::int64_t bands() const { return frame_factor() * pixel_factor() * pixel_factor(); }
  std::int64_t channels() const { return 3 * bands(); }
  // Channels below this see no difference in time: 3·4^levels_s.
  std::int64_t low_time_channels() const { return 3 * pixel_factor() * pixel_factor(); }
  bool operator==(const WaveletSpec&) const = default;
};

// Throws Error(kConfig) for levels out of range.
void validate(const WaveletSpec& spec);

// [3·4^ls·2^lt, F/2^lt, H/2^ls, W/2^ls] of a clip; one frame gives one latent frame. Throws
// Error(kConfig) when the clip does not divide.
Shape latent_shape(const WaveletSpec& spec, std::int64_t frames, std::int64_t height,
                   std::int64_t width);

// clip [3, F, H, W] f32 → latent, f32 of latent_shape. Both contiguous on the host.
// latent[(bt·4^ls + by·2^ls + bx)·3 + rgb, t, y, x] =
//   2^(−(lt + 2·ls)/2) · Σ over the block of clip · (−1)^(popcounts of rev(b) & position, per axis)
// with rev the reversal of an axis' band bits (Paley order): band 0 is the mean, band 1 the
// coarsest difference, the last bands the finest. So the low band comes first: channels 0–2 are the
// scaled mean colour. A clip of one frame is taken as 2^lt equal frames: its bands of time
// differences are zero, so still images share the channels of videos.
void wavelet_encode(const WaveletSpec& spec, const Tensor& clip, const Tensor& latent);

// The inverse, into clip [3, F, H, W]. For F = 1 (and one latent frame) the bands of time
// differences are ignored, which is the mean of the 2^lt frames.
void wavelet_decode(const WaveletSpec& spec, const Tensor& latent, const Tensor& clip);

}  // namespace dsv::data
