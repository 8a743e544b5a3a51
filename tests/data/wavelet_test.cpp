#include "dsv/data/wavelet.h"

#include <cmath>
#include <cstring>

#include "dsv/base/philox.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/latent_recipe.h"
#include "support/catch.h"

using namespace dsv::data;
using dsv::Shape;
using dsv::Tensor;

namespace {

// Random 8-bit-like pixels and smooth ramps: both kinds of content.
Tensor test_clip(std::int64_t frames, std::int64_t height, std::int64_t width) {
  const Tensor clip = host_tensor({3, frames, height, width});
  const dsv::PhiloxStream stream({.seed = 3});
  for (std::int64_t i = 0; i < clip.num_elements(); ++i) {
    const auto x = static_cast<double>(i % width) / static_cast<double>(width);
    clip.f32()[i] = static_cast<float>(
        0.5 * x + 0.5 * dsv::philox_uniform(stream.word(static_cast<std::uint64_t>(i))));
  }
  return clip;
}

double psnr(const Tensor& a, const Tensor& b) {
  double error = 0;
  for (std::int64_t i = 0; i < a.num_elements(); ++i) {
    error += std::pow(static_cast<double>(a.f32()[i]) - b.f32()[i], 2);
  }
  return error == 0 ? 999 : -10 * std::log10(error / static_cast<double>(a.num_elements()));
}

double energy(const Tensor& t) {
  double sum = 0;
  for (std::int64_t i = 0; i < t.num_elements(); ++i)
    sum += static_cast<double>(t.f32()[i]) * t.f32()[i];
  return sum;
}

}  // namespace

TEST_CASE("wavelet: round trip at any level is at least 90 dB and keeps the energy", "[wavelet]") {
  for (int levels_t = 0; levels_t <= 4; ++levels_t) {
    for (int levels_s = 0; levels_s <= 5; ++levels_s) {
      INFO("levels " << levels_t << ", " << levels_s);
      const WaveletSpec spec{levels_t, levels_s};
      const Tensor clip = test_clip(16, 32, 64);
      const Tensor latent = host_tensor(latent_shape(spec, 16, 32, 64));
      CHECK(latent.num_elements() == clip.num_elements());
      wavelet_encode(spec, clip, latent);
      CHECK(energy(latent) == Approx(energy(clip)).epsilon(1e-5));
      const Tensor back = host_tensor(clip.shape());
      wavelet_decode(spec, latent, back);
      CHECK(psnr(clip, back) >= 90);
      // Normalised and back.
      LatentRecipe recipe{.wavelet = spec, .channels = spec.channels()};
      LatentStatistics statistics(spec.channels());
      statistics.add(latent, spec.channels());
      statistics.finish(&recipe);
      const Tensor z = host_tensor(latent.shape());
      REQUIRE(normalise(recipe, latent, z));
      CHECK(psnr(clip, decode_clip(recipe, z, 16)) >= 90);
    }
  }
}

TEST_CASE("wavelet: coefficients follow the documented formula and order", "[wavelet]") {
  const WaveletSpec spec{.levels_t = 2, .levels_s = 1};
  const Tensor clip = test_clip(8, 4, 6);
  const Tensor latent = host_tensor(latent_shape(spec, 8, 4, 6));
  REQUIRE(latent.shape() == Shape{48, 2, 2, 3});
  wavelet_encode(spec, clip, latent);
  const auto reversed = [](int b, int bits) {
    int out = 0;
    for (int i = 0; i < bits; ++i) out |= (b >> i & 1) << (bits - 1 - i);
    return out;
  };
  for (int c = 0; c < 48; ++c) {
    const int rgb = c % 3, bx = c / 3 % 2, by = c / 6 % 2, bt = c / 12;
    for (int t = 0; t < 2; ++t) {
      for (int y = 0; y < 2; ++y) {
        for (int x = 0; x < 3; ++x) {
          double sum = 0;
          for (int dt = 0; dt < 4; ++dt) {
            for (int dy = 0; dy < 2; ++dy) {
              for (int dx = 0; dx < 2; ++dx) {
                const int signs = __builtin_popcount(static_cast<unsigned>(reversed(bt, 2) & dt)) +
                                  __builtin_popcount(static_cast<unsigned>(by & dy)) +
                                  __builtin_popcount(static_cast<unsigned>(bx & dx));
                const int at = ((rgb * 8 + t * 4 + dt) * 4 + y * 2 + dy) * 6 + x * 2 + dx;
                sum += (signs % 2 == 0 ? 1 : -1) * static_cast<double>(clip.f32()[at]);
              }
            }
          }
          CHECK(latent.f32()[((c * 2 + t) * 2 + y) * 3 + x] == Approx(sum / 4).margin(1e-6));
        }
      }
    }
  }
}

TEST_CASE("wavelet: a still image shares the channels of videos, its time bands are zero",
          "[wavelet]") {
  const WaveletSpec spec{.levels_t = 2, .levels_s = 2};
  const Tensor image = test_clip(1, 8, 8);
  const Tensor latent = host_tensor(latent_shape(spec, 1, 8, 8));
  REQUIRE(latent.shape() == Shape{192, 1, 2, 2});
  wavelet_encode(spec, image, latent);
  for (std::int64_t i = spec.low_time_channels() * 4; i < latent.num_elements(); ++i) {
    REQUIRE(latent.f32()[i] == 0.0f);
  }
  const Tensor back = host_tensor(image.shape());
  wavelet_decode(spec, latent, back);
  CHECK(psnr(image, back) >= 90);
  // Generated time bands do not disturb a still image: the mean over the frames.
  for (std::int64_t i = spec.low_time_channels() * 4; i < latent.num_elements(); ++i)
    latent.f32()[i] = 9;
  wavelet_decode(spec, latent, back);
  CHECK(psnr(image, back) >= 90);
  // The same image as a video of four frames has the same latent.
  const Tensor video = host_tensor({3, 4, 8, 8});
  for (int rgb = 0; rgb < 3; ++rgb) {
    for (int f = 0; f < 4; ++f) {
      std::memcpy(video.f32() + (rgb * 4 + f) * 64, image.f32() + rgb * 64, 64 * 4);
    }
  }
  const Tensor video_latent = host_tensor(latent.shape());
  wavelet_encode(spec, video, video_latent);
  wavelet_encode(spec, image, latent);
  CHECK(std::memcmp(latent.raw(), video_latent.raw(),
                    static_cast<std::size_t>(latent.num_bytes())) == 0);
}

TEST_CASE("wavelet: clips that do not divide are refused", "[wavelet]") {
  const WaveletSpec spec{.levels_t = 1, .levels_s = 2};
  CHECK_THROWS_WITH(latent_shape(spec, 3, 64, 64), Contains("frames 1 or a multiple of 2"));
  CHECK_THROWS_WITH(latent_shape(spec, 4, 66, 64), Contains("66x64x4"));
  CHECK_THROWS_WITH(latent_shape(spec, 0, 64, 64), Contains("64x64x0"));
  CHECK_THROWS_WITH(latent_shape({.levels_t = 5}, 32, 64, 64), Contains("0 to 4 levels in time"));
  CHECK_THROWS_WITH(latent_shape({.levels_s = -1}, 32, 64, 64), Contains("0 to 5 levels in space"));
}

TEST_CASE("latent: normalised latents have mean 0 and deviation 1, constants stay finite",
          "[latent]") {
  const WaveletSpec spec{.levels_t = 1, .levels_s = 1};
  LatentStatistics statistics(24);
  LatentRecipe recipe{.wavelet = spec, .channels = 24};
  std::vector<Tensor> latents;
  for (int i = 0; i < 3; ++i) {
    latents.push_back(host_tensor({24, 2, 4, 4}));
    const Tensor& l = latents.back();
    for (std::int64_t k = 0; k < l.num_elements(); ++k) {
      const auto c = static_cast<float>(k / 32);
      l.f32()[k] = c == 5 ? 0.25f
                          : c + (1 + c) * static_cast<float>(dsv::philox_normal(
                                              {.seed = static_cast<std::uint64_t>(i)},
                                              static_cast<std::uint64_t>(k)));
    }
    statistics.add(l, 24);
  }
  statistics.finish(&recipe);
  CHECK(recipe.mean[5] == 0.25);
  CHECK(recipe.std[5] == 1.0);
  std::vector<double> sum(24), sum_squares(24);
  for (const Tensor& l : latents) {
    const Tensor z = host_tensor(l.shape());
    REQUIRE(normalise(recipe, l, z));
    for (std::int64_t k = 0; k < z.num_elements(); ++k) {
      sum[static_cast<std::size_t>(k / 32)] += z.f32()[k];
      sum_squares[static_cast<std::size_t>(k / 32)] += static_cast<double>(z.f32()[k]) * z.f32()[k];
    }
    const Tensor back = host_tensor(l.shape());
    denormalise(recipe, z, back);
    for (std::int64_t k = 0; k < z.num_elements(); ++k)
      CHECK(back.f32()[k] == Approx(l.f32()[k]).margin(1e-4));
  }
  for (std::size_t c = 0; c < 24; ++c) {
    CHECK(sum[c] / 96 == Approx(0).margin(1e-5));
    CHECK(sum_squares[c] / 96 == Approx(c == 5 ? 0 : 1).margin(1e-5));
  }
  CHECK(latent_recipe_from_json(dsv::parse_json(to_json(recipe).dump(2), "t"), "t") == recipe);
  CHECK(LatentStatistics::from_json(dsv::parse_json(statistics.to_json().dump(), "t"), 24, "t") ==
        statistics);
  // Values that are not numbers are noticed in every dtype.
  latents[0].f32()[700] = INFINITY;
  const Tensor z = host_tensor(latents[0].shape());
  CHECK_FALSE(normalise(recipe, latents[0], z));
  const Tensor halves = host_tensor(z.shape(), dsv::DType::kBF16);
  std::memset(halves.raw(), 0, static_cast<std::size_t>(halves.num_bytes()));
  CHECK(normalise(recipe, halves, z));
  halves.bf16()[1] = 0x7fc0;
  CHECK_FALSE(normalise(recipe, halves, z));
}

TEST_CASE("latent: a shared scale is the largest deviation, for every channel", "[latent]") {
  const auto finished = [](std::initializer_list<float> deviations) {
    const auto channels = static_cast<std::int64_t>(deviations.size());
    LatentStatistics statistics(channels);
    const Tensor latent = host_tensor({channels, 1, 1, 2});
    std::int64_t c = 0;
    for (const float d : deviations) {
      latent.f32()[2 * c] = 5 - d;
      latent.f32()[2 * c + 1] = 5 + d;
      ++c;
    }
    statistics.add(latent, channels);
    LatentRecipe recipe{.kind = "any", .channels = channels};
    statistics.finish(&recipe, LatentScale::kShared);
    CHECK(recipe.mean == std::vector<double>(deviations.size(), 5.0));
    return recipe.std;
  };
  CHECK(finished({0.5f, 2.0f, 0.25f}) == std::vector<double>{2, 2, 2});
  // A constant channel's 1 is no deviation of the set's; a set without any keeps it.
  CHECK(finished({0.5f, 0.0f}) == std::vector<double>{0.5, 0.5});
  CHECK(finished({0.0f, 0.0f}) == std::vector<double>{1, 1});
}

TEST_CASE("latent: still images leave the statistics of time bands alone", "[latent]") {
  const WaveletSpec spec{.levels_t = 1, .levels_s = 0};
  LatentStatistics statistics(6);
  const Tensor video = host_tensor({6, 1, 1, 2});
  const Tensor image = host_tensor({6, 1, 1, 2});
  for (int k = 0; k < 12; ++k) {
    video.f32()[k] = k % 2 == 0 ? 1.0f : 3.0f;
    image.f32()[k] = 0;
  }
  statistics.add(video, 6);
  statistics.add(image, spec.low_time_channels());
  LatentRecipe recipe{.wavelet = spec, .channels = 6};
  statistics.finish(&recipe);
  CHECK(recipe.mean[0] == 1.0);
  CHECK(recipe.mean[3] == 2.0);
  CHECK(recipe.std[3] == 1.0);
}
