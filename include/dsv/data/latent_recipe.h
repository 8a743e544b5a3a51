// How the latents of a shard set came about and how they are normalised: everything that is needed
// to turn a generated latent into frames again. Stored in the index of a shard set; trainers store
// it in checkpoints, so that sampling needs no shards.
#pragma once

#include <string>
#include <vector>

#include "dsv/base/json.h"
#include "dsv/data/wavelet.h"

namespace dsv::data {

struct LatentRecipe {
  // "haar": wavelet.h, decoded by this engine. Any other name (a VAE's) is stored by tools and
  // decoded by them.
  std::string kind = "haar";
  WaveletSpec wavelet;  // of kind haar
  std::int64_t channels = 96;
  // Over all latents of the set: z = (latent − mean) / std is what the model sees. A LatentScale
  // says where std comes from; with that of each channel it is 1 where the channel is constant.
  std::vector<double> mean, std;
  bool operator==(const LatentRecipe&) const = default;
};

// Whose standard deviation divides a channel. Its own makes all channels count alike, in the loss
// and beside the noise: right for the channels of a VAE, and most of the work goes into fine detail
// where they are bands of a wavelet. The largest of all channels, for every one, keeps the bands'
// proportions: as a diffusion of pixels does, coarse structure outlasts detail in the noise.
enum class LatentScale { kPerChannel, kShared };

Json to_json(const LatentRecipe& recipe);
// Validates everything; Error(kCorruptInput) "WHERE: reason".
LatentRecipe latent_recipe_from_json(const Json& json, const std::string& where);

// out[c, …] = (latent[c, …] − mean[c]) / std[c]; latent [C, T, H, W] in f32, bf16 or f16, out f32
// of the same shape, may be the same memory for f32. False if a value is not finite.
bool normalise(const LatentRecipe& recipe, const Tensor& latent, const Tensor& out);
// The inverse, f32, in place allowed.
void denormalise(const LatentRecipe& recipe, const Tensor& z, const Tensor& out);

// A normalised latent [C, T, H, W] back to a clip [3, frames, height, width] f32, about [0, 1], not
// clamped. Throws Error(kConfig) for kinds that this engine cannot decode.
Tensor decode_clip(const LatentRecipe& recipe, const Tensor& z, std::int64_t frames);

// Running sums per channel, from which mean and std follow. Sums are in double and in the order of
// add, so the same samples in the same order give the same bits.
class LatentStatistics {
 public:
  LatentStatistics() = default;
  explicit LatentStatistics(std::int64_t channels);

  // Adds a raw latent [C, T, H, W] f32. Channels from `first_excluded` on are left out: a still
  // image says nothing about the bands of time differences, where it is zero by construction.
  void add(const Tensor& latent, std::int64_t first_excluded);
  void merge(const LatentStatistics& other);
  // Fills mean and std. A variance below 1e-12 and a channel without values count as std 1; with
  // kShared they do not take part, unless there are only such.
  void finish(LatentRecipe* recipe, LatentScale scale = LatentScale::kPerChannel) const;

  Json to_json() const;
  static LatentStatistics from_json(const Json& json, std::int64_t channels,
                                    const std::string& where);
  bool operator==(const LatentStatistics&) const = default;

 private:
  std::vector<double> count_, sum_, sum_squares_;
};

}  // namespace dsv::data
