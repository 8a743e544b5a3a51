#include "dsv/data/latent_recipe.h"

#include <algorithm>
#include <cmath>

#include "dsv/data/host_tensor.h"
#include "dsv/data/text.h"
#include "json_reader.h"

namespace dsv::data {
namespace {

constexpr std::int64_t kMaxChannels = 65536;

Json numbers_to_json(const std::vector<double>& values) {
  Json out = Json::array();
  for (const double v : values) out.push_back(v);
  return out;
}

std::vector<double> numbers_from_json(const Json& json, const char* key, std::int64_t expected,
                                      const std::string& where) {
  const Json* list = json.find(key);
  if (list == nullptr || !list->is_array()) {
    throw_error(ExitCode::kCorruptInput, "{}: expected an array '{}'", where, key);
  }
  if (static_cast<std::int64_t>(list->size()) != expected) {
    throw_error(ExitCode::kCorruptInput, "{}: expected {} values in '{}', got {}", where, expected,
                key, list->size());
  }
  std::vector<double> out;
  for (const Json& v : list->as_array()) {
    if (!v.is_number()) {
      throw_error(ExitCode::kCorruptInput, "{}: expected numbers in '{}', got a {}", where, key,
                  v.type_name());
    }
    out.push_back(v.as_double());
  }
  return out;
}

float to_f32(const Tensor& t, std::int64_t i) {
  switch (t.dtype()) {
    case DType::kF32:
      return t.f32()[i];
    case DType::kBF16:
      return f32_from_bf16(t.bf16()[i]);
    default:
      return f32_from_f16(static_cast<const std::uint16_t*>(t.raw())[i]);
  }
}

void check_recipe(const LatentRecipe& recipe, const Tensor& latent, const Tensor& out) {
  DSV_CHECK(latent.num_dims() == 4 && latent.dim(0) == recipe.channels,
            "[latent] expected [{}, T, H, W], got {}", recipe.channels, latent.shape());
  DSV_CHECK(out.shape() == latent.shape() && latent.is_contiguous() && out.is_contiguous(),
            "[latent] expected contiguous tensors of one shape, got {} and {}", latent.shape(),
            out.shape());
  DSV_CHECK(static_cast<std::int64_t>(recipe.mean.size()) == recipe.channels &&
                recipe.std.size() == recipe.mean.size(),
            "[latent] expected mean and std of {} channels, got {} and {}", recipe.channels,
            recipe.mean.size(), recipe.std.size());
}

}  // namespace

Json to_json(const LatentRecipe& recipe) {
  Json out = Json::object();
  out.set("kind", recipe.kind);
  if (recipe.kind == "haar") {
    out.set("levels_t", recipe.wavelet.levels_t);
    out.set("levels_s", recipe.wavelet.levels_s);
  }
  out.set("channels", recipe.channels);
  out.set("mean", numbers_to_json(recipe.mean));
  out.set("std", numbers_to_json(recipe.std));
  return out;
}

LatentRecipe latent_recipe_from_json(const Json& json, const std::string& where) {
  const JsonReader in(json, where);
  LatentRecipe out;
  out.kind = in.string("kind", 256);
  if (out.kind == "haar") {
    in.finish({"kind", "levels_t", "levels_s", "channels", "mean", "std"});
  } else {
    in.finish({"kind", "channels", "mean", "std"});
  }
  out.channels = in.integer("channels", 1, kMaxChannels);
  if (out.kind == "haar") {
    out.wavelet.levels_t = static_cast<int>(in.integer("levels_t", 0, 4));
    out.wavelet.levels_s = static_cast<int>(in.integer("levels_s", 0, 5));
    if (out.channels != out.wavelet.channels()) {
      throw_error(ExitCode::kCorruptInput,
                  "{}: {} and {} levels make {} channels, 'channels' is {}", where,
                  out.wavelet.levels_t, out.wavelet.levels_s, out.wavelet.channels(), out.channels);
    }
  }
  out.mean = numbers_from_json(json, "mean", out.channels, where);
  out.std = numbers_from_json(json, "std", out.channels, where);
  for (const double v : out.mean) {
    if (!(v >= -1e30 && v <= 1e30)) {
      throw_error(ExitCode::kCorruptInput, "{}: expected 'mean' in [-1e30, 1e30], got {}", where,
                  v);
    }
  }
  for (const double v : out.std) {
    // The reciprocal must be a number, too.
    if (!(v >= 1e-30 && v <= 1e30)) {
      throw_error(ExitCode::kCorruptInput, "{}: expected 'std' in [1e-30, 1e30], got {}", where, v);
    }
  }
  return out;
}

bool normalise(const LatentRecipe& recipe, const Tensor& latent, const Tensor& out) {
  check_recipe(recipe, latent, out);
  DSV_CHECK(latent.dtype() == DType::kF32 || latent.dtype() == DType::kBF16 ||
                latent.dtype() == DType::kF16,
            "[latent] expected f32, bf16 or f16, got {}", latent.dtype());
  const std::int64_t n = latent.num_elements() / recipe.channels;
  // Without a branch per value, and in integers, where the compiler may vectorise the reduction.
  std::uint32_t bad = 0;
  const auto is_bad = [](float x) {
    return static_cast<std::uint32_t>((__builtin_bit_cast(std::uint32_t, x) & 0x7f800000u) ==
                                      0x7f800000u);
  };
  for (std::int64_t c = 0; c < recipe.channels; ++c) {
    const auto mean = static_cast<float>(recipe.mean[static_cast<std::size_t>(c)]);
    const auto scale = static_cast<float>(1.0 / recipe.std[static_cast<std::size_t>(c)]);
    float* to = out.f32() + c * n;
    if (latent.dtype() == DType::kF32) {
      const float* from = latent.f32() + c * n;
      for (std::int64_t i = 0; i < n; ++i) {
        bad |= is_bad(from[i]);
        to[i] = (from[i] - mean) * scale;
      }
    } else {
      for (std::int64_t i = 0; i < n; ++i) {
        const float x = to_f32(latent, c * n + i);
        bad |= is_bad(x);
        to[i] = (x - mean) * scale;
      }
    }
  }
  return bad == 0;
}

void denormalise(const LatentRecipe& recipe, const Tensor& z, const Tensor& out) {
  check_recipe(recipe, z, out);
  const std::int64_t n = z.num_elements() / recipe.channels;
  for (std::int64_t c = 0; c < recipe.channels; ++c) {
    const auto mean = static_cast<float>(recipe.mean[static_cast<std::size_t>(c)]);
    const auto std = static_cast<float>(recipe.std[static_cast<std::size_t>(c)]);
    const float* from = z.f32() + c * n;
    float* to = out.f32() + c * n;
    for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] * std + mean;
  }
}

Tensor decode_clip(const LatentRecipe& recipe, const Tensor& z, std::int64_t frames) {
  if (recipe.kind != "haar") {
    throw_error(ExitCode::kConfig,
                "[latent] latents of kind '{}' are decoded by tools/latents/decode.py; this engine "
                "decodes 'haar'",
                printable(recipe.kind));
  }
  const Tensor raw = host_tensor(z.shape());
  denormalise(recipe, z, raw);
  const Tensor clip = host_tensor({3, frames, z.dim(2) * recipe.wavelet.pixel_factor(),
                                   z.dim(3) * recipe.wavelet.pixel_factor()});
  wavelet_decode(recipe.wavelet, raw, clip);
  return clip;
}

LatentStatistics::LatentStatistics(std::int64_t channels)
    : count_(static_cast<std::size_t>(channels)), sum_(count_), sum_squares_(count_) {}

void LatentStatistics::add(const Tensor& latent, std::int64_t first_excluded) {
  DSV_CHECK(latent.num_dims() == 4 && latent.dim(0) == static_cast<std::int64_t>(count_.size()),
            "[latent] expected [{}, T, H, W], got {}", count_.size(), latent.shape());
  const std::int64_t n = latent.num_elements() / latent.dim(0);
  for (std::int64_t c = 0; c < std::min(first_excluded, latent.dim(0)); ++c) {
    const float* x = latent.f32() + c * n;
    double sum = 0, sum_squares = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      sum += x[i];
      sum_squares += static_cast<double>(x[i]) * x[i];
    }
    const auto at = static_cast<std::size_t>(c);
    count_[at] += static_cast<double>(n);
    sum_[at] += sum;
    sum_squares_[at] += sum_squares;
  }
}

void LatentStatistics::merge(const LatentStatistics& other) {
  DSV_CHECK(count_.size() == other.count_.size(), "[latent] statistics of {} and {} channels",
            count_.size(), other.count_.size());
  for (std::size_t c = 0; c < count_.size(); ++c) {
    count_[c] += other.count_[c];
    sum_[c] += other.sum_[c];
    sum_squares_[c] += other.sum_squares_[c];
  }
}

void LatentStatistics::finish(LatentRecipe* recipe, LatentScale scale) const {
  DSV_CHECK(recipe->channels == static_cast<std::int64_t>(count_.size()),
            "[latent] statistics of {} channels for a recipe of {}", count_.size(),
            recipe->channels);
  recipe->mean.assign(count_.size(), 0.0);
  recipe->std.assign(count_.size(), 1.0);
  double largest = 0;
  for (std::size_t c = 0; c < count_.size(); ++c) {
    if (count_[c] == 0) continue;
    const double mean = sum_[c] / count_[c];
    const double variance = sum_squares_[c] / count_[c] - mean * mean;
    recipe->mean[c] = mean;
    if (variance < 1e-12) continue;
    recipe->std[c] = std::sqrt(variance);
    largest = std::max(largest, recipe->std[c]);
  }
  if (scale == LatentScale::kShared && largest > 0) {
    recipe->std.assign(count_.size(), largest);
  }
}

Json LatentStatistics::to_json() const {
  Json out = Json::object();
  out.set("count", numbers_to_json(count_));
  out.set("sum", numbers_to_json(sum_));
  out.set("sum_squares", numbers_to_json(sum_squares_));
  return out;
}

LatentStatistics LatentStatistics::from_json(const Json& json, std::int64_t channels,
                                             const std::string& where) {
  if (!json.is_object()) {
    throw_error(ExitCode::kCorruptInput, "{}: expected an object 'statistics'", where);
  }
  LatentStatistics out(channels);
  out.count_ = numbers_from_json(json, "count", channels, where);
  out.sum_ = numbers_from_json(json, "sum", channels, where);
  out.sum_squares_ = numbers_from_json(json, "sum_squares", channels, where);
  for (std::size_t c = 0; c < out.count_.size(); ++c) {
    if (out.count_[c] < 0 || out.sum_squares_[c] < 0) {
      throw_error(ExitCode::kCorruptInput, "{}: negative count or sum of squares", where);
    }
  }
  return out;
}

}  // namespace dsv::data
