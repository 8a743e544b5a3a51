#include "dsv/train/checkpoint_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include "checkpoint_agree.h"
#include "checkpoint_files.h"
#include "dsv/base/check_math.h"
#include "dsv/base/crc32c.h"
#include "dsv/base/log.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/safetensors.h"
#include "dsv/tensor/transfer.h"
#include "dsv/train/checkpoint_manifest.h"

namespace dsv::train {
namespace {

std::string shard_path(const std::string& folder, std::size_t file) {
  return folder + '/' + shard_name(static_cast<int>(file));
}

std::string last_part(const std::string& path) {
  std::filesystem::path p(path);
  return (p.has_filename() ? p : p.parent_path()).filename().string();
}

std::string read_manifest_text(const std::string& folder) {
  struct stat info {};
  if (::lstat(folder.c_str(), &info) != 0) {
    throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}': {}", folder, std::strerror(errno));
  }
  if (!S_ISDIR(info.st_mode)) {
    throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}' is not a folder", folder);
  }
  const OpenFile file = OpenFile::for_reading(folder + '/' + std::string(kManifestName));
  const std::int64_t size = file.num_bytes();
  if (size > kMaxManifestBytes) {
    throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}' has {} bytes, expected at most {}",
                file.path(), size, kMaxManifestBytes);
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  file.read_at(text.data(), size, 0);
  return text;
}

// The folder holds the manifest and its shards, nothing else: a shard too many is the trace of a
// mix-up. Hidden files are the file system's or the desktop's.
void check_folder(const std::string& folder, const Manifest& manifest) {
  std::set<std::string> shards;
  for (std::size_t f = 0; f < manifest.files.size(); ++f)
    shards.insert(shard_name(static_cast<int>(f)));
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with('.') || name == kManifestName) continue;
    if (shards.count(name) == 0) {
      throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}/{}' does not belong to the checkpoint",
                  folder, name);
    }
  }
}

struct ExpectedPiece {
  std::string name;
  std::string dtype;
  std::int64_t offset = 0;
  std::int64_t num_bytes = 0;
};

std::vector<ExpectedPiece> pieces_of(const Manifest& manifest, std::size_t file) {
  std::vector<ExpectedPiece> out;
  for (const LogicalArray& array : manifest.arrays) {
    for (const ShardPiece& p : array.pieces) {
      if (static_cast<std::size_t>(p.file) != file) continue;
      out.push_back({piece_name(array.name, p.begin, p.end), to_string(array.dtype), p.offset,
                     (p.end - p.begin) * size_of(array.dtype)});
    }
  }
  return out;
}

// Size and header of a shard against the manifest. The checksums cover the header too; this names a
// shard of another save, step or rank as what it is.
void check_shard_head(const OpenFile& file, const Manifest& manifest, std::size_t index) {
  const std::int64_t expected_bytes = manifest.files[index].num_bytes;
  if (const std::int64_t found = file.num_bytes(); found != expected_bytes) {
    throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}' has {} bytes, expected {}", file.path(),
                found, expected_bytes);
  }
  const std::vector<ExpectedPiece> expected = pieces_of(manifest, index);
  std::int64_t payload_bytes = 0;
  for (const ExpectedPiece& p : expected) payload_bytes += p.num_bytes;
  std::string head(static_cast<std::size_t>(expected_bytes - payload_bytes), '\0');
  file.read_at(head.data(), static_cast<std::int64_t>(head.size()), 0);
  const data::SafetensorsHeader found =
      data::parse_safetensors_header(head, static_cast<std::uint64_t>(expected_bytes), file.path());

  const std::pair<const char*, std::string> identity[] = {
      {"format", "dsv-checkpoint-shard"},
      {"run_id", manifest.meta.run_id},
      {"step", std::to_string(manifest.meta.step)},
      {"save_id", manifest.save_id},
      {"rank", std::to_string(index)},
      {"world", std::to_string(manifest.files.size())}};
  for (const auto& [key, value] : identity) {
    const auto entry = std::find_if(found.metadata.begin(), found.metadata.end(),
                                    [&](const auto& m) { return m.first == key; });
    const std::string got = entry == found.metadata.end() ? "none" : entry->second;
    if (got != value) {
      throw_error(ExitCode::kCorruptInput,
                  "[checkpoint] '{}' is of another save: {} '{}', expected '{}'", file.path(), key,
                  got, value);
    }
  }
  bool same = found.tensors.size() == expected.size();
  for (std::size_t i = 0; same && i < expected.size(); ++i) {
    const data::TensorInfo& t = found.tensors[i];
    const ExpectedPiece& e = expected[i];
    same = t.name == e.name && t.dtype_name == e.dtype && t.offset == e.offset &&
           t.num_bytes == e.num_bytes;
  }
  if (!same) {
    throw_error(ExitCode::kCorruptInput,
                "[checkpoint] '{}' holds other pieces than the manifest says", file.path());
  }
}

}  // namespace

CheckpointReader::CheckpointReader(std::string path, Manifest manifest, const Stream& stream)
    : path_(std::move(path)),
      manifest_(std::make_shared<const Manifest>(std::move(manifest))),
      stream_(stream) {
  for (const LogicalArray& array : manifest_->arrays) by_name_.emplace(array.name, &array);
}

const LogicalArray* CheckpointReader::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

// Rank `rank`'s share of the shards: heads by file, payload chunk by chunk.
void CheckpointReader::check_shards(int rank, int size, bool payload) const {
  std::vector<char> buffer;
  for (std::size_t f = 0; f < manifest_->files.size(); ++f) {
    const ShardFile& expected = manifest_->files[f];
    const OpenFile file = OpenFile::for_reading(shard_path(path_, f));
    if (f % static_cast<std::size_t>(size) == static_cast<std::size_t>(rank)) {
      check_shard_head(file, *manifest_, f);
    }
    for (std::size_t c = 0; payload && c < expected.chunk_crcs.size(); ++c) {
      if ((f + c) % static_cast<std::size_t>(size) != static_cast<std::size_t>(rank)) continue;
      check_chunk(file, expected.num_bytes, static_cast<std::int64_t>(c), expected.chunk_crcs[c],
                  buffer);
    }
  }
}

CheckpointReader CheckpointReader::open(const std::string& path, const Options& options,
                                        comm::Communicator& comm, bool payload) {
  std::optional<CheckpointReader> reader;
  std::uint32_t crc = 0;
  const Verdict parsed = attempt([&] {
    const std::string text = read_manifest_text(path);
    crc = crc32c(text.data(), text.size());
    Manifest manifest = parse_manifest(text, path + '/' + std::string(kManifestName));
    const std::string folder = last_part(path);
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    if (folder.starts_with("step_") && std::all_of(folder.begin() + 5, folder.end(), digit) &&
        folder != step_name(manifest.meta.step)) {
      throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}' holds step {}", path,
                  manifest.meta.step);
    }
    if (comm.rank() == 0) check_folder(path, manifest);
    reader.emplace(CheckpointReader(path, std::move(manifest), options.stream));
  });
  agree(comm, parsed).throw_if_failed();
  const std::string of_root = comm.broadcast_bytes(std::to_string(crc), 0);
  const Verdict checked = attempt([&] {
    if (of_root != std::to_string(crc)) {
      throw_error(ExitCode::kEnvironment,
                  "[checkpoint] '{}' is another file on rank 0: is it on a "
                  "shared file system?",
                  path + '/' + std::string(kManifestName));
    }
    reader->check_shards(comm.rank(), comm.size(), payload);
  });
  agree(comm, checked).throw_if_failed();
  return std::move(*reader);
}

void CheckpointReader::verify(comm::Communicator& comm) const {
  agree(comm, attempt([&] { check_shards(comm.rank(), comm.size(), true); })).throw_if_failed();
}

std::optional<CheckpointReader> CheckpointReader::open_newest_valid(const std::string& dir,
                                                                    const Options& options,
                                                                    comm::Communicator& comm) {
  // Rank 0 looks and says which; the others follow its list.
  Json steps = Json::array();
  std::string aside;
  const Verdict listed = attempt([&] {
    if (comm.rank() != 0) return;
    const CheckpointFolder found = list_checkpoints(dir);
    for (auto it = found.committed.rbegin(); it != found.committed.rend(); ++it) {
      steps.push_back(it->first);
    }
    if (!found.set_aside.empty()) aside = found.set_aside.front();
  });
  share(comm, listed, 0).throw_if_failed();
  steps = parse_json(comm.broadcast_bytes(steps.dump(), 0), "list of checkpoints");
  aside = comm.broadcast_bytes(aside, 0);

  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::string path = dir + '/' + step_name(steps.as_array()[i].as_int());
    std::optional<CheckpointReader> reader;
    const Verdict opened = attempt([&] { reader = open(path, options, comm); });
    if (opened.ok()) return reader;
    // Other failures, as of the transport, say nothing about the checkpoint.
    const bool damaged = opened.code == ExitCode::kCorruptInput || opened.code == ExitCode::kIo;
    if (options.strict || !damaged) opened.throw_if_failed();
    if (comm.rank() == 0) {
      log_warn("[checkpoint] {} is NOT valid and is passed over{}: {}", path,
               i + 1 < steps.size() ? ", trying the one before" : "", opened.message);
    }
  }
  if (steps.size() > 0) {
    throw_error(ExitCode::kNothingToResume,
                "[checkpoint] none of the {} checkpoints in '{}' is valid (see the warnings "
                "above); to start "
                "anew, give the run another name or move that folder away",
                steps.size(), dir);
  }
  if (!aside.empty()) {
    throw_error(
        ExitCode::kNothingToResume,
        "[checkpoint] '{}' holds only checkpoints that were set aside: rename '{}' to resume from "
        "it",
        dir, aside);
  }
  if (options.required) {
    throw_error(ExitCode::kNothingToResume, "[checkpoint] no checkpoint in '{}'", dir);
  }
  return std::nullopt;
}

void CheckpointReader::read(std::string_view name, std::int64_t begin, std::int64_t end,
                            const Tensor& out) const {
  const LogicalArray* array = find(name);
  if (array == nullptr) {
    throw_error(ExitCode::kResumeRefused, "[checkpoint] {} holds no array '{}'", path_, name);
  }
  DSV_CHECK(0 <= begin && begin <= end && out.is_contiguous() && out.num_elements() == end - begin,
            "[checkpoint] read of [{}, {}) of '{}' to a tensor of shape {}", begin, end, name,
            out.shape());
  if (end > array->total || (begin < end && out.dtype() != array->dtype)) {
    throw_error(ExitCode::kResumeRefused,
                "[checkpoint] {}: array '{}' has {} elements of {}, asked for [{}, {}) of {}",
                path_, name, array->total, array->dtype, begin, end, out.dtype());
  }
  if (begin == end) return;
  const std::int64_t width = size_of(array->dtype);
  const Tensor flat = out.reshape({end - begin});
  const bool on_host = out.device().kind == DeviceKind::kCpu;
  auto piece = std::upper_bound(array->pieces.begin(), array->pieces.end(), begin,
                                [](std::int64_t at, const ShardPiece& p) { return at < p.end; });
  for (; piece != array->pieces.end() && piece->begin < end; ++piece) {
    const std::int64_t from = std::max(begin, piece->begin), to = std::min(end, piece->end);
    const std::int64_t bytes = (to - from) * width;
    const Tensor part = flat.slice(0, from - begin, to - begin);
    const Tensor host = on_host ? part : data::host_tensor(part.shape(), part.dtype());
    OpenFile::for_reading(shard_path(path_, static_cast<std::size_t>(piece->file)))
        .read_at(host.raw(), bytes, piece->offset + (from - piece->begin) * width);
    if (!on_host) transfer(host, part, stream_);
  }
}

}  // namespace dsv::train
