#include "dsv/data/wavelet.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace dsv::data {
namespace {

std::int64_t reverse_bits(std::int64_t value, int bits) {
  std::int64_t out = 0;
  for (int i = 0; i < bits; ++i) out |= ((value >> i) & 1) << (bits - 1 - i);
  return out;
}

// Band (Paley order per axis) of each index of the flat transform (bits t|y|x, natural order).
std::vector<std::int64_t> band_of_index(const WaveletSpec& spec) {
  const std::int64_t side = spec.pixel_factor();
  std::vector<std::int64_t> bands(static_cast<std::size_t>(spec.bands()));
  for (std::int64_t i = 0; i < spec.bands(); ++i) {
    const std::int64_t x = i % side, y = i / side % side, t = i / (side * side);
    bands[static_cast<std::size_t>(i)] =
        (reverse_bits(t, spec.levels_t) * side + reverse_bits(y, spec.levels_s)) * side +
        reverse_bits(x, spec.levels_s);
  }
  return bands;
}

// Orthonormal Walsh–Hadamard transform over the first dim of block [size][width]: what a full Haar
// packet is on a block of 2^n. Its own inverse. Scales once at the end, exact for even n.
void transform(float* block, std::int64_t size, std::int64_t width) {
  for (std::int64_t half = 1; half < size; half *= 2) {
    for (std::int64_t begin = 0; begin < size; begin += 2 * half) {
      float* a = block + begin * width;
      float* b = a + half * width;
      for (std::int64_t i = 0; i < half * width; ++i) {
        const float sum = a[i] + b[i], difference = a[i] - b[i];
        a[i] = sum;
        b[i] = difference;
      }
    }
  }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
  for (std::int64_t i = 0; i < size * width; ++i) block[i] *= scale;
}

void check_tensors(const WaveletSpec& spec, const Tensor& clip, const Tensor& latent) {
  DSV_CHECK(clip.num_dims() == 4 && clip.dim(0) == 3 && clip.dtype() == DType::kF32 &&
                clip.is_contiguous(),
            "[wavelet] expected a contiguous f32 clip [3, F, H, W], got {}", clip.shape());
  const Shape expected = latent_shape(spec, clip.dim(1), clip.dim(2), clip.dim(3));
  DSV_CHECK(latent.shape() == expected && latent.dtype() == DType::kF32 && latent.is_contiguous(),
            "[wavelet] expected a contiguous f32 latent {}, got {}", expected, latent.shape());
}

// Calls row(rgb, t, y) for every row of blocks of the latent.
template <typename Row>
void for_each_row(const Tensor& latent, const Row& row) {
  for (std::int64_t rgb = 0; rgb < 3; ++rgb) {
    for (std::int64_t t = 0; t < latent.dim(1); ++t) {
      for (std::int64_t y = 0; y < latent.dim(2); ++y) row(rgb, t, y);
    }
  }
}

}  // namespace

void validate(const WaveletSpec& spec) {
  if (spec.levels_t < 0 || spec.levels_t > 4) {
    throw_error(ExitCode::kConfig, "[wavelet] expected 0 to 4 levels in time, got {}",
                spec.levels_t);
  }
  if (spec.levels_s < 0 || spec.levels_s > 5) {
    throw_error(ExitCode::kConfig, "[wavelet] expected 0 to 5 levels in space, got {}",
                spec.levels_s);
  }
}

Shape latent_shape(const WaveletSpec& spec, std::int64_t frames, std::int64_t height,
                   std::int64_t width) {
  validate(spec);
  if (frames < 1 || height < 1 || width < 1 || (frames != 1 && frames % spec.frame_factor() != 0) ||
      height % spec.pixel_factor() != 0 || width % spec.pixel_factor() != 0) {
    throw_error(ExitCode::kConfig,
                "[wavelet] a clip of {}x{}x{} (height x width x frames) does not divide: expected "
                "height and width to be multiples of {}, frames 1 or a multiple of {}",
                height, width, frames, spec.pixel_factor(), spec.frame_factor());
  }
  return {spec.channels(), ceil_div(frames, spec.frame_factor()), height / spec.pixel_factor(),
          width / spec.pixel_factor()};
}

void wavelet_encode(const WaveletSpec& spec, const Tensor& clip, const Tensor& latent) {
  check_tensors(spec, clip, latent);
  const std::int64_t frames = clip.dim(1), height = clip.dim(2), width = clip.dim(3);
  const std::int64_t side = spec.pixel_factor(), bands = spec.bands(), columns = latent.dim(3);
  const std::int64_t channel_stride = latent.stride(0);
  const auto band = band_of_index(spec);
  std::vector<float> block(static_cast<std::size_t>(bands * columns));
  for_each_row(latent, [&](std::int64_t rgb, std::int64_t t, std::int64_t y) {
    for (std::int64_t i = 0; i < bands; ++i) {
      const std::int64_t dx = i % side, dy = i / side % side, dt = i / (side * side);
      const std::int64_t frame = frames == 1 ? 0 : t * spec.frame_factor() + dt;
      const float* from =
          clip.f32() + ((rgb * frames + frame) * height + y * side + dy) * width + dx;
      float* to = block.data() + i * columns;
      for (std::int64_t x = 0; x < columns; ++x) to[x] = from[x * side];
    }
    transform(block.data(), bands, columns);
    for (std::int64_t i = 0; i < bands; ++i) {
      const std::int64_t channel = band[static_cast<std::size_t>(i)] * 3 + rgb;
      std::copy_n(block.data() + i * columns, columns,
                  latent.f32() + channel * channel_stride + (t * latent.dim(2) + y) * columns);
    }
  });
}

void wavelet_decode(const WaveletSpec& spec, const Tensor& latent, const Tensor& clip) {
  check_tensors(spec, clip, latent);
  const std::int64_t frames = clip.dim(1), height = clip.dim(2), width = clip.dim(3);
  const std::int64_t side = spec.pixel_factor(), bands = spec.bands(), columns = latent.dim(3);
  const std::int64_t channel_stride = latent.stride(0);
  const auto band = band_of_index(spec);
  const bool still = frames == 1;
  std::vector<float> block(static_cast<std::size_t>(bands * columns));
  for_each_row(latent, [&](std::int64_t rgb, std::int64_t t, std::int64_t y) {
    for (std::int64_t i = 0; i < bands; ++i) {
      const std::int64_t channel = band[static_cast<std::size_t>(i)] * 3 + rgb;
      float* to = block.data() + i * columns;
      if (still && channel >= spec.low_time_channels()) {
        std::fill_n(to, columns, 0.0f);
      } else {
        std::copy_n(latent.f32() + channel * channel_stride + (t * latent.dim(2) + y) * columns,
                    columns, to);
      }
    }
    transform(block.data(), bands, columns);
    for (std::int64_t i = 0; i < bands; ++i) {
      const std::int64_t dx = i % side, dy = i / side % side, dt = i / (side * side);
      if (still && dt > 0) continue;  // all frames are equal
      const std::int64_t frame = still ? 0 : t * spec.frame_factor() + dt;
      const float* from = block.data() + i * columns;
      float* to = clip.f32() + ((rgb * frames + frame) * height + y * side + dy) * width + dx;
      for (std::int64_t x = 0; x < columns; ++x) to[x * side] = from[x];
    }
  });
}

}  // namespace dsv::data
