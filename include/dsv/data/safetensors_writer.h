// Writer of safetensors files: shards, checkpoints, exports.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

// Collects tensors, then write() streams them out: to a temporary file, synced, renamed to `path`.
// The payload begins at a multiple of 64 bytes (the header is padded with spaces) and tensors are
// laid out by falling element size, then in the order of add, so each is aligned to its element and
// the same calls give the same bytes. Wrong use (duplicate names, strided tensors) fails DSV_CHECK;
// failing writes throw Error(kIo).
class SafetensorsWriter {
 public:
  // Takes the next bytes of the tensor being written.
  using Sink = std::function<void(const void* data, std::int64_t size_bytes)>;
  using Producer = std::function<void(const Sink& sink)>;

  // Keeps a view of the contiguous host tensor until write.
  void add(const std::string& name, const Tensor& tensor);
  // The bytes come later: write calls `producer` once, which must hand over exactly shape × dtype
  // bytes.
  void add(const std::string& name, DType dtype, const Shape& shape, Producer producer);
  void set_metadata(const std::string& key, const std::string& value);

  std::int64_t num_tensors() const { return static_cast<std::int64_t>(entries_.size()); }
  std::int64_t payload_bytes() const { return payload_bytes_; }
  void write(const std::string& path) const;

 private:
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
    std::int64_t num_bytes;
    Producer producer;
  };
  std::vector<Entry> entries_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::int64_t payload_bytes_ = 0;
};

}  // namespace dsv::data
