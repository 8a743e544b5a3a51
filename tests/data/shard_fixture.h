// A small shard set of random latents, for tests of everything that reads shards.
#pragma once

#include <string>
#include <vector>

#include "dsv/base/philox.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/shard_format.h"

namespace dsv::data {

struct FixtureShape {
  std::int64_t height, width, frames, count;
};

inline ShardIndex fixture_index(DType dtype = DType::kF32) {
  ShardIndex index;
  index.latent.wavelet = {.levels_t = 1, .levels_s = 1};
  index.latent.channels = 24;
  index.latent_dtype = dtype;
  index.text = {.dim = 8, .max_len = 16};
  index.text_dtype = dtype;
  return index;
}

// Value k of the raw latent of sample `id`.
inline float fixture_value(std::uint64_t id, std::int64_t k) {
  return static_cast<float>(
      3 + 2 * philox_normal({.seed = 5, .sample = id}, static_cast<std::uint64_t>(k)));
}

inline void write_fixture(const std::string& folder, const std::vector<FixtureShape>& shapes,
                          DType dtype = DType::kF32, std::int64_t shard_bytes = 20'000) {
  ShardSetWriter writer(folder, fixture_index(dtype), shard_bytes);
  int video = 0;
  for (const FixtureShape& s : shapes) {
    for (std::int64_t i = 0; i < s.count; ++i) {
      SampleRecord r;
      r.source = format("video_{}.mp4", video++);
      r.id = sample_id(r.source, 0);
      r.caption = format("clip number {}", video);
      r.height = s.height;
      r.width = s.width;
      r.frames = s.frames;
      r.fps = 16;
      const Tensor latent =
          host_tensor(latent_shape({.levels_t = 1, .levels_s = 1}, s.frames, s.height, s.width));
      for (std::int64_t k = 0; k < latent.num_elements(); ++k) {
        latent.f32()[k] = fixture_value(r.id, k);
      }
      writer.add(r, latent, hashed_text(r.caption, writer.index().text));
      writer.complete_source();
    }
  }
  writer.flush(true);
}

}  // namespace dsv::data
