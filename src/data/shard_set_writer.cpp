#include <algorithm>
#include <filesystem>

#include "dsv/base/crc32c.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/shard_format.h"

namespace dsv::data {
namespace {

// A copy of f32 values in the dtype of the shard.
Tensor stored_copy(const Tensor& from, DType dtype) {
  const Tensor out = host_tensor(from.shape(), dtype);
  const std::int64_t n = from.num_elements();
  switch (dtype) {
    case DType::kF32:
      std::copy_n(from.f32(), n, out.f32());
      break;
    case DType::kBF16:
      std::transform(from.f32(), from.f32() + n, out.bf16(), bf16_from_f32);
      break;
    default:
      std::transform(from.f32(), from.f32() + n, static_cast<std::uint16_t*>(out.raw()),
                     f16_from_f32);
  }
  return out;
}

// Also finds values that the narrower dtype turned into infinities.
void check_finite(const Tensor& stored, const SampleRecord& record, const char* what) {
  const Tensor flat = stored.reshape({1, 1, 1, stored.num_elements()});
  const LatentRecipe identity{.kind = "any", .channels = 1, .mean = {0.0}, .std = {1.0}};
  if (!normalise(identity, flat, host_tensor(flat.shape()))) {
    throw_error(ExitCode::kCorruptInput,
                "[shards] sample {}: {} has values that are not finite in {}", record.describe(),
                what, stored.dtype());
  }
}

std::uint32_t crc_of(const Tensor& t) {
  return crc32c(t.raw(), static_cast<std::size_t>(t.num_bytes()));
}

std::string shard_name(std::int64_t number) {
  return format("shard_{:05d}.safetensors", number);
}

}  // namespace

ShardSetWriter::ShardSetWriter(std::string folder, ShardIndex index, std::int64_t shard_bytes,
                               LatentScale scale)
    : folder_(std::move(folder)),
      index_(std::move(index)),
      shard_bytes_(shard_bytes),
      scale_(scale) {
  if (!index_.statistics) index_.statistics.emplace(index_.latent.channels);
  num_flushed_ = num_durable_ = num_complete_ = static_cast<std::int64_t>(index_.samples.size());
  // Also past files that no index names: a run that was cut off left them, and nothing is
  // overwritten.
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    if (name.size() == 23 && name.rfind("shard_", 0) == 0) {
      const std::int64_t number = std::atoll(name.substr(6, 5).c_str());
      shard_number_ = std::max(shard_number_, number + 1);
    }
  }
}

void ShardSetWriter::add(SampleRecord record, const Tensor& latent, const Tensor& text) {
  DSV_CHECK(latent.num_dims() == 4 && latent.dim(0) == index_.latent.channels,
            "[shards] expected a latent [{}, T, H, W], got {}", index_.latent.channels,
            latent.shape());
  DSV_CHECK(text.num_dims() == 2 && text.dim(1) == index_.text.dim,
            "[shards] expected text [rows, {}], got {}", index_.text.dim, text.shape());
  const Tensor stored_latent = stored_copy(latent, index_.latent_dtype);
  const Tensor stored_text = stored_copy(text, index_.text_dtype);
  check_finite(stored_latent, record, "latent");
  check_finite(stored_text, record, "text");
  LatentStatistics statistics(index_.latent.channels);
  const bool still = index_.latent.kind == "haar" && record.frames == 1;
  statistics.add(latent,
                 still ? index_.latent.wavelet.low_time_channels() : index_.latent.channels);
  pending_statistics_.push_back(std::move(statistics));

  record.file = shard_name(shard_number_);
  record.latent_shape = latent.shape();
  record.text_rows = text.dim(0);
  record.latent_crc32c = crc_of(stored_latent);
  record.text_crc32c = crc_of(stored_text);
  shard_.add(record.latent_name(), stored_latent);
  shard_.add(record.text_name(), stored_text);
  index_.samples.push_back(std::move(record));
  if (shard_.payload_bytes() >= shard_bytes_) write_shard();
}

void ShardSetWriter::write_shard() {
  shard_.set_metadata("format", "dsv-shard");
  shard_.write(folder_ + "/" + shard_name(shard_number_));
  shard_ = SafetensorsWriter();
  ++shard_number_;
  num_durable_ = static_cast<std::int64_t>(index_.samples.size());
}

void ShardSetWriter::flush(bool close_shard) {
  if (close_shard && shard_.num_tensors() > 0) write_shard();
  const std::int64_t count = std::min(num_durable_, num_complete_);
  const auto num_new = count - num_flushed_;
  if (num_new == 0 && !close_shard) return;  // the index on disk says the same
  for (std::int64_t i = 0; i < num_new; ++i) {
    index_.statistics->merge(pending_statistics_[static_cast<std::size_t>(i)]);
  }
  pending_statistics_.erase(pending_statistics_.begin(), pending_statistics_.begin() + num_new);
  num_flushed_ = count;
  index_.statistics->finish(&index_.latent, scale_);
  // The samples beyond `count` are hidden while the index is written.
  const auto begin = index_.samples.begin() + count;
  std::vector<SampleRecord> hidden(std::make_move_iterator(begin),
                                   std::make_move_iterator(index_.samples.end()));
  index_.samples.erase(begin, index_.samples.end());
  const auto restore = [&] {
    index_.samples.insert(index_.samples.end(), std::make_move_iterator(hidden.begin()),
                          std::make_move_iterator(hidden.end()));
  };
  try {
    write_index(folder_, index_);
  } catch (...) {
    restore();
    throw;
  }
  restore();
}

}  // namespace dsv::data
