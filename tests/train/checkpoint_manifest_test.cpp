#include "dsv/train/checkpoint_manifest.h"

#include <functional>

#include "support/catch.h"

namespace dsv::train {
namespace {

Manifest example() {
  Manifest manifest;
  manifest.meta.step = 12;
  manifest.meta.run_id = "run 1";
  manifest.meta.config_yaml = "a: 1\nb: \"ü\"\n";
  manifest.meta.extra =
      Json::Object{{"lr", 1.0 / 3}, {"tiny", 5e-324}, {"zero", -0.0}, {"n", 9007199254740993}};
  manifest.save_id = "00112233445566778899aabbccddeeff";
  manifest.files.resize(2);
  manifest.arrays = {
      {"master", DType::kF32, 2'000'000, {{0, 1'500'000, 0}, {1'500'000, 2'000'000, 1}}},
      {"v", DType::kF32, 9, {{0, 5, 0}, {5, 9, 1}}},
      {"flags", DType::kU8, 5, {{0, 5, 1}}}};
  const std::vector<ShardPlan> plans = plan_shards(manifest);
  for (std::size_t f = 0; f < 2; ++f) {
    manifest.files[f].num_bytes = plans[f].num_bytes;
    const std::int64_t chunks = (plans[f].num_bytes + kChunkBytes - 1) / kChunkBytes;
    for (std::int64_t c = 0; c < chunks; ++c) {
      manifest.files[f].chunk_crcs.push_back(static_cast<std::uint32_t>(0xfffffff0 + c));
    }
  }
  return manifest;
}

std::string refusal(std::string_view text) {
  try {
    parse_manifest(text, "DIR/manifest.json");
    return "accepted";
  } catch (const Error& error) {
    return error.code() == ExitCode::kCorruptInput ? error.what()
                                                   : std::string("wrong code: ") + error.what();
  }
}

TEST_CASE("manifest text holds what the manifest holds", "[checkpoint]") {
  const Manifest before = example();
  REQUIRE(before.files[0].chunk_crcs.size() == 2);
  const Manifest after = parse_manifest(manifest_text(before), "m");
  CHECK(after.meta.step == before.meta.step);
  CHECK(after.meta.run_id == before.meta.run_id);
  CHECK(after.meta.config_yaml == before.meta.config_yaml);
  CHECK(after.meta.extra == before.meta.extra);
  CHECK(std::signbit(after.meta.extra.at("zero").as_double()));
  CHECK(after.save_id == before.save_id);
  REQUIRE(after.files.size() == before.files.size());
  for (std::size_t f = 0; f < 2; ++f) {
    CHECK(after.files[f].num_bytes == before.files[f].num_bytes);
    CHECK(after.files[f].chunk_crcs == before.files[f].chunk_crcs);
  }
  REQUIRE(after.arrays.size() == before.arrays.size());
  for (std::size_t a = 0; a < after.arrays.size(); ++a) {
    CHECK(after.arrays[a].name == before.arrays[a].name);
    CHECK(after.arrays[a].dtype == before.arrays[a].dtype);
    CHECK(after.arrays[a].total == before.arrays[a].total);
    REQUIRE(after.arrays[a].pieces.size() == before.arrays[a].pieces.size());
    for (std::size_t p = 0; p < after.arrays[a].pieces.size(); ++p) {
      CHECK(after.arrays[a].pieces[p].begin == before.arrays[a].pieces[p].begin);
      CHECK(after.arrays[a].pieces[p].end == before.arrays[a].pieces[p].end);
      CHECK(after.arrays[a].pieces[p].file == before.arrays[a].pieces[p].file);
      CHECK(after.arrays[a].pieces[p].offset == before.arrays[a].pieces[p].offset);
    }
  }
  CHECK(manifest_text(after) == manifest_text(before));
}

TEST_CASE("every single flipped bit and every cut of a manifest is found", "[checkpoint]") {
  const std::string good = manifest_text(example());
  std::string text = good;
  std::size_t num_accepted = 0;
  for (std::size_t bit = 0; bit < text.size() * 8; ++bit) {
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    num_accepted += refusal(text) == "accepted";
    text[bit / 8] = good[bit / 8];
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    num_accepted += refusal(std::string_view(good).substr(0, size)) == "accepted";
  }
  num_accepted += refusal(good + "\n") == "accepted";
  CHECK(num_accepted == 0);
  CHECK(refusal(good) == "accepted");
}

// Forged manifests carry a right CRC.
TEST_CASE("malicious manifests are refused with the reason", "[checkpoint]") {
  const Json good = [] {
    Json body = unseal_manifest(manifest_text(example()), "m");
    std::erase_if(body.as_object(), [](const Json::Member& m) { return m.first == "crc32c"; });
    return body;
  }();
  REQUIRE(refusal(seal_manifest(good)) == "accepted");

  const auto file = [](Json& b, std::size_t i) -> Json& {
    return const_cast<Json&>(b.at("files")).as_array()[i];
  };
  const auto array = [](Json& b, std::size_t i) -> Json& {
    return const_cast<Json&>(b.at("arrays")).as_array()[i];
  };
  const auto pieces = [&](Json& b, std::size_t i) -> Json::Array& {
    return const_cast<Json&>(array(b, i).at("pieces")).as_array();
  };
  const auto crcs = [&](Json& b, std::size_t i) -> Json::Array& {
    return const_cast<Json&>(file(b, i).at("crc32c")).as_array();
  };
  const std::int64_t huge = INT64_MAX;
  struct Case {
    const char* name;
    std::function<void(Json&)> forge;
    const char* reason;
  };
  const Case cases[] = {
      {"parent path", [&](Json& b) { file(b, 0).set("name", "../rank_00000.safetensors"); },
       "another name"},
      {"absolute path", [&](Json& b) { file(b, 1).set("name", "/etc/passwd"); }, "another name"},
      {"same file twice", [&](Json& b) { file(b, 1).set("name", "rank_00000.safetensors"); },
       "another name"},
      {"NUL in name", [&](Json& b) { file(b, 0).set("name", std::string("rank\0", 5)); },
       "another name"},
      {"name of wrong type", [&](Json& b) { file(b, 0).set("name", 1); }, "expected string"},
      {"file is no object", [&](Json& b) { file(b, 0) = Json(1); }, "expected object"},
      {"no files", [&](Json& b) { b.set("files", Json::array()); }, "0 files"},
      {"files of wrong type", [&](Json& b) { b.set("files", Json::object()); }, "expected array"},
      {"surplus file",
       [&](Json& b) {
         Json more = file(b, 1);
         more.set("name", "rank_00002.safetensors");
         const_cast<Json&>(b.at("files")).push_back(more);
       },
       "is said to have"},
      {"missing file", [&](Json& b) { const_cast<Json&>(b.at("files")).as_array().pop_back(); },
       "file is 1"},
      {"huge file", [&](Json& b) { file(b, 0).set("bytes", huge); }, "checksums"},
      {"negative file", [&](Json& b) { file(b, 0).set("bytes", -1); }, "bytes is -1"},
      {"size beyond 63 bits", [&](Json& b) { file(b, 0).set("bytes", std::uint64_t{1} << 63); },
       "64-bit integer"},
      {"fractional size", [&](Json& b) { file(b, 0).set("bytes", 1.5); }, "64-bit integer"},
      {"one byte less",
       [&](Json& b) { file(b, 1).set("bytes", file(b, 1).at("bytes").as_int() - 1); },
       "is said to have"},
      {"missing checksum", [&](Json& b) { crcs(b, 0).pop_back(); }, "checksums"},
      {"surplus checksum", [&](Json& b) { crcs(b, 0).push_back(1); }, "checksums"},
      {"checksum too large", [&](Json& b) { crcs(b, 0)[0] = Json(std::int64_t{1} << 32); },
       "a checksum is"},
      {"array twice", [&](Json& b) { array(b, 1).set("name", "master"); }, "listed twice"},
      {"array twice, other type", [&](Json& b) { array(b, 2).set("name", "v"); }, "listed twice"},
      {"arrays out of order", [&](Json& b) { std::swap(array(b, 0), array(b, 1)); },
       "out of order"},
      {"empty name", [&](Json& b) { array(b, 0).set("name", ""); }, "0 bytes"},
      {"long name", [&](Json& b) { array(b, 0).set("name", std::string(513, 'x')); }, "513 bytes"},
      {"control character", [&](Json& b) { array(b, 0).set("name", "a\nb"); }, "control character"},
      {"unknown dtype", [&](Json& b) { array(b, 0).set("dtype", "F8"); }, "unknown dtype"},
      {"huge total", [&](Json& b) { array(b, 0).set("total", huge); }, "not possible"},
      {"total too small", [&](Json& b) { array(b, 0).set("total", 1'999'999); },
       "of 1999999 elements"},
      {"total too large", [&](Json& b) { array(b, 0).set("total", 2'000'001); }, "are in no shard"},
      {"negative total", [&](Json& b) { array(b, 0).set("total", -4); }, "total is -4"},
      {"hole", [&](Json& b) { pieces(b, 0).erase(pieces(b, 0).begin()); }, "are in no shard"},
      {"overlap",
       [&](Json& b) {
         pieces(b, 1)[1] = Json::Array{4, 9, 1};
       },
       "in shard 0 and in shard 1"},
      {"piece listed twice", [&](Json& b) { pieces(b, 1).push_back(pieces(b, 1)[1]); },
       "in shard 1 and in"},
      {"reversed piece",
       [&](Json& b) {
         pieces(b, 1)[0] = Json::Array{5, 0, 0};
       },
       "holds [5, 0)"},
      {"negative piece",
       [&](Json& b) {
         pieces(b, 1)[0] = Json::Array{-5, 5, 0};
       },
       "holds [-5, 5)"},
      {"piece ends at 2^63",
       [&](Json& b) {
         pieces(b, 1)[1] = Json::Array{5, huge, 1};
       },
       "of 9 elements"},
      {"file out of range",
       [&](Json& b) {
         pieces(b, 1)[0] = Json::Array{0, 5, 2};
       },
       "file is 2"},
      {"negative file index",
       [&](Json& b) {
         pieces(b, 1)[0] = Json::Array{0, 5, -1};
       },
       "file is -1"},
      {"piece moved to the other file",
       [&](Json& b) {
         pieces(b, 2)[0] = Json::Array{0, 5, 0};
       },
       "is said to have"},
      {"short piece",
       [&](Json& b) {
         pieces(b, 1)[0] = Json::Array{0, 5};
       },
       "[begin, end, file]"},
      {"piece of wrong type", [&](Json& b) { pieces(b, 1)[0] = Json("x"); }, "expected array"},
      {"other format", [&](Json& b) { b.set("format", "zip"); }, "format is not"},
      {"newer version", [&](Json& b) { b.set("version", 2); }, "reads version 1"},
      {"other chunks", [&](Json& b) { b.set("chunk_bytes", 1); }, "chunk_bytes is 1"},
      {"negative step", [&](Json& b) { b.set("step", -1); }, "step is -1"},
      {"no run", [&](Json& b) { b.set("run_id", ""); }, "run_id has 0 bytes"},
      {"config of wrong type", [&](Json& b) { b.set("config_yaml", Json()); }, "expected string"},
      {"missing key", [&](Json& b) { b.as_object().erase(b.as_object().begin() + 4); },
       "'save_id' is missing"},
      {"deep nesting",
       [&](Json& b) {
         Json deep = 1;
         for (int i = 0; i < 100; ++i) deep = Json(Json::Array{deep});
         b.set("extra", deep);
       },
       "nested deeper"},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    Json forged = good;
    c.forge(forged);
    CHECK_THAT(refusal(seal_manifest(forged)), Contains(c.reason) && Contains("DIR/manifest.json"));
  }

  // A sum of pieces that wraps around 2^63 although each of them fits.
  Json wraps = good;
  const std::int64_t quarter = huge / 4 / 4;
  for (const char* name : {"w1", "w2", "w3", "w4", "w5"}) {
    const_cast<Json&>(wraps.at("arrays"))
        .as_array()
        .insert(const_cast<Json&>(wraps.at("arrays")).as_array().end() - 1,
                Json::Object{{"name", name},
                             {"dtype", "F32"},
                             {"total", quarter},
                             {"pieces", Json::Array{Json::Array{0, quarter, 0}}}});
  }
  CHECK_THAT(refusal(seal_manifest(wraps)), Contains("2^63 bytes"));
}

}  // namespace
}  // namespace dsv::train
