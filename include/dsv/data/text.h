// Text without a pretrained encoder: words become rows of a frozen random embedding table. Used
// when shards are encoded and again for prompts when sampling. Also the small text tools of this
// room.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

// Settings of hashed embeddings, stored in every shard set.
struct TextSettings {
  std::int64_t dim = 64;      // width of an embedding
  std::int64_t max_len = 64;  // rows at most; further words are dropped
  bool operator==(const TextSettings&) const = default;
};

// Lower-cased words: runs of ASCII letters and digits and of any non-ASCII characters; an
// apostrophe inside a word belongs to it. "A dog's ball, red!" → {"a", "dog's", "ball", "red"}.
std::vector<std::string> split_words(std::string_view text);

// Embedding [rows, dim] f32 of `text`: row i is the vector of word i, independent standard normals
// philox(seed 0, kText, sample = FNV-1a of the word, element = column), so the same word is the
// same vector on every machine. Without words: one row of zeros (the null text of CFG).
Tensor hashed_text(std::string_view text, const TextSettings& settings);

// Valid UTF-8 without control characters: bad bytes become U+FFFD, runs of white space one space,
// and the text is cut (between characters) to max_bytes.
std::string clean_text(std::string_view text, std::size_t max_bytes = 4096);

// For messages about names out of files: clean_text, 80 bytes at most.
std::string printable(std::string_view name);

}  // namespace dsv::data
