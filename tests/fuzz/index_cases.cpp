// What the reader of shard indices must accept and refuse.
#include "index_cases.h"

#include "dsv/data/shard_format.h"
#include "json_text.h"
#include "sealed_json.h"

namespace dsv::fuzz {
namespace {

using data::SampleRecord;
using data::ShardIndex;

std::string unsealed(const std::string& text) {
  return fuzz::unsealed(text, kIndexSeal);
}
std::string sealed(const std::string& text) {
  return fuzz::sealed(text, kIndexSeal);
}

}  // namespace

// Haar latents of one level in space: 12 channels.
std::string index_example() {
  ShardIndex index;
  index.latent.wavelet = {.levels_t = 0, .levels_s = 1};
  index.latent.channels = 12;
  index.latent.mean.assign(12, 0.25);
  index.latent.std.assign(12, 2);
  index.statistics = data::LatentStatistics(12);
  index.null_text = data::NullText{"shard_00000.safetensors", 1, 77};
  index.settings.set("fps", 8);
  for (std::uint64_t i = 0; i < 2; ++i) {
    SampleRecord r;
    r.id = 0xabc0 + i;
    r.file = "shard_00000.safetensors";
    r.source = "clips/a.mp4";
    r.clip = static_cast<std::int64_t>(i);
    r.caption = "a dog";
    r.height = 4;
    r.width = 6;
    r.frames = 8;
    r.fps = 8;
    r.latent_shape = {12, 8, 2, 3};
    r.text_rows = 2;
    r.latent_crc32c = 0xdeadbeef;
    index.samples.push_back(r);
  }
  return unsealed(data::index_text(index));
}

// A set of latents that this engine cannot decode: any channels, any shape.
std::string foreign_index_example() {
  ShardIndex index;
  index.latent.kind = "vae";
  index.latent.channels = 1;
  index.latent.mean = {0};
  index.latent.std = {1};
  index.text_kind = "t5";
  SampleRecord r;
  r.id = 1;
  r.file = "s.safetensors";
  r.height = r.width = r.frames = 1;
  r.fps = 1;
  r.latent_shape = {1, 1, 1, 1};
  r.text_rows = 1;
  index.samples.push_back(r);
  return unsealed(data::index_text(index));
}

namespace {

// Keys and types.
std::vector<Case> text_cases() {
  const std::string good = index_example();
  const auto with = [&](std::string_view from, std::string_view to) {
    return replaced(good, from, to);
  };
  const std::string name = "shard_00000.safetensors";
  return {
      accepted("good, with checksum", sealed(good)),
      accepted("good, without checksum", good),
      accepted("foreign", foreign_index_example()),
      accepted("no samples",
               foreign_index_example().replace(
                   foreign_index_example().find("\n{\"id\""),
                   foreign_index_example().rfind("\n]") - foreign_index_example().find("\n{\"id\""),
                   "")),
      {"empty", "", {"[json] F"}},
      {"a list", "[]", {"F: expected an object, got a array"}},
      {"nothing", "{}", {"'format' is missing"}},
      {"other format", with("dsv-shards", "webdataset"), {"not an index of shards", "webdataset"}},
      {"format a number", with("\"dsv-shards\"", "1"), {"expected a string 'format'"}},
      {"version 0", with("\"version\": 1", "\"version\": 0"), {"'version' in [1"}},
      {"newer version", with("\"version\": 1", "\"version\": 2"), {"version 2 of the format"}},
      {"version 1.0",
       with("\"version\": 1", "\"version\": 1.0"),
       {"expected an integer 'version'"}},
      {"version 2^64 - 1",
       with("\"version\": 1", "\"version\": 18446744073709551615"),
       {"'version' in"}},
      {"damaged", replaced(sealed(good), "a dog", "a cat"), {"changed or damaged"}},
      {"wrong checksum",
       replaced(sealed(good), "\"crc32c\": \"", "\"crc32c\": \"0"),
       {"8 hexadecimal"}},
      {"checksum in capitals",
       replaced(good, "\n}\n", ",\n\"crc32c\": \"ABCDEF01\"\n}\n"),
       {"8 hexadecimal"}},
      {"checksum not last",
       with("\"version\": 1,", "\"version\": 1, \"crc32c\": \"00000000\","),
       {"'crc32c' as the last member"}},
      {"text after the checksum", sealed(good) + " ", {"'crc32c' as the last member"}},
      {"duplicate key",
       with("\"version\": 1,", "\"version\": 1, \"version\": 1,"),
       {"duplicate name"}},
      {"unknown key",
       with("\"version\": 1,", "\"version\": 1, \"extra\": 1,"),
       {"unknown key 'extra'"}},
      {"unknown key with an escape",
       with("\"version\": 1,", "\"version\": 1, \"\\u001b[2J\": 1,"),
       {"unknown key"}},
      {"deep settings",
       with("\"settings\": {", "\"settings\": {\"x\":" + repeat("[", 20) + repeat("]", 20) + ","),
       {"nested deeper"}},
      {"settings a list",
       with("\"settings\": {\"fps\":8}", "\"settings\": []"),
       {"an object 'settings'"}},
      {"samples missing", with("\"samples\"", "\"simples\""), {"'samples' is missing"}},
      {"samples an object",
       "{\"format\":\"dsv-shards\",\"version\":1,\"latent\":{\"kind\":\"v\",\"channels\":1,"
       "\"mean\":[0],\"std\":[1]},\"latent_dtype\":\"F32\",\"text\":{\"kind\":\"h\",\"dim\":1,"
       "\"max_len\":1,\"dtype\":\"F32\"},\"samples\":{}}",
       {"expected an array 'samples'"}},
      {"sample a number",
       with("\"samples\": [", "\"samples\": [1,"),
       {"sample 0: expected an object"}},
      {"sample empty", with("\"samples\": [", "\"samples\": [{},"), {"sample 0: 'id' is missing"}},
      {"100,000 empty samples",
       with("\"samples\": [", "\"samples\": [" + repeat("{},", 100'000)),
       {"sample 0: 'id' is missing"}},
      {"sample with an unknown key", with("\"clip\":0", "\"clip\":0,\"x\":0"), {"unknown key 'x'"}},
      {"source of 5,000 bytes",
       with("clips/a.mp4", repeat("s", 5000)),
       {"'source' has 5000 bytes"}},
      {"caption of 70,000 bytes",
       with("a dog", repeat("c", 70'000)),
       {"'caption' has 70000 bytes"}},
      {"id twice",
       with("000000000000abc1", "000000000000abc0"),
       {"id 000000000000abc0 occurs twice"}},
      {"id too short", with("000000000000abc1", "abc1"), {"16 hexadecimal digits in 'id'"}},
      {"id in capitals", with("000000000000abc1", "000000000000ABC1"), {"16 hexadecimal digits"}},
      {"id with a sign", with("000000000000abc1", "-00000000000abc1"), {"16 hexadecimal digits"}},
      {"id empty", with("000000000000abc1", ""), {"16 hexadecimal digits"}},
      {"id a number", with("\"000000000000abc1\"", "1"), {"expected a string 'id'"}},
      {"file in the parent", with(name, "../" + name), {"plain file name"}},
      {"file absolute", with(name, "/etc/" + name), {"plain file name"}},
      {"file in a folder", with(name, "a/" + name), {"plain file name"}},
      {"file with a backslash", with(name, "a\\\\" + name), {"plain file name"}},
      {"file hidden", with(name, "." + name), {"plain file name"}},
      {"file of another type", with(name, "index.json"), {"plain file name"}},
      {"file with a NUL", with(name, "a\\u0000.safetensors"), {"plain file name"}},
      {"file with an escape", with(name, "\\u001b[2J.safetensors"), {"plain file name"}},
      {"file with a line break", with(name, "a\\n.safetensors"), {"plain file name"}},
      {"file an ending alone", with(name, ".safetensors"), {"plain file name"}},
      {"file of 300 bytes",
       with(name, repeat("x", 288) + ".safetensors"),
       {"'file' has 300 bytes"}},
      {"null text in the parent",
       with("\"null_text\": {\"file\":\"shard", "\"null_text\": {\"file\":\"../shard"),
       {"null_text", "plain file name"}},
      {"null text of no rows", with("\"rows\":1", "\"rows\":0"), {"'rows' in [1"}},
  };
}

// Numbers.
std::vector<Case> value_cases() {
  const std::string good = index_example(), foreign = foreign_index_example();
  const auto with = [&](std::string_view from, std::string_view to) {
    return replaced(good, from, to);
  };
  const auto odd = [&](std::string_view from, std::string_view to) {
    return replaced(foreign, from, to);
  };
  const std::string shape = "\"latent_shape\":[1,1,1,1]";
  return {
      {"clip negative", with("\"clip\":0", "\"clip\":-1"), {"'clip' in [0"}},
      {"clip a fraction", with("\"clip\":0", "\"clip\":0.5"), {"expected an integer 'clip'"}},
      {"start negative", with("\"start_s\":0.0", "\"start_s\":-1"), {"'start_s' in [0"}},
      {"start a text",
       with("\"start_s\":0.0", "\"start_s\":\"NaN\""),
       {"expected a number 'start_s'"}},
      {"height 0", with("\"height\":4", "\"height\":0"), {"'height' in [1"}},
      {"height 2^63", with("\"height\":4", "\"height\":9223372036854775808"), {"'height' in [1"}},
      {"height that does not fit",
       with("\"height\":4", "\"height\":8"),
       {"does not belong to a clip of 8x6x8"}},
      {"odd height", with("\"height\":4", "\"height\":5"), {"does not belong to a clip of 5x6x8"}},
      {"width 65537", with("\"width\":6", "\"width\":65537"), {"'width' in [1"}},
      {"frames 2^31", with("\"frames\":8", "\"frames\":2147483648"), {"'frames' in [1"}},
      {"fps 0", with("\"fps\":8.0", "\"fps\":0"), {"'fps' in"}},
      {"fps 1e300", with("\"fps\":8.0", "\"fps\":1e300"), {"'fps' in"}},
      {"shape of three", with("[12,8,2,3]", "[12,8,6]"), {"four numbers in 'latent_shape'"}},
      {"shape of 100,000",
       with("[12,8,2,3]", "[" + list_of(100'000, [](int) { return "1"; }) + "]"),
       {"four numbers"}},
      {"shape with 0", with("[12,8,2,3]", "[12,8,0,3]"), {"'latent_shape' in [1"}},
      {"shape with a fraction",
       with("[12,8,2,3]", "[12,8,2.0,3]"),
       {"expected an integer 'latent_shape'"}},
      {"shape of other channels", with("[12,8,2,3]", "[6,8,4,3]"), {"the set has 12 channels"}},
      {"shape beyond 2^31",
       odd(shape, "\"latent_shape\":[1,2147483648,1,1]"),
       {"'latent_shape' in [1"}},
      {"shape that overflows",
       odd(shape, "\"latent_shape\":[1,2147483647,2147483647,2147483647]"),
       {"'latent_shape' overflows"}},
      {"rows 0", with("\"text_rows\":2", "\"text_rows\":0"), {"'text_rows' in [1"}},
      {"rows 2^40", with("\"text_rows\":2", "\"text_rows\":1099511627776"), {"'text_rows' in [1"}},
      {"checksum of a latent too long", with("deadbeef", "0deadbeef"), {"8 hexadecimal digits"}},
      {"checksum of a latent not hexadecimal",
       with("deadbeef", "deadbeeg"),
       {"8 hexadecimal digits"}},
      {"shapes that differ",
       replaced(
           foreign, "\n]\n}",
           ",\n" +
               [&] {
                 const auto begin = foreign.find("{\"id\"");
                 std::string second = foreign.substr(begin, foreign.find("\n]", begin) - begin);
                 second = replaced(second, "0000000000000001", "0000000000000002");
                 return replaced(second, "[1,1,1,1]", "[1,1,1,2]");
               }() +
               "\n]\n}"),
       {"have latents of shapes [1, 1, 1, 1] and [1, 1, 1, 2]"}},
      {"latent a list",
       with("\"latent\": {\"kind\"", "\"latent\": [], \"settings2\": {\"kind\""),
       {"latent: expected an object"}},
      {"recipe of no kind", with("\"kind\":\"haar\",", ""), {"latent: ", "'kind'"}},
      {"recipe of other channels",
       with("\"channels\":12", "\"channels\":24"),
       {"make 12 channels"}},
      {"recipe of huge channels",
       odd("\"channels\":1", "\"channels\":9223372036854775807"),
       {"'channels' in [1"}},
      {"more channels than means",
       odd("\"channels\":1", "\"channels\":65536"),
       {"expected 65536 values in 'mean'"}},
      {"levels 99", with("\"levels_s\":1", "\"levels_s\":99"), {"'levels_s' in [0, 5]"}},
      {"levels negative", with("\"levels_t\":0", "\"levels_t\":-1"), {"'levels_t' in [0, 4]"}},
      {"mean a text", odd("\"mean\":[0.0]", "\"mean\":[\"NaN\"]"), {"expected numbers in 'mean'"}},
      {"mean too many",
       odd("\"mean\":[0.0]", "\"mean\":[0,0]"),
       {"expected 1 values in 'mean', got 2"}},
      {"std 0", odd("\"std\":[1.0]", "\"std\":[0]"), {"'std' in [1e-30"}},
      {"std negative", odd("\"std\":[1.0]", "\"std\":[-1]"), {"'std' in [1e-30"}},
      {"std tiny", odd("\"std\":[1.0]", "\"std\":[5e-324]"), {"'std' in [1e-30"}},
      {"statistics negative", with("\"count\":[0.0", "\"count\":[-1"), {"negative count"}},
      {"statistics short",
       with("\"sum\":[0.0,", "\"sum\":["),
       {"expected 12 values in 'sum', got 11"}},
      {"statistics a number",
       replaced(foreign, "\"settings\":", "\"statistics\": 1, \"settings\":"),
       {"expected an object 'statistics'"}},
      {"dtype unknown",
       with("\"latent_dtype\": \"F32\"", "\"latent_dtype\": \"F8\""),
       {"F32, BF16 or F16"}},
      {"dtype of integers",
       with("\"latent_dtype\": \"F32\"", "\"latent_dtype\": \"I32\""),
       {"F32, BF16 or F16"}},
      {"text dim 0", with("\"dim\":64", "\"dim\":0"), {"'dim' in [1"}},
      {"text rows 2^31", with("\"max_len\":64", "\"max_len\":2147483648"), {"'max_len' in [1"}},
      {"text unknown key", with("\"dim\":64", "\"dim\":64,\"x\":0"), {"text: unknown key 'x'"}},
  };
}

}  // namespace

std::vector<Case> index_cases() {
  std::vector<Case> all = text_cases();
  for (Case& c : value_cases()) all.push_back(std::move(c));
  // Each of them again with a right checksum, which must hide nothing.
  const std::size_t count = all.size();
  for (std::size_t i = 0; i < count; ++i) {
    if (!all[i].bytes.ends_with("\n}\n") || all[i].bytes.find("crc32c\": \"") != std::string::npos)
      continue;
    Case c = all[i];
    c.name += ", checksum right";
    c.bytes = sealed(c.bytes);
    all.push_back(std::move(c));
  }
  return all;
}

}  // namespace dsv::fuzz
