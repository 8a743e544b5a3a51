// Which clips an encode takes: options, buckets, starts.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <tuple>

#include "dsv/data/encoder.h"

namespace dsv::data {
namespace {

constexpr std::int64_t kMaxClips = 65536;  // what a sample id holds

std::int64_t parse_size(std::string_view text, const std::string& piece) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > 1'000'000) {
    throw_error(ExitCode::kConfig,
                "[encode] '{}' is not a bucket: expected HEIGHTxWIDTHxFRAMES, for example 64x64x16",
                piece);
  }
  return value;
}

std::string name_of(const Bucket& b) {
  return format("{}x{}x{}", b.height, b.width, b.frames);
}

}  // namespace

std::vector<Bucket> parse_buckets(const std::string& text) {
  std::vector<Bucket> buckets;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    const std::string piece = text.substr(begin, comma - begin);
    const std::size_t first = piece.find('x');
    const std::size_t second = first == std::string::npos ? first : piece.find('x', first + 1);
    if (second == std::string::npos) parse_size("", piece);
    const std::string_view view = piece;
    buckets.push_back({.height = parse_size(view.substr(0, first), piece),
                       .width = parse_size(view.substr(first + 1, second - first - 1), piece),
                       .frames = parse_size(view.substr(second + 1), piece)});
    begin = comma + 1;
  }
  return buckets;
}

void validate(const EncodeOptions& options) {
  const auto check = [](bool good, std::string_view pattern, const auto&... values) {
    if (!good) throw_error(ExitCode::kConfig, "[encode] {}", format(pattern, values...));
  };
  validate(options.wavelet);
  check(!options.buckets.empty(), "expected at least one bucket");
  for (std::size_t i = 0; i < options.buckets.size(); ++i) {
    const Bucket& b = options.buckets[i];
    check(b.height <= 4096 && b.width <= 4096 && b.frames <= 4096,
          "bucket {} is beyond 4096 per dim", name_of(b));
    latent_shape(options.wavelet, b.frames, b.height, b.width);  // throws when it does not divide
    for (std::size_t k = 0; k < i; ++k) {
      const Bucket& other = options.buckets[k];
      check(other.height != b.height || other.width != b.width || other.frames != b.frames,
            "bucket {} is listed twice", name_of(b));
    }
  }
  check(options.fps >= 0.1 && options.fps <= 240, "expected fps in [0.1, 240], got {}",
        options.fps);
  check(options.clips_per_video >= 0 && options.clips_per_video <= kMaxClips,
        "expected clips per video in [0, {}], got {}", kMaxClips, options.clips_per_video);
  check(options.stride_s == 0 || (options.stride_s >= 0.001 && options.stride_s <= 1e6),
        "expected a stride of 0 or in [0.001, 1e6] s, got {}", options.stride_s);
  check(options.text.dim >= 1 && options.text.dim <= 65536,
        "expected a text width in [1, 65536], got {}", options.text.dim);
  check(options.text.max_len >= 1 && options.text.max_len <= 4096,
        "expected a text length in [1, 4096], got {}", options.text.max_len);
  check(
      options.dtype == DType::kF32 || options.dtype == DType::kBF16 || options.dtype == DType::kF16,
      "expected latents in F32, BF16 or F16, got {}", options.dtype);
  check(options.shard_bytes >= 1 && options.shard_bytes <= (std::int64_t{64} << 30),
        "expected a shard size in [1, 64 GiB], got {} bytes", options.shard_bytes);
  check(options.threads >= 0 && options.threads <= 1024, "expected threads in [0, 1024], got {}",
        options.threads);
}

int choose_bucket(const VideoInfo& info, const std::vector<Bucket>& buckets, double fps) {
  int best = -1;
  std::tuple<std::int64_t, std::int64_t, std::int64_t> best_key;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const Bucket& b = buckets[i];
    if (info.latest_start_s(b.frames, fps) < 0) continue;
    // Aspect ratios within two percent are the same; larger keys are worse.
    const double mismatch = std::fabs(
        std::log(info.aspect * static_cast<double>(b.height) / static_cast<double>(b.width)));
    const bool enlarges = b.height > info.height || b.width > info.width;
    const std::int64_t area = b.height * b.width;
    const std::tuple key{std::llround(mismatch / 0.02), -b.frames,
                         enlarges ? std::int64_t{1} << 40 | area : -area};
    if (best < 0 || key < best_key) {
      best = static_cast<int>(i);
      best_key = key;
    }
  }
  return best;
}

std::vector<double> clip_starts(const VideoInfo& info, const Bucket& bucket,
                                const EncodeOptions& options) {
  const double latest = info.latest_start_s(bucket.frames, options.fps);
  if (latest < 0) return {};
  const double length = bucket.frames == 1 ? 1.0 : static_cast<double>(bucket.frames) / options.fps;
  const double stride = options.stride_s > 0 ? options.stride_s : length;
  const std::int64_t fit =
      1 + static_cast<std::int64_t>(std::min(latest / stride, static_cast<double>(kMaxClips - 1)));
  std::int64_t count = fit;
  bool spread = false;
  if (options.clips_per_video > 0 && options.clips_per_video < fit) {
    count = options.clips_per_video;
    spread = options.stride_s == 0;
  }
  std::vector<double> starts;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto k = static_cast<double>(i);
    const double start = spread ? latest * (k + 0.5) / static_cast<double>(count) : k * stride;
    // Whole microseconds, rounded down so that the last clip still fits.
    starts.push_back(std::floor(start * 1e6 + 1e-3) / 1e6);
  }
  return starts;
}

}  // namespace dsv::data
