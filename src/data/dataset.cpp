#include "dsv/data/dataset.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <unordered_map>

#include "dsv/base/crc32c.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/safetensors.h"

namespace dsv::data {
namespace {

// Descriptors are scarce (1024 by default) and a set may have thousands of shards.
constexpr std::size_t kMaxOpenShards = 256;

}  // namespace

struct Dataset::State {
  std::string folder;
  ShardIndex index;

  std::mutex mutex;                        // guards the open shards
  std::list<SafetensorsFile> open_shards;  // the latest used first
  std::unordered_map<std::string, std::list<SafetensorsFile>::iterator> by_name;

  SafetensorsFile shard(const std::string& name) {
    const std::lock_guard lock(mutex);
    if (const auto it = by_name.find(name); it != by_name.end()) {
      open_shards.splice(open_shards.begin(), open_shards, it->second);
      return open_shards.front();
    }
    open_shards.push_front(SafetensorsFile::open(folder + "/" + name));
    by_name[name] = open_shards.begin();
    if (open_shards.size() > kMaxOpenShards) {
      const std::string& path = open_shards.back().path();
      by_name.erase(path.substr(path.rfind('/') + 1));
      open_shards.pop_back();  // readers of it hold their own copy
    }
    return open_shards.front();
  }

  // The bytes of one tensor, which must be as the index says. `who` names its sample.
  Tensor read(const std::string& file_name, const std::string& tensor, DType dtype,
              const Shape& shape, std::uint32_t expected_crc, bool verify, const std::string& who) {
    const auto fail = [&](const std::string& why) {
      throw_error(ExitCode::kCorruptInput, "[data] sample {} in {}/{}: {}", who, folder, file_name,
                  why);
    };
    const SafetensorsFile file = shard(file_name);
    const TensorInfo* info = file.find(tensor);
    if (info == nullptr) fail(format("tensor '{}' is missing", tensor));
    if (info->dtype != dtype) {
      fail(format("tensor '{}' is {}, the index says {}", tensor, info->dtype_name, dtype));
    }
    if (info->shape() != shape) {
      fail(format("tensor '{}' has shape {}, the index says {}", tensor, info->shape(), shape));
    }
    const Tensor out = host_tensor(shape, dtype);
    file.read(*info, out.raw());
    if (verify) {
      const std::uint32_t crc = crc32c(out.raw(), static_cast<std::size_t>(out.num_bytes()));
      if (crc != expected_crc) {
        fail(format("tensor '{}' has CRC-32C {:08x}, the index says {:08x}: the bytes were damaged",
                    tensor, crc, expected_crc));
      }
    }
    return out;
  }

  Tensor read_text(const std::string& file, const std::string& tensor, std::int64_t rows,
                   std::uint32_t crc, bool verify, const std::string& who) {
    const Tensor stored =
        read(file, tensor, index.text_dtype, {rows, index.text.dim}, crc, verify, who);
    const Tensor out = host_tensor(stored.shape());
    // Text has no normalisation of its own: mean 0, std 1 of a "latent" with one channel.
    LatentRecipe identity{.kind = "text", .channels = 1, .mean = {0.0}, .std = {1.0}};
    if (!normalise(identity, stored.reshape({1, 1, rows, index.text.dim}),
                   out.reshape({1, 1, rows, index.text.dim}))) {
      throw_error(ExitCode::kCorruptInput,
                  "[data] sample {} in {}/{}: text has values that are not finite", who, folder,
                  file);
    }
    return out;
  }
};

Dataset::Dataset(const std::string& folder) : state_(std::make_unique<State>()) {
  state_->folder = folder;
  state_->index = read_index(folder);
  if (state_->index.samples.empty()) {
    throw_error(ExitCode::kConfig,
                "[data] {} holds no samples; see skipped.json there for the reasons", folder);
  }
}

Dataset::~Dataset() = default;

const std::string& Dataset::folder() const {
  return state_->folder;
}
const ShardIndex& Dataset::index() const {
  return state_->index;
}

const SampleRecord& Dataset::record(std::int64_t i) const {
  DSV_CHECK(i >= 0 && i < size(), "[data] sample {} of {}", i, size());
  return state_->index.samples[static_cast<std::size_t>(i)];
}

void Dataset::read_latent(std::int64_t i, const Tensor& out, bool verify) const {
  const SampleRecord& r = record(i);
  const Tensor stored = state_->read(r.file, r.latent_name(), state_->index.latent_dtype,
                                     r.latent_shape, r.latent_crc32c, verify, r.describe());
  if (!normalise(state_->index.latent, stored, out)) {
    throw_error(ExitCode::kCorruptInput,
                "[data] sample {} in {}/{}: latent has values that are not finite", r.describe(),
                folder(), r.file);
  }
}

Tensor Dataset::read_latent(std::int64_t i, bool verify) const {
  const Tensor out = host_tensor(record(i).latent_shape);
  read_latent(i, out, verify);
  return out;
}

Tensor Dataset::read_text(std::int64_t i, bool verify) const {
  const SampleRecord& r = record(i);
  return state_->read_text(r.file, r.text_name(), r.text_rows, r.text_crc32c, verify, r.describe());
}

Tensor Dataset::null_text() const {
  const ShardIndex& index = state_->index;
  if (index.null_text) {
    return state_->read_text(index.null_text->file, "null.text", index.null_text->rows,
                             index.null_text->crc32c, true, "null text");
  }
  const Tensor zeros = host_tensor({1, index.text.dim});
  std::fill_n(zeros.f32(), zeros.num_elements(), 0.0f);
  return zeros;
}

void pad_text(const Tensor& text, const Tensor& out, const Tensor& mask) {
  const std::int64_t length = out.dim(0), dim = out.dim(1);
  DSV_CHECK(text.num_dims() == 2 && text.dim(1) == dim && mask.num_elements() == length,
            "[data] expected text [rows, {}] and a mask of {}, got {} and {}", dim, length,
            text.shape(), mask.shape());
  const std::int64_t rows = std::min(text.dim(0), length);
  std::copy_n(text.f32(), rows * dim, out.f32());
  std::fill_n(out.f32() + rows * dim, (length - rows) * dim, 0.0f);
  std::fill_n(mask.f32(), rows, 1.0f);
  std::fill_n(mask.f32() + rows, length - rows, 0.0f);
}

}  // namespace dsv::data
