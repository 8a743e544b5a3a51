// train/checkpoint_manifest: manifest.json of a checkpoint.
#include <memory>

#include "dsv/train/checkpoint_manifest.h"
#include "json_text.h"
#include "sealed_json.h"
#include "target.h"

namespace dsv::fuzz {
namespace {

using train::LogicalArray;
using train::Manifest;

std::string unsealed(const std::string& text) {
  return fuzz::unsealed(text, kManifestSeal);
}
std::string sealed(const std::string& text) {
  return fuzz::sealed(text, kManifestSeal);
}

// Pieces lie inside their files, and no two share a byte.
void check(const Manifest& manifest) {
  std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> ranges(manifest.files.size());
  for (const LogicalArray& array : manifest.arrays) {
    std::int64_t covered = 0;
    for (const train::ShardPiece& p : array.pieces) {
      promise(p.begin == covered && p.end > p.begin, "'{}' has a piece [{}, {})", array.name,
              p.begin, p.end);
      covered = p.end;
      promise(p.file >= 0 && p.file < static_cast<int>(ranges.size()), "'{}' is in file {}",
              array.name, p.file);
      ranges[static_cast<std::size_t>(p.file)].emplace_back(
          p.offset, p.offset + (p.end - p.begin) * size_of(array.dtype));
    }
    promise(covered == array.total, "'{}' has {} of {} elements", array.name, covered, array.total);
  }
  for (std::size_t f = 0; f < ranges.size(); ++f) {
    std::sort(ranges[f].begin(), ranges[f].end());
    std::int64_t end = 0;
    for (const auto& range : ranges[f]) {
      promise(range.first >= end, "file {} has two arrays at {}", f, range.first);
      end = range.second;
    }
    promise(end <= manifest.files[f].num_bytes, "file {} ends at {}", f,
            manifest.files[f].num_bytes);
  }
  const std::string text = train::manifest_text(manifest);
  try {
    promise(train::manifest_text(train::parse_manifest(text, "dump")) == text,
            "its text changes: {}", text);
  } catch (const Error& error) {
    promise(false, "its own text is refused: {}\n{}", error.what(), text);
  }
}

Check parse(std::string_view input) {
  const auto manifest = std::make_shared<Manifest>(train::parse_manifest(input, "F"));
  return [manifest] { check(*manifest); };
}

void fill_files(Manifest& manifest) {
  const auto plans = train::plan_shards(manifest);
  for (std::size_t f = 0; f < plans.size(); ++f) {
    manifest.files[f].num_bytes = plans[f].num_bytes;
    manifest.files[f].chunk_crcs.assign(
        static_cast<std::size_t>((plans[f].num_bytes + train::kChunkBytes - 1) /
                                 train::kChunkBytes),
        5);
  }
}

std::string example() {
  Manifest manifest;
  manifest.meta = {.step = 12, .run_id = "run", .config_yaml = "a: 1\n", .extra = Json::object()};
  manifest.meta.extra.set("lr", 0.125);
  manifest.save_id = "00112233445566778899aabbccddeeff";
  manifest.files.resize(2);
  manifest.arrays = {
      {"master", DType::kF32, 2'000'000, {{0, 1'500'000, 0}, {1'500'000, 2'000'000, 1}}},
      {"v", DType::kF32, 9, {{0, 5, 0}, {5, 9, 1}}},
      {"half", DType::kBF16, 4, {{0, 4, 1}}},
      {"flags", DType::kU8, 5, {{0, 5, 1}}}};
  fill_files(manifest);
  return unsealed(train::manifest_text(manifest));
}

// The most that a reader can be made to work by few bytes: one array of a long name in many pieces.
std::string many_pieces(std::size_t name_bytes, std::int64_t num_pieces, bool is_right) {
  Manifest manifest;
  manifest.meta.run_id = manifest.save_id = repeat("r", 512);
  manifest.files.resize(1);
  LogicalArray array{repeat("n", name_bytes), DType::kU8, num_pieces, {}};
  for (std::int64_t i = 0; i < num_pieces; ++i) array.pieces.push_back({i, i + 1, 0, 0});
  manifest.arrays = {array};
  fill_files(manifest);
  manifest.files[0].num_bytes -= is_right ? 0 : 1;
  return unsealed(train::manifest_text(manifest));
}

std::string many_files(std::int64_t count) {
  Manifest manifest;
  manifest.meta.run_id = manifest.save_id = repeat("r", 512);
  manifest.files.resize(static_cast<std::size_t>(count));
  fill_files(manifest);
  return unsealed(train::manifest_text(manifest));
}

std::vector<Case> cases() {
  const std::string good = example();
  const auto with = [&](std::string_view from, std::string_view to) {
    return sealed(replaced(good, from, to));
  };
  const std::string huge = "9223372036854775807", first = "rank_00000.safetensors";
  const std::string file_bytes = [&] {
    const auto at = good.find("\"bytes\": ") + 9;
    return good.substr(at, good.find(',', at) - at);
  }();
  return {
      accepted("good", sealed(good)),
      accepted("20,000 pieces of a short name", sealed(many_pieces(1, 20'000, true))),
      accepted("10,000 pieces of a name of 512 bytes", sealed(many_pieces(512, 10'000, true))),
      accepted("2,000 files", sealed(many_files(2'000))),
      {"empty", "", {"F: its CRC does not fit its 0 bytes"}},
      {"no checksum", good, {"its CRC does not fit"}},
      {"wrong checksum", replaced(sealed(good), "\"run\"", "\"ran\""), {"its CRC does not fit"}},
      {"checksum alone", sealed("\n}\n"), {"F: "}},
      {"not JSON", sealed("nonsense\n}\n"), {"F: byte"}},
      {"not an object", sealed("[1\n}\n"), {"F: byte"}},
      {"nothing", sealed("{\"a\": 1\n}\n"), {"'format' is missing"}},
      {"duplicate key",
       with("\"version\": 1,", "\"version\": 1, \"version\": 1,"),
       {"duplicate name"}},
      {"other format", with("dsv-checkpoint", "zip"), {"the format is not 'dsv-checkpoint'"}},
      {"newer version", with("\"version\": 1", "\"version\": 2"), {"version 2 of the format"}},
      {"other chunks", with("4194304", "1"), {"chunk_bytes is 1"}},
      {"step negative", with("\"step\": 12", "\"step\": -1"), {"step is -1"}},
      {"step 2^63", with("\"step\": 12", "\"step\": 9223372036854775808"), {"64-bit integer"}},
      {"step 1e3", with("\"step\": 12", "\"step\": 1e3"), {"64-bit integer"}},
      {"run of no name", with("\"run\"", "\"\""), {"run_id has 0 bytes"}},
      {"run with an escape",
       with("\"run\"", "\"\\u001b[2J\""),
       {"run_id holds a control character"}},
      {"save of 513 bytes",
       with("00112233445566778899aabbccddeeff", repeat("x", 513)),
       {"save_id has 513"}},
      {"files a number", with("\"files\": [", "\"files\": 1, \"fules\": ["), {"expected array"}},
      {"no files", with("\"files\": [", "\"files\": [], \"fules\": ["), {"0 files"}},
      {"file a number", with("\"files\": [", "\"files\": [1,"), {"expected object"}},
      {"file in the parent", with(first, "../" + first), {"file 0 has another name"}},
      {"file absolute", with(first, "/etc/passwd"), {"file 0 has another name"}},
      {"file of another rank", with(first, "rank_00001.safetensors"), {"file 0 has another name"}},
      {"file with a NUL", with(first, first + "\\u0000"), {"file 0 has another name"}},
      {"file of 2^63 - 1 bytes", with(file_bytes, huge), {"checksums"}},
      {"file of negative size", with(file_bytes, "-1"), {"bytes is -1"}},
      {"file one byte larger",
       with(file_bytes, std::to_string(std::stoll(file_bytes) + 1)),
       {"is said to have"}},
      {"checksum missing", with("\"crc32c\": [5, 5]", "\"crc32c\": [5]"), {"1 checksums"}},
      {"checksum too large",
       with("\"crc32c\": [5, 5]", "\"crc32c\": [5, 4294967296]"),
       {"a checksum is"}},
      {"checksum negative",
       with("\"crc32c\": [5, 5]", "\"crc32c\": [5, -1]"),
       {"a checksum is -1"}},
      {"array twice", with("\"name\": \"v\"", "\"name\": \"master\""), {"listed twice"}},
      {"array twice, other type",
       with("\"name\": \"flags\"", "\"name\": \"master\""),
       {"listed twice"}},
      {"array out of order", with("\"name\": \"v\"", "\"name\": \"a\""), {"out of order"}},
      {"array of no name", with("\"name\": \"v\"", "\"name\": \"\""), {"has 0 bytes"}},
      {"array with a line break",
       with("\"name\": \"v\"", "\"name\": \"v\\n\""),
       {"control character"}},
      {"array of unknown type",
       with("\"dtype\": \"BF16\"", "\"dtype\": \"F8\""),
       {"unknown dtype"}},
      {"array of another size",
       with("\"dtype\": \"BF16\"", "\"dtype\": \"F32\""),
       {"out of order"}},
      {"total 2^63 - 1", with("\"total\": 9", "\"total\": " + huge), {"not possible"}},
      {"total negative", with("\"total\": 9", "\"total\": -9"), {"total is -9"}},
      {"total too small", with("\"total\": 9", "\"total\": 8"), {"holds [5, 9) of 8"}},
      {"total too large",
       with("\"total\": 9", "\"total\": 10"),
       {"elements [9, 10) are in no shard"}},
      {"no pieces", with("[0, 5, 0],", ""), {"elements [0, 5) are in no shard"}},
      {"piece of two", with("[0, 5, 0]", "[0,5]"), {"a piece is [begin, end, file]"}},
      {"piece a number", with("[0, 5, 0]", "5"), {"expected array"}},
      {"piece reversed", with("[0, 5, 0]", "[5,0,0]"), {"holds [5, 0)"}},
      {"piece empty", with("[0, 5, 0]", "[0,0,0],[0,5,0]"), {"holds [0, 0)"}},
      {"piece twice", with("[0, 5, 0]", "[0,5,0],[0,5,0]"), {"in shard 0 and in shard 0"}},
      {"piece negative", with("[0, 5, 0]", "[-5,5,0]"), {"holds [-5, 5)"}},
      {"piece to 2^63 - 1", with("[5, 9, 1]", "[5," + huge + ",1]"), {"of 9 elements"}},
      {"piece in file 2", with("[5, 9, 1]", "[5,9,2]"), {"file is 2"}},
      {"piece in file -1", with("[5, 9, 1]", "[5,9,-1]"), {"file is -1"}},
      {"piece in file 2^32", with("[5, 9, 1]", "[5,9,4294967296]"), {"file is 4294967296"}},
      {"piece in the other file", with("[5, 9, 1]", "[5,9,0]"), {"is said to have"}},
      {"deep extra",
       with("\"extra\": {", "\"extra\": {\"x\":" + repeat("[", 100) + repeat("]", 100) + ","),
       {"nested deeper"}},
      {"many pieces, wrong size", sealed(many_pieces(512, 5'000, false)), {"is said to have"}},
      {"200,000 checksums",
       with("\"crc32c\": [5, 5]",
            "\"crc32c\": [" + list_of(200'000, [](int) { return "5"; }) + "]"),
       {"200000 checksums"}},
      {"100,001 files",
       sealed(replaced(good, "\"files\": [", "\"files\": [" + repeat("1,", 100'001))),
       {"files, expected 1 to 100000"}},
  };
}

std::string repair(std::string input, Random& random) {
  return random.one_in(16) ? input : sealed(unsealed(input));
}

}  // namespace

// Memory: that of the JSON value, then the manifest and the plan of its files beside it.
Target manifest_target() {
  return {.name = "manifest",
          .parse = parse,
          .codes = {ExitCode::kCorruptInput},
          .cases = cases,
          .seeds =
              [] {
                return std::vector<std::string>{sealed(example()), sealed(many_pieces(3, 5, true))};
              },
          .words = {"\"F64\"", "\"U8\"", "\"BF16\"", "[0,5,0]", "[]", "{}", "null", ",", ":",
                    "\"\"", "-1", "\"rank_00002.safetensors\"", "\"../x\""},
          .repair = repair,
          .bytes_per_byte = 64,
          .fixed_bytes = 32 << 10,
          .min_reasons = 40};
}

}  // namespace dsv::fuzz
