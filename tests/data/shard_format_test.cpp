#include "dsv/data/shard_format.h"

#include <cmath>

#include "data/shard_fixture.h"
#include "data/temp_dir.h"
#include "dsv/base/crc32c.h"
#include "dsv/data/dataset.h"
#include "dsv/data/safetensors.h"
#include "support/catch.h"

using namespace dsv::data;
using dsv::DType;
using dsv::Error;
using dsv::ExitCode;
using dsv::Tensor;

namespace {

std::string refusal(const std::string& text) {
  try {
    parse_index(text, "index.json");
    return "";
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kCorruptInput);
    return e.what();
  }
}

// The text with the CRC member taken away, as other writers may leave it.
std::string without_crc(std::string text) {
  const auto at = text.rfind(",\n\"crc32c\"");
  return text.substr(0, at) + "\n}\n";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("shards: an index survives its round trip", "[shards]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 5}, {8, 16, 1, 3}});
  const ShardIndex index = read_index(dir.path());
  REQUIRE(index.samples.size() == 8);
  CHECK(index.samples[7].latent_shape == dsv::Shape{24, 1, 4, 8});
  CHECK(index.samples[0].file == "shard_00000.safetensors");
  CHECK(index.samples[7].file != "shard_00000.safetensors");  // several shards
  CHECK(index_text(index) == read_bytes(dir / "index.json"));
  CHECK(refusal(without_crc(index_text(index))) == "");
  // What says null text comes back, too.
  ShardIndex other = index;
  other.null_text = NullText{"text.safetensors", 3, 0xdeadbeef};
  other.text_kind = "umt5-xxl";
  const ShardIndex back = parse_index(index_text(other), "t");
  CHECK(back.null_text->crc32c == 0xdeadbeef);
  CHECK(index_text(back) == index_text(other));
}

TEST_CASE("shards: every malformed index is refused with its reason", "[shards]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 2}});
  const std::string good = index_text(read_index(dir.path()));
  const std::string open = without_crc(good);
  const ShardIndex index = read_index(dir.path());
  const std::string id0 = index.samples[0].hex_id(), id1 = index.samples[1].hex_id();
  struct Case {
    const char* name;
    std::string text;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"empty", "", "index.json"},
      {"array", "[]", "expected an object, got a array"},
      {"truncated", good.substr(0, good.size() / 2), "index.json"},
      {"other format", replaced(open, "dsv-shards", "tar"), "not an index of shards"},
      {"version 2", replaced(open, "\"version\": 1", "\"version\": 2"), "version 2 of the format"},
      {"version text", replaced(open, "\"version\": 1", "\"version\": \"1\""),
       "expected an integer 'version'"},
      {"caption changed under the CRC", replaced(good, "clip number 1", "clip number 7"),
       "CRC-32C is"},
      {"CRC changed", replaced(good, "\"crc32c\": \"", "\"crc32c\": \"0"),
       "expected 8 hexadecimal digits"},
      {"CRC not last",
       replaced(open, "\"version\": 1", "\"crc32c\": \"00000000\",\n\"version\": 1"),
       "expected 'crc32c' as the last member"},
      {"unknown key", replaced(open, "\"version\": 1", "\"version\": 1,\"x\":2"),
       "unknown key 'x'"},
      {"duplicate key", replaced(open, "\"version\": 1", "\"version\": 1,\"version\":1"),
       "duplicate name"},
      {"no samples", replaced(open, "\"samples\"", "\"Samples\""), "'samples' is missing"},
      {"samples an object",
       replaced(open.substr(0, open.find("\"samples\"")) + "\"samples\": {}}", "", ""),
       "expected an array 'samples'"},
      {"sample a number", replaced(open, "\"samples\": [", "\"samples\": [3,"),
       "sample 0: expected an object"},
      {"latent kind missing", replaced(open, "\"kind\":\"haar\"", "\"kine\":\"haar\""),
       "'kind' is missing"},
      {"levels out of range", replaced(open, "\"levels_t\":1", "\"levels_t\":9"),
       "expected 'levels_t' in [0, 4]"},
      {"channels do not fit levels", replaced(open, "\"channels\":24", "\"channels\":25"),
       "make 24 channels"},
      {"channels huge", replaced(open, "\"channels\":24", "\"channels\":99999999999"),
       "expected 'channels' in"},
      {"std zero", replaced(open, "\"std\":[", "\"std\":[0.0,"),
       "expected 24 values in 'std', got 25"},
      {"mean text", replaced(open, "\"mean\":[", "\"mean\":[\"NaN\","),
       "expected 24 values in 'mean'"},
      {"unknown latent key", replaced(open, "\"levels_t\":1", "\"levels_t\":1,\"y\":1"),
       "unknown key 'y'"},
      {"latent dtype", replaced(open, "\"latent_dtype\": \"F32\"", "\"latent_dtype\": \"I64\""),
       "expected F32, BF16 or F16 in 'latent_dtype'"},
      {"text dim 0", replaced(open, "\"dim\":8", "\"dim\":0"), "expected 'dim' in [1,"},
      {"text dim negative", replaced(open, "\"dim\":8", "\"dim\":-8"), "expected 'dim' in [1,"},
      {"file climbs", replaced(open, "shard_00000.safetensors", "../shard_0.safetensors"),
       "expected a plain file name"},
      {"file absolute", replaced(open, "shard_00000.safetensors", "/etc/a.safetensors"),
       "expected a plain file name"},
      {"file in folder", replaced(open, "shard_00000.safetensors", "a/b.safetensors"),
       "expected a plain file name"},
      {"file hidden", replaced(open, "shard_00000.safetensors", ".safetensors"),
       "expected a plain file name"},
      {"file with backslash", replaced(open, "shard_00000.safetensors", "..\\\\b.safetensors"),
       "expected a plain file name"},
      {"file with NUL", replaced(open, "shard_00000.safetensors", "b\\u0000.safetensors"),
       "expected a plain file name"},
      {"file of another kind", replaced(open, "shard_00000.safetensors", "passwd"),
       "expected a plain file name"},
      {"file too long",
       replaced(open, "shard_00000.safetensors", std::string(300, 'x') + ".safetensors"),
       "expected at most 255"},
      {"id short", replaced(open, id0, id0.substr(1)), "expected 16 hexadecimal digits in 'id'"},
      {"id in upper case", replaced(open, id0, "ABCDEF0123456789"),
       "expected 16 hexadecimal digits"},
      {"id twice", replaced(open, id1, id0), "occurs twice"},
      {"clip negative", replaced(open, "\"clip\":0", "\"clip\":-1"), "expected 'clip' in [0,"},
      {"start negative", replaced(open, "\"start_s\":0.0", "\"start_s\":-1"),
       "expected 'start_s' in [0,"},
      {"fps 0", replaced(open, "\"fps\":16.0", "\"fps\":0"), "expected 'fps' in"},
      {"fps beyond double", replaced(open, "\"fps\":16.0", "\"fps\":1e999"), "1e999"},
      {"height huge", replaced(open, "\"height\":8", "\"height\":4294967296"),
       "expected 'height' in [1, 65536]"},
      {"height fractional", replaced(open, "\"height\":8", "\"height\":8.0"),
       "expected an integer 'height'"},
      {"frames 0", replaced(open, "\"frames\":4", "\"frames\":0"), "expected 'frames' in [1,"},
      {"frames do not divide", replaced(open, "\"frames\":4", "\"frames\":3"),
       "does not belong to a clip of 8x8x3"},
      {"shape of another clip",
       replaced(open, "\"latent_shape\":[24,2,4,4]", "\"latent_shape\":[24,2,4,5]"),
       "does not belong to a clip"},
      {"shape with three dims",
       replaced(open, "\"latent_shape\":[24,2,4,4]", "\"latent_shape\":[24,2,4]"),
       "expected four numbers"},
      {"shape with other channels",
       replaced(open, "\"latent_shape\":[24,", "\"latent_shape\":[25,"), "the set has 24 channels"},
      {"shape overflows",
       replaced(open, "\"latent_shape\":[24,2,4,4]",
                "\"latent_shape\":[24,2147483647,2147483647,2147483647]"),
       "'latent_shape' overflows"},
      {"shape negative", replaced(open, "\"latent_shape\":[24,2,", "\"latent_shape\":[24,-2,"),
       "expected 'latent_shape' in [1,"},
      {"text rows 0", replaced(open, "\"text_rows\":3", "\"text_rows\":0"),
       "expected 'text_rows' in [1,"},
      {"CRC a number", replaced(open, "\"latent_crc32c\":\"", "\"latent_crc32c\":7,\"q\":\""),
       "expected a string 'latent_crc32c'"},
      {"unknown sample key", replaced(open, "\"clip\":0", "\"clip\":0,\"z\":0"), "unknown key 'z'"},
      {"statistics negative", replaced(open, "\"count\":[", "\"count\":[-"), "negative count"},
      {"settings a list", replaced(open, "\"settings\": {}", "\"settings\": []"),
       "expected an object 'settings'"},
      {"deep settings",
       replaced(open, "\"settings\": {}",
                "\"settings\": {\"a\":" + std::string(90, '[') + std::string(90, ']') + "}"),
       "nested deeper"},
      {"null text elsewhere",
       replaced(
           open, "\"settings\"",
           "\"null_text\": "
           "{\"file\":\"../x.safetensors\",\"rows\":1,\"crc32c\":\"00000000\"},\n\"settings\""),
       "expected a plain file name"},
      {"bad UTF-8", replaced(open, "clip number 1", "clip \xff number"), "index.json"},
  };
  REQUIRE(cases.size() >= 40);
  for (const Case& c : cases) {
    INFO(c.name);
    CHECK_THAT(refusal(c.text), Contains(c.message));
  }
}

TEST_CASE("shards: one flipped bit anywhere in an index is noticed", "[shards]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 2}});
  const std::string good = read_bytes(dir / "index.json");
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    if (refusal(bad).empty()) FAIL("byte " << i << " of " << good.size());
  }
}

TEST_CASE("shards: a mutated index is refused or read, nothing else", "[shards]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 2}});
  const std::string good = without_crc(read_bytes(dir / "index.json"));
  const dsv::PhiloxStream stream({.seed = 11});
  const std::string alphabet = "{}[]\",:0123456789-+.eE\\ufnrt \xff";
  std::uint64_t draw = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good;
    for (int k = 0; k < 3; ++k) {
      const std::size_t at = stream.word(draw++) % bad.size();
      const char c = alphabet[stream.word(draw++) % alphabet.size()];
      if (stream.word(draw++) % 2 == 0) {
        bad[at] = c;
      } else {
        bad.insert(at, 1, c);
      }
    }
    refusal(bad);  // checks that what it throws is corrupt input
  }
}

TEST_CASE("shards: statistics normalise what is read to mean 0 and deviation 1", "[shards]") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const TempDir dir;
    write_fixture(dir.path(), {{8, 8, 4, 6}, {8, 8, 2, 6}}, dtype);
    const Dataset dataset(dir.path());
    CHECK(dataset.index().latent.mean[3] == Approx(3).margin(0.5));
    std::vector<double> sum(24), sum_squares(24);
    double n = 0;
    for (std::int64_t i = 0; i < dataset.size(); ++i) {
      const Tensor z = dataset.read_latent(i);
      const std::int64_t per_channel = z.num_elements() / 24;
      n += static_cast<double>(per_channel);
      for (std::int64_t k = 0; k < z.num_elements(); ++k) {
        sum[static_cast<std::size_t>(k / per_channel)] += z.f32()[k];
        sum_squares[static_cast<std::size_t>(k / per_channel)] +=
            static_cast<double>(z.f32()[k]) * z.f32()[k];
      }
      // Back to what was written, to the precision of the dtype.
      const Tensor raw = host_tensor(z.shape());
      denormalise(dataset.index().latent, z, raw);
      const double tolerance = dtype == DType::kF32    ? 1e-5
                               : dtype == DType::kBF16 ? 0x1p-8
                                                       : 0x1p-11;
      for (std::int64_t k = 0; k < raw.num_elements(); ++k) {
        const float expected = fixture_value(dataset.record(i).id, k);
        REQUIRE(std::fabs(raw.f32()[k] - expected) <= tolerance * std::fabs(expected) + 1e-5);
      }
      CHECK(dataset.read_text(i).shape() == dsv::Shape{3, 8});
    }
    for (std::size_t c = 0; c < 24; ++c) {
      CHECK(sum[c] / n == Approx(0).margin(dtype == DType::kF32 ? 1e-5 : 3e-3));
      CHECK(sum_squares[c] / n == Approx(1).margin(dtype == DType::kF32 ? 1e-5 : 5e-3));
    }
  }
}

TEST_CASE("shards: a damaged, missing or foreign shard is an error that names the sample",
          "[shards]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 3}});
  const std::string path = dir / "shard_00000.safetensors";
  const std::string good = read_bytes(path);
  const std::string name = read_index(dir.path()).samples[1].hex_id();
  const auto message = [&](ExitCode code) -> std::string {
    try {
      const Dataset dataset(dir.path());
      dataset.read_latent(1);
      dataset.read_text(1);
      return "";
    } catch (const Error& e) {
      CHECK(e.code() == code);
      return e.what();
    }
  };
  CHECK(message(ExitCode::kOk) == "");
  const SafetensorsFile file = SafetensorsFile::open(path);
  for (const std::string& tensor : {name + ".latent", name + ".text"}) {
    std::string bad = good;
    bad[static_cast<std::size_t>(file.at(tensor).offset + 5)] ^= 1;
    write_bytes(path, bad);
    CHECK_THAT(message(ExitCode::kCorruptInput),
               Contains("sample " + name + " (video_1.mp4, clip 0)"));
    CHECK_THAT(message(ExitCode::kCorruptInput), Contains("tensor '" + tensor + "' has CRC-32C"));
  }
  write_bytes(path, good.substr(0, good.size() - 1));
  CHECK_THAT(message(ExitCode::kCorruptInput), Contains("shard_00000.safetensors"));
  std::filesystem::remove(path);
  CHECK_THAT(message(ExitCode::kIo), Contains("No such file"));
  // A shard of another set: same name, other tensors.
  const TempDir other;
  ShardSetWriter writer(other.path(), fixture_index(), 1 << 20);
  SampleRecord r;
  r.id = 77, r.height = 8, r.width = 8, r.frames = 2, r.fps = 1;
  const Tensor latent = host_tensor({24, 1, 4, 4});
  std::fill_n(latent.f32(), latent.num_elements(), 1.0f);
  writer.add(r, latent, hashed_text("x", {.dim = 8, .max_len = 4}));
  writer.complete_source();
  writer.flush(true);
  std::filesystem::copy(other / "shard_00000.safetensors", path);
  CHECK_THAT(message(ExitCode::kCorruptInput), Contains("tensor '" + name + ".latent' is missing"));
}

TEST_CASE("shards: values that are not finite are neither written nor read", "[shards]") {
  const TempDir dir;
  const auto add = [](ShardSetWriter& writer, float value) {
    SampleRecord r;
    r.source = dsv::format("v{}", value);
    r.id = sample_id(r.source, 0);
    r.height = 8, r.width = 8, r.frames = 2, r.fps = 1;
    const Tensor latent = host_tensor({24, 1, 4, 4});
    for (int k = 0; k < 384; ++k) latent.f32()[k] = static_cast<float>(k);
    latent.f32()[100] = value;
    writer.add(r, latent, hashed_text("x", {.dim = 8, .max_len = 4}));
    writer.complete_source();
  };
  ShardSetWriter writer(dir.path(), fixture_index(), 1 << 20);
  CHECK_THROWS_WITH(add(writer, NAN), Contains("latent has values that are not finite in F32"));
  ShardSetWriter halves(dir.path(), fixture_index(DType::kF16), 1 << 20);
  CHECK_THROWS_WITH(add(halves, 70000.0f), Contains("not finite in F16"));
  add(writer, 0.5f);
  writer.flush(true);
  // Another writer may do worse, with a checksum that fits.
  ShardIndex index = read_index(dir.path());
  SampleRecord& r = index.samples[0];
  const std::string path = dir / r.file;
  std::string bytes = read_bytes(path);
  const SafetensorsFile file = SafetensorsFile::open(path);
  const TensorInfo& info = file.at(r.latent_name());
  const float bad = -INFINITY;
  bytes.replace(static_cast<std::size_t>(info.offset) + 40, 4, reinterpret_cast<const char*>(&bad),
                4);
  r.latent_crc32c =
      dsv::crc32c(bytes.data() + info.offset, static_cast<std::size_t>(info.num_bytes));
  write_bytes(path, bytes);
  write_index(dir.path(), index);
  CHECK_THROWS_WITH(Dataset(dir.path()).read_latent(0),
                    Contains("latent has values that are not finite"));
}

TEST_CASE("shards: the index never names what is not written or not complete", "[shards]") {
  const TempDir dir;
  ShardSetWriter writer(dir.path(), fixture_index(), 20'000);
  const auto add = [&](const std::string& source, std::int64_t clip) {
    SampleRecord r;
    r.source = source;
    r.clip = clip;
    r.id = sample_id(source, clip);
    r.height = 8, r.width = 8, r.frames = 4, r.fps = 1;
    const Tensor latent = host_tensor({24, 2, 4, 4});
    for (std::int64_t k = 0; k < latent.num_elements(); ++k)
      latent.f32()[k] = fixture_value(r.id, k);
    writer.add(r, latent, hashed_text(source, {.dim = 8, .max_len = 4}));
  };
  add("a", 0);
  writer.flush(false);
  CHECK_FALSE(std::filesystem::exists(dir / "index.json"));  // neither written nor complete
  writer.complete_source();
  for (int i = 0; i < 8; ++i) add("b", i);  // fills a shard; b is not complete
  CHECK(writer.wants_flush());
  writer.flush(false);
  CHECK(read_index(dir.path()).samples.size() == 1);
  writer.complete_source();
  writer.flush(true);
  const ShardIndex whole = read_index(dir.path());
  CHECK(whole.samples.size() == 9);
  // Continued: the same statistics as in one go, new shards after the old ones.
  ShardSetWriter again(dir.path(), whole, 20'000);
  again.flush(true);
  CHECK(index_text(read_index(dir.path())) == index_text(whole));
  CHECK(sample_id("b", 3) >> 16 == sample_id("b", 4) >> 16);
  CHECK(sample_id("b", 3) >> 16 != sample_id("c", 3) >> 16);
}

TEST_CASE("shards: an empty set is refused where samples are needed", "[shards]") {
  const TempDir dir;
  CHECK_THROWS_WITH(Dataset(dir.path()), Contains("index.json"));
  ShardSetWriter writer(dir.path(), fixture_index(), 1000);
  writer.flush(true);
  CHECK_THROWS_WITH(Dataset(dir.path()), Contains("holds no samples"));
}
