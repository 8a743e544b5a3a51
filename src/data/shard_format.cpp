#include "dsv/data/shard_format.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <unordered_set>

#include "dsv/base/crc32c.h"
#include "dsv/base/philox.h"
#include "dsv/data/atomic_file.h"
#include "json_reader.h"

namespace dsv::data {
namespace {

constexpr std::int64_t kVersion = 1;
constexpr std::int64_t kMaxIndexBytes = std::int64_t{2} << 30;
constexpr std::int64_t kMaxSide = 65536, kMaxFrames = 1'000'000, kMaxTextRows = 65536,
                       kMaxTextDim = 65536;

Json record_to_json(const SampleRecord& r) {
  Json shape = Json::array();
  for (const std::int64_t d : r.latent_shape) shape.push_back(d);
  // In one go: set would search.
  return Json(Json::Object{{"id", r.hex_id()},
                           {"file", r.file},
                           {"source", r.source},
                           {"clip", r.clip},
                           {"start_s", r.start_s},
                           {"caption", r.caption},
                           {"height", r.height},
                           {"width", r.width},
                           {"frames", r.frames},
                           {"fps", r.fps},
                           {"latent_shape", std::move(shape)},
                           {"text_rows", r.text_rows},
                           {"latent_crc32c", format("{:08x}", r.latent_crc32c)},
                           {"text_crc32c", format("{:08x}", r.text_crc32c)}});
}

SampleRecord record_from_json(const Json& json, const ShardIndex& index, const std::string& where) {
  const JsonReader in(json, where);
  SampleRecord r;
  r.id = in.hex("id", 16);
  r.file = in.file_name("file");
  r.source = in.string("source", 4096);
  r.clip = in.integer("clip", 0, kMaxFrames);
  r.start_s = in.number("start_s", 0, 1e9);
  r.caption = in.string("caption", 65536);
  r.height = in.integer("height", 1, kMaxSide);
  r.width = in.integer("width", 1, kMaxSide);
  r.frames = in.integer("frames", 1, kMaxFrames);
  r.fps = in.number("fps", 1e-6, 1e6);
  const Json& shape = in.at("latent_shape");
  if (!shape.is_array() || shape.size() != 4) in.fail("expected four numbers in 'latent_shape'");
  std::int64_t bytes = size_of(index.latent_dtype);
  for (const Json& d : shape.as_array()) {
    r.latent_shape.push_back(in.integer(d, "latent_shape", 1, INT32_MAX));
    if (!try_mul(bytes, r.latent_shape[-1], &bytes)) in.fail("'latent_shape' overflows");
  }
  if (r.latent_shape[0] != index.latent.channels) {
    in.fail("latent of shape {}, the set has {} channels", r.latent_shape, index.latent.channels);
  }
  if (index.latent.kind == "haar") {
    const WaveletSpec& spec = index.latent.wavelet;
    const bool divides = r.height % spec.pixel_factor() == 0 &&
                         r.width % spec.pixel_factor() == 0 &&
                         (r.frames == 1 || r.frames % spec.frame_factor() == 0);
    if (!divides || latent_shape(spec, r.frames, r.height, r.width) != r.latent_shape) {
      in.fail("latent of shape {} does not belong to a clip of {}x{}x{}", r.latent_shape, r.height,
              r.width, r.frames);
    }
  }
  r.text_rows = in.integer("text_rows", 1, kMaxTextRows);
  r.latent_crc32c = static_cast<std::uint32_t>(in.hex("latent_crc32c", 8));
  r.text_crc32c = static_cast<std::uint32_t>(in.hex("text_crc32c", 8));
  in.finish({"id", "file", "source", "clip", "start_s", "caption", "height", "width", "frames",
             "fps", "latent_shape", "text_rows", "latent_crc32c", "text_crc32c"});
  return r;
}

constexpr std::string_view kCrcBegin = ",\n\"crc32c\": \"", kCrcEnd = "\"\n}\n";

// The CRC covers every byte before its own member, which must be the last.
void check_crc(std::string_view text, std::uint32_t stored, const std::string& where) {
  const std::string suffix = format("{}{:08x}{}", kCrcBegin, stored, kCrcEnd);
  if (text.size() < suffix.size() || text.substr(text.size() - suffix.size()) != suffix) {
    throw_error(ExitCode::kCorruptInput,
                "[shards] {}: expected 'crc32c' as the last member, alone on "
                "its line",
                where);
  }
  const std::uint32_t actual = crc32c(text.data(), text.size() - suffix.size());
  if (actual != stored) {
    throw_error(ExitCode::kCorruptInput,
                "[shards] {}: CRC-32C is {:08x}, the file says {:08x}: it was changed or damaged",
                where, actual, stored);
  }
}

}  // namespace

std::string SampleRecord::hex_id() const {
  return format("{:016x}", id);
}
std::string SampleRecord::describe() const {
  return format("{} ({}, clip {})", hex_id(), printable(source), clip);
}

std::uint64_t sample_id(std::string_view relative_path, std::int64_t clip) {
  DSV_CHECK(clip >= 0 && clip < 65536, "[shards] expected a clip number in [0, 65536), got {}",
            clip);
  // FNV-1a mixes its last bytes weakly into the high bits: finish with Stafford's mix 13.
  std::uint64_t h = fnv1a(relative_path.data(), relative_path.size());
  h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ull;
  h = (h ^ (h >> 27)) * 0x94D049BB133111EBull;
  h ^= h >> 31;
  return h << 16 | static_cast<std::uint64_t>(clip);
}

std::string index_text(const ShardIndex& index) {
  Json text = Json::object();
  text.set("kind", index.text_kind);
  text.set("dim", index.text.dim);
  text.set("max_len", index.text.max_len);
  text.set("dtype", to_string(index.text_dtype));
  std::string out = "{\n\"format\": \"dsv-shards\",\n\"version\": " + std::to_string(kVersion);
  const auto member = [&](const char* key, const Json& value) {
    out += format(",\n\"{}\": ", key) + value.dump();
  };
  member("latent", to_json(index.latent));
  member("latent_dtype", to_string(index.latent_dtype));
  member("text", text);
  if (index.null_text) {
    member("null_text", Json(Json::Object{{"file", index.null_text->file},
                                          {"rows", index.null_text->rows},
                                          {"crc32c", format("{:08x}", index.null_text->crc32c)}}));
  }
  if (index.statistics) member("statistics", index.statistics->to_json());
  member("settings", index.settings);
  out += ",\n\"samples\": [";
  for (std::size_t i = 0; i < index.samples.size(); ++i) {
    out += i == 0 ? "\n" : ",\n";
    out += record_to_json(index.samples[i]).dump();
  }
  out += "\n]";
  out += format("{}{:08x}{}", kCrcBegin, crc32c(out.data(), out.size()), kCrcEnd);
  return out;
}

ShardIndex parse_index(std::string_view text, const std::string& where) {
  JsonLimits limits;
  limits.max_depth = 8;
  limits.max_bytes = static_cast<std::size_t>(kMaxIndexBytes);
  limits.max_values = 200'000'000;
  const Json root = parse_json(text, where, limits);
  const std::string here = "[shards] " + where;
  const JsonReader in(root, here);
  if (in.string("format", 64) != "dsv-shards")
    in.fail("not an index of shards: 'format' is '{}'", printable(in.string("format", 64)));
  const std::int64_t version = in.integer("version", 1, INT32_MAX);
  if (version != kVersion) {
    in.fail("version {} of the format, this program reads version {}", version, kVersion);
  }
  if (in.find("crc32c") != nullptr) {
    check_crc(text, static_cast<std::uint32_t>(in.hex("crc32c", 8)), where);
  }

  ShardIndex index;
  index.latent = latent_recipe_from_json(in.at("latent"), here + ": latent");
  index.latent_dtype = in.dtype("latent_dtype");
  const JsonReader text_in(in.at("text"), here + ": text");
  index.text_kind = text_in.string("kind", 256);
  index.text.dim = text_in.integer("dim", 1, kMaxTextDim);
  index.text.max_len = text_in.integer("max_len", 1, kMaxTextRows);
  index.text_dtype = text_in.dtype("dtype");
  text_in.finish({"kind", "dim", "max_len", "dtype"});
  if (const Json* null_text = in.find("null_text")) {
    const JsonReader null_in(*null_text, here + ": null_text");
    index.null_text = NullText{null_in.file_name("file"), null_in.integer("rows", 1, kMaxTextRows),
                               static_cast<std::uint32_t>(null_in.hex("crc32c", 8))};
    null_in.finish({"file", "rows", "crc32c"});
  }
  if (const Json* statistics = in.find("statistics")) {
    index.statistics =
        LatentStatistics::from_json(*statistics, index.latent.channels, here + ": statistics");
  }
  if (const Json* settings = in.find("settings")) {
    if (!settings->is_object()) in.fail("expected an object 'settings'");
    index.settings = *settings;
  }
  const Json& samples = in.at("samples");
  if (!samples.is_array()) in.fail("expected an array 'samples', got a {}", samples.type_name());
  in.finish({"format", "version", "crc32c", "latent", "latent_dtype", "text", "null_text",
             "statistics", "settings", "samples"});

  std::unordered_set<std::uint64_t> ids;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, Shape> shapes;
  for (const Json& json : samples.as_array()) {
    const std::string sample = format("{}: sample {}", here, index.samples.size());
    SampleRecord r = record_from_json(json, index, sample);
    if (!ids.insert(r.id).second) JsonReader(json, sample).fail("id {} occurs twice", r.hex_id());
    const auto [known, added] = shapes.try_emplace({r.height, r.width, r.frames}, r.latent_shape);
    if (!added && known->second != r.latent_shape) {
      JsonReader(json, sample)
          .fail("clips of {}x{}x{} have latents of shapes {} and {}", r.height, r.width, r.frames,
                known->second, r.latent_shape);
    }
    index.samples.push_back(std::move(r));
  }
  return index;
}

ShardIndex read_index(const std::string& folder) {
  const std::string path = folder + "/index.json";
  return parse_index(read_file(path, kMaxIndexBytes), path);
}

void write_index(const std::string& folder, const ShardIndex& index) {
  write_file_atomic(folder + "/index.json", index_text(index));
}

}  // namespace dsv::data
