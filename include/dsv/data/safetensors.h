// Strict reader of safetensors files: shards, checkpoints, weights from elsewhere. Files may be
// hostile: the header is validated completely before a payload byte is touched or a tensor
// allocated. Source: the safetensors format (8-byte little-endian header length, JSON header, raw
// tensors).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

struct TensorInfo {
  std::string name;
  std::string dtype_name;          // as the header spells it: "F32", "F8_E4M3", …
  std::optional<DType> dtype;      // empty: a valid type that this engine does not compute with
  std::vector<std::int64_t> dims;  // may be more than Shape holds
  std::int64_t offset = 0;         // of the first byte, from the beginning of the file
  std::int64_t num_bytes = 0;

  // Throws Error(kCorruptInput) for more dims than Shape::kMaxDims.
  Shape shape() const;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;                            // in the order of their bytes
  std::vector<std::pair<std::string, std::string>> metadata;  // "__metadata__", in file order
};

// Parses and validates the header of a file of `file_bytes` bytes whose beginning (all of the
// header at least) is `begin`. Refuses: a header length of 0, beyond the file or beyond 100 MB;
// malformed, deeply nested or duplicate JSON; unknown dtypes; shapes that overflow; offsets that
// are negative, reversed, beyond the file, overlapping, leave holes or do not fit shape × dtype;
// trailing bytes. Errors are kCorruptInput, "[safetensors] WHERE: reason".
SafetensorsHeader parse_safetensors_header(std::string_view begin, std::uint64_t file_bytes,
                                           const std::string& where);

// A validated, memory-mapped file. Copies share the mapping; const calls are safe from any thread.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);

  // References live as long as a copy of the file: taking one from a temporary does not compile.
  const std::string& path() const&;
  const std::vector<TensorInfo>& tensors() const&;
  const TensorInfo* find(std::string_view name) const&;
  const TensorInfo& at(std::string_view name) const&;  // throws Error(kCorruptInput) when absent
  const std::vector<std::pair<std::string, std::string>>& metadata() const&;
  // Value of a metadata key, or nullptr.
  const std::string* find_metadata(std::string_view key) const&;
  void path() const&& = delete;
  void tensors() const&& = delete;
  void find(std::string_view) const&& = delete;
  void at(std::string_view) const&& = delete;
  void metadata() const&& = delete;
  void find_metadata(std::string_view) const&& = delete;

  // The tensor in place (read-only: the pages are mapped without write permission), keeping the
  // mapping alive; a copy when its bytes are not aligned to its element. The file must not be
  // truncated meanwhile.
  Tensor view(std::string_view name) const;
  // Reads the tensor's bytes to `out` with system calls: a file that is truncated or unreadable
  // meanwhile gives Error(kIo) where touching a view would end the process.
  void read(const TensorInfo& info, void* out) const;
  Tensor read(std::string_view name) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace dsv::data
