#include "dsv/train/checkpoint_manifest.h"

#include <algorithm>

#include "dsv/base/check_math.h"
#include "dsv/base/crc32c.h"

namespace dsv::train {
namespace {

constexpr std::int64_t kVersion = 1;
constexpr std::string_view kFormat = "dsv-checkpoint";
constexpr std::string_view kSealBegin = ",\n \"crc32c\": \"";
constexpr std::string_view kSealEnd = "\"\n}\n";
constexpr std::size_t kSealSize = kSealBegin.size() + 8 + kSealEnd.size();
constexpr std::size_t kMaxNameBytes = 512;

std::string seal_of(std::string_view body) {
  return std::string(kSealBegin) + format("{:08x}", crc32c(body.data(), body.size())) +
         std::string(kSealEnd);
}

template <typename... Args>
[[noreturn]] void refuse(std::string_view pattern, const Args&... args) {
  throw_error(ExitCode::kCorruptInput, "{}", format(pattern, args...));
}

// Integer in [low, high].
std::int64_t read_int(const Json& value, std::string_view what, std::int64_t low,
                      std::int64_t high) {
  const std::int64_t v = value.as_int();
  if (v < low || v > high) refuse("{} is {}, expected {} to {}", what, v, low, high);
  return v;
}

const std::string& read_name(const Json& value, std::string_view what) {
  const std::string& name = value.as_string();
  if (name.empty() || name.size() > kMaxNameBytes) {
    refuse("{} has {} bytes, expected 1 to {}", what, name.size(), kMaxNameBytes);
  }
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      refuse("{} holds a control character", what);
  }
  return name;
}

ShardFile read_file_entry(const Json& entry, int rank) {
  ShardFile file;
  const std::string expected = shard_name(rank);
  const std::string& name = entry.at("name").as_string();
  // The only name there can be: no path of a manifest is ever opened.
  if (name != expected) refuse("file {} has another name than '{}'", rank, expected);
  file.num_bytes = read_int(entry.at("bytes"), expected + " bytes", 0, INT64_MAX);
  const Json::Array& crcs = entry.at("crc32c").as_array();
  const std::int64_t expected_chunks =
      file.num_bytes / kChunkBytes + (file.num_bytes % kChunkBytes != 0);
  if (static_cast<std::int64_t>(crcs.size()) != expected_chunks) {
    refuse("{} has {} checksums, its {} bytes need {}", expected, crcs.size(), file.num_bytes,
           expected_chunks);
  }
  file.chunk_crcs.reserve(crcs.size());
  for (const Json& crc : crcs) {
    file.chunk_crcs.push_back(
        static_cast<std::uint32_t>(read_int(crc, "a checksum", 0, UINT32_MAX)));
  }
  return file;
}

LogicalArray read_array_entry(const Json& entry, int num_files) {
  LogicalArray array;
  array.name = read_name(entry.at("name"), "the name of an array");
  const auto dtype = parse_dtype(entry.at("dtype").as_string());
  if (!dtype) refuse("array '{}' has an unknown dtype", array.name);
  array.dtype = *dtype;
  array.total = read_int(entry.at("total"), "'" + array.name + "' total", 0, INT64_MAX);
  for (const Json& piece : entry.at("pieces").as_array()) {
    const Json::Array& values = piece.as_array();
    if (values.size() != 3) refuse("array '{}': a piece is [begin, end, file]", array.name);
    array.pieces.push_back(
        {values[0].as_int(), values[1].as_int(),
         static_cast<int>(read_int(values[2], "'" + array.name + "' file", 0, num_files - 1)), 0});
  }
  check_coverage(array, ExitCode::kCorruptInput);
  return array;
}

Manifest read_body(const Json& body) {
  if (const std::string& found = body.at("format").as_string(); found != kFormat) {
    refuse("the format is not '{}'", kFormat);
  }
  if (const std::int64_t version = body.at("version").as_int(); version != kVersion) {
    refuse("version {} of the format, this engine reads version {}", version, kVersion);
  }
  read_int(body.at("chunk_bytes"), "chunk_bytes", kChunkBytes, kChunkBytes);
  Manifest manifest;
  manifest.meta.step = read_int(body.at("step"), "step", 0, INT64_MAX);
  manifest.meta.run_id = read_name(body.at("run_id"), "run_id");
  manifest.save_id = read_name(body.at("save_id"), "save_id");
  manifest.meta.config_yaml = body.at("config_yaml").as_string();
  manifest.meta.extra = body.at("extra");
  const Json::Array& files = body.at("files").as_array();
  if (files.empty() || files.size() > static_cast<std::size_t>(kMaxShards)) {
    refuse("{} files, expected 1 to {}", files.size(), kMaxShards);
  }
  for (const Json& entry : files) {
    manifest.files.push_back(read_file_entry(entry, static_cast<int>(manifest.files.size())));
  }
  for (const Json& entry : body.at("arrays").as_array()) {
    LogicalArray array = read_array_entry(entry, static_cast<int>(files.size()));
    // The strict order also finds names that are listed twice under one element size.
    if (!manifest.arrays.empty() && !comes_before(manifest.arrays.back(), array)) {
      refuse("array '{}' is listed twice or out of order", array.name);
    }
    manifest.arrays.push_back(std::move(array));
  }
  std::vector<std::string_view> names;
  for (const LogicalArray& array : manifest.arrays) names.push_back(array.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end()) {
    refuse("array '{}' is listed twice", *twice);
  }
  const std::vector<std::int64_t> sizes = plan_sizes(manifest);
  for (std::size_t f = 0; f < sizes.size(); ++f) {
    if (sizes[f] != manifest.files[f].num_bytes) {
      refuse("{} is said to have {} bytes, its pieces need {}", shard_name(static_cast<int>(f)),
             manifest.files[f].num_bytes, sizes[f]);
    }
  }
  return manifest;
}

}  // namespace

std::string seal_manifest(const Json& body) {
  std::string text = body.dump(1);
  DSV_CHECK(body.size() > 0 && text.ends_with("\n}"), "[checkpoint] an empty manifest");
  text.resize(text.size() - 2);
  return text + seal_of(text);
}

Json unseal_manifest(std::string_view text, const std::string& where) {
  // Byte for byte, so that no flipped bit of the seal itself goes unseen.
  if (text.size() <= kSealSize ||
      text.substr(text.size() - kSealSize) != seal_of(text.substr(0, text.size() - kSealSize))) {
    throw_error(ExitCode::kCorruptInput,
                "[checkpoint] {}: its CRC does not fit its {} bytes (damaged or cut off)", where,
                text.size());
  }
  JsonLimits limits;
  limits.max_bytes = static_cast<std::size_t>(kMaxManifestBytes);
  return parse_json(text, where, limits);
}

std::string manifest_text(const Manifest& manifest) {
  Json files = Json::array();
  for (std::size_t f = 0; f < manifest.files.size(); ++f) {
    Json crcs = Json::array();
    for (const std::uint32_t crc : manifest.files[f].chunk_crcs) crcs.push_back(crc);
    files.push_back(Json::Object{{"name", shard_name(static_cast<int>(f))},
                                 {"bytes", manifest.files[f].num_bytes},
                                 {"crc32c", std::move(crcs)}});
  }
  Json arrays = Json::array();
  for (const LogicalArray& array : manifest.arrays) {
    Json pieces = Json::array();
    for (const ShardPiece& p : array.pieces) pieces.push_back(Json::Array{p.begin, p.end, p.file});
    arrays.push_back(Json::Object{{"name", array.name},
                                  {"dtype", to_string(array.dtype)},
                                  {"total", array.total},
                                  {"pieces", std::move(pieces)}});
  }
  return seal_manifest(Json::Object{{"format", kFormat},
                                    {"version", kVersion},
                                    {"step", manifest.meta.step},
                                    {"run_id", manifest.meta.run_id},
                                    {"save_id", manifest.save_id},
                                    {"chunk_bytes", kChunkBytes},
                                    {"extra", manifest.meta.extra},
                                    {"files", std::move(files)},
                                    {"arrays", std::move(arrays)},
                                    {"config_yaml", manifest.meta.config_yaml}});
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  const Json body = unseal_manifest(text, where);
  try {
    return read_body(body);
  } catch (const Error& error) {
    std::string_view reason = error.what();
    for (const std::string_view tag : {"[checkpoint] ", "[json] "}) {
      if (reason.starts_with(tag)) reason.remove_prefix(tag.size());
    }
    throw_error(ExitCode::kCorruptInput, "[checkpoint] {}: {}", where, reason);
  }
}

}  // namespace dsv::train
