// data/shard_format: index.json of a shard set.
#include <memory>
#include <set>

#include "dsv/data/shard_format.h"
#include "index_cases.h"
#include "sealed_json.h"
#include "target.h"

namespace dsv::fuzz {
namespace {

using data::SampleRecord;
using data::ShardIndex;

void check(const ShardIndex& index) {
  std::set<std::uint64_t> ids;
  for (const SampleRecord& r : index.samples) {
    promise(ids.insert(r.id).second, "id {} is there twice", r.hex_id());
    promise(!r.file.empty() && r.file[0] != '.' && r.file.find('/') == r.file.npos,
            "sample {} is in file '{}'", r.hex_id(), r.file);
    promise(r.latent_shape.num_dims() == 4 && r.latent_shape.num_elements() > 0 && r.text_rows > 0,
            "sample {} has a latent of {}", r.hex_id(), r.latent_shape);
    promise(!r.describe().empty(), "no description");
  }
  promise(static_cast<std::int64_t>(index.latent.mean.size()) == index.latent.channels &&
              index.latent.std.size() == index.latent.mean.size(),
          "{} means of {} channels", index.latent.mean.size(), index.latent.channels);
  const std::string text = data::index_text(index);
  try {
    promise(data::index_text(data::parse_index(text, "dump")) == text, "its text changes: {}",
            text);
  } catch (const Error& error) {
    promise(false, "its own text is refused: {}\n{}", error.what(), text);
  }
}

Check parse(std::string_view input) {
  const auto index = std::make_shared<ShardIndex>(data::parse_index(input, "F"));
  return [index] { check(*index); };
}

std::string repair(std::string input, Random& random) {
  if (random.one_in(8)) return input;
  input = unsealed(input, kIndexSeal);
  return random.one_in(2) ? input : sealed(input, kIndexSeal);
}

}  // namespace

// Memory: that of the JSON value, then the records beside it, of about 300 bytes for as many of
// text.
Target index_target() {
  return {.name = "index",
          .parse = parse,
          .codes = {ExitCode::kCorruptInput},
          .cases = index_cases,
          .seeds =
              [] {
                return std::vector<std::string>{index_example(), foreign_index_example()};
              },
          .words = {"\"F16\"", "\"BF16\"", "\"haar\"", "\"vae\"", "\"../a.safetensors\"",
                    "\"a.safetensors\"", "\"0123456789abcdef\"", "[12,8,2,3]", "[]", "{}", "null",
                    ",", ":", "-1", "\"\"", "\"crc32c\": \"00000000\""},
          .repair = repair,
          .bytes_per_byte = 64,
          .fixed_bytes = 32 << 10,
          .min_reasons = 90};
}

}  // namespace dsv::fuzz
