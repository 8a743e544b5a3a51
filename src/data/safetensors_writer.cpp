#include "dsv/data/safetensors_writer.h"

#include <algorithm>
#include <unordered_set>

#include "dsv/base/json.h"
#include "dsv/data/atomic_file.h"

namespace dsv::data {

void SafetensorsWriter::add(const std::string& name, const Tensor& tensor) {
  DSV_CHECK(tensor.defined() && tensor.device().kind == DeviceKind::kCpu,
            "[safetensors] tensor '{}' must be on the host", name);
  DSV_CHECK(tensor.is_contiguous(), "[safetensors] tensor '{}' must be contiguous", name);
  add(name, tensor.dtype(), tensor.shape(), [tensor](const Sink& sink) {
    if (tensor.num_bytes() > 0) sink(tensor.raw(), tensor.num_bytes());
  });
}

void SafetensorsWriter::add(const std::string& name, DType dtype, const Shape& shape,
                            Producer producer) {
  DSV_CHECK(name != "__metadata__", "[safetensors] a tensor cannot be called '__metadata__'");
  const std::int64_t bytes = checked_mul(shape.num_elements(), size_of(dtype));
  entries_.push_back({name, dtype, shape, bytes, std::move(producer)});
  payload_bytes_ += bytes;
}

void SafetensorsWriter::set_metadata(const std::string& key, const std::string& value) {
  for (auto& [name, old] : metadata_) {
    if (name == key) {
      old = value;
      return;
    }
  }
  metadata_.emplace_back(key, value);
}

void SafetensorsWriter::write(const std::string& path) const {
  std::vector<const Entry*> order;
  std::unordered_set<std::string_view> names;
  for (const Entry& e : entries_) {
    DSV_CHECK(names.insert(e.name).second, "[safetensors] two tensors are called '{}'", e.name);
    order.push_back(&e);
  }
  std::stable_sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
    return size_of(a->dtype) > size_of(b->dtype);
  });

  Json::Object header;  // filled directly: Json::set looks for the name, names are unique here
  if (!metadata_.empty()) {
    Json metadata = Json::object();
    for (const auto& [key, value] : metadata_) metadata.set(key, value);
    header.emplace_back("__metadata__", std::move(metadata));
  }
  std::int64_t offset = 0;
  for (const Entry* e : order) {
    Json entry = Json::object();
    entry.set("dtype", to_string(e->dtype));
    Json shape = Json::array();
    for (const std::int64_t d : e->shape) shape.push_back(d);
    entry.set("shape", std::move(shape));
    entry.set("data_offsets", Json(Json::Array{offset, offset + e->num_bytes}));
    header.emplace_back(e->name, std::move(entry));
    offset += e->num_bytes;
  }
  std::string text = Json(std::move(header)).dump();
  text.resize(
      static_cast<std::size_t>(round_up(static_cast<std::int64_t>(text.size()) + 8, 64) - 8), ' ');
  DSV_CHECK(text.size() <= 100'000'000,
            "[safetensors] {}: the header has {} bytes, readers stop at "
            "100 MB: write fewer tensors per file",
            path, text.size());

  AtomicFile file(path);
  char length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  file.write(length, sizeof(length));
  file.write(text);
  for (const Entry* e : order) {
    const std::int64_t begin = file.size_bytes();
    e->producer([&](const void* data, std::int64_t bytes) { file.write(data, bytes); });
    DSV_CHECK(file.size_bytes() - begin == e->num_bytes,
              "[safetensors] {}: tensor '{}' needs {} bytes, its producer wrote {}", path, e->name,
              e->num_bytes, file.size_bytes() - begin);
  }
  file.commit();
}

}  // namespace dsv::data
