// A shard set on disk: shard_NNNNN.safetensors with latents and text embeddings, and index.json,
// which says what is where. docs/data.md describes the format for writers in other languages.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "dsv/base/json.h"
#include "dsv/data/latent_recipe.h"
#include "dsv/data/safetensors_writer.h"
#include "dsv/data/text.h"

namespace dsv::data {

// One training sample. Its tensors are called ID.latent [C, T, H, W] and ID.text [rows, dim], with
// ID in 16 hexadecimal digits.
struct SampleRecord {
  std::uint64_t id = 0;
  std::string file;    // shard that holds it: a plain file name
  std::string source;  // where it came from, for people
  std::int64_t clip = 0;
  double start_s = 0;
  std::string caption;
  std::int64_t height = 0, width = 0, frames = 0;  // of the clip in pixels
  double fps = 0;
  Shape latent_shape;
  std::int64_t text_rows = 0;
  std::uint32_t latent_crc32c = 0, text_crc32c = 0;  // of the stored bytes

  std::string hex_id() const;
  std::string latent_name() const { return hex_id() + ".latent"; }
  std::string text_name() const { return hex_id() + ".text"; }
  // "0123456789abcdef (clips/a.mp4, clip 0)", for messages.
  std::string describe() const;
};

// The stored encoding of "" where the text encoder has one; tensor "null.text".
struct NullText {
  std::string file;
  std::int64_t rows = 0;
  std::uint32_t crc32c = 0;
};

struct ShardIndex {
  LatentRecipe latent;
  DType latent_dtype = DType::kF32;  // F32, BF16 or F16, as stored, not normalised
  std::string text_kind = "hash";    // "hash": text.h; otherwise the name of a pretrained encoder
  TextSettings text;
  DType text_dtype = DType::kF32;  // F32, BF16 or F16
  std::optional<NullText> null_text;
  std::optional<LatentStatistics>
      statistics;                  // what mean and std came from: extending a set needs it
  Json settings = Json::object();  // of whoever wrote the set; the encoder compares them on resume
  std::vector<SampleRecord> samples;
};

// Stable 64-bit id of a clip: 48 bits of the path's hash, then the clip's number in 16 bits. The
// clips of one video share id >> 16, by which the held-out split keeps them together.
std::uint64_t sample_id(std::string_view relative_path, std::int64_t clip);

// The text of index.json: one line per sample; the last member is the CRC-32C of the bytes before
// it.
std::string index_text(const ShardIndex& index);
// Validates everything: keys, types, ranges, shapes against recipe and geometry, file names (plain,
// so none can leave the folder), duplicate ids, and the CRC where there is one.
// Error(kCorruptInput).
ShardIndex parse_index(std::string_view text, const std::string& where);
ShardIndex read_index(const std::string& folder);
void write_index(const std::string& folder, const ShardIndex& index);

// Appends samples to a shard set. Shards are written when they are full, the index when flush is
// called: it then names the samples whose shard is written and whose source was completed, so that
// a run that was cut off at any point leaves a valid set.
class ShardSetWriter {
 public:
  // Continues `index` (empty samples: a new set). New shards are numbered after every file present.
  ShardSetWriter(std::string folder, ShardIndex index, std::int64_t shard_bytes,
                 LatentScale scale = LatentScale::kPerChannel);

  // latent: raw f32, stored in the index's dtype; text [rows, dim] f32. Fills the record's file,
  // shape, rows, id-independent fields and checksums.
  void add(SampleRecord record, const Tensor& latent, const Tensor& text);
  // All clips of the present source have been added.
  void complete_source() { num_complete_ = static_cast<std::int64_t>(index_.samples.size()); }
  // True after a shard has been written since the last flush: a good moment for flush.
  bool wants_flush() const { return num_durable_ > num_flushed_; }
  // Writes index.json. `close_shard` writes the shard in progress first.
  void flush(bool close_shard);

  const ShardIndex& index() const { return index_; }

 private:
  void write_shard();

  std::string folder_;
  ShardIndex index_;
  std::int64_t shard_bytes_;
  LatentScale scale_;
  std::int64_t shard_number_ = 0;
  SafetensorsWriter shard_;
  std::vector<LatentStatistics> pending_statistics_;  // of samples not in the index yet
  std::int64_t num_flushed_ = 0, num_durable_ = 0, num_complete_ = 0;
};

}  // namespace dsv::data
