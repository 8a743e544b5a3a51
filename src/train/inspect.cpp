#include "dsv/train/inspect.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "checkpoint_files.h"
#include "dsv/base/crc32c.h"
#include "dsv/data/safetensors.h"
#include "dsv/data/shard_check.h"
#include "dsv/train/checkpoint_manifest.h"
#include "dsv/train/checkpoint_reader.h"

namespace dsv::train {
namespace {

namespace fs = std::filesystem;

void set_problems(Json& out, Json problems) {
  out.set("valid", problems.size() == 0);
  if (problems.size() > 0) out.set("problems", std::move(problems));
}

Json start(const char* kind, const std::string& path, bool verify) {
  return Json::Object{{"kind", kind}, {"path", path}, {"verified", verify}};
}

void add_manifest(Json& out, const Manifest& manifest) {
  std::int64_t bytes = 0, elements = 0;
  Json arrays = Json::array(), files = Json::array();
  for (const LogicalArray& a : manifest.arrays) {
    elements += a.total;
    arrays.push_back(Json::Object{{"name", a.name},
                                  {"dtype", to_string(a.dtype)},
                                  {"elements", a.total},
                                  {"bytes", a.num_bytes()},
                                  {"pieces", static_cast<std::int64_t>(a.pieces.size())}});
  }
  for (std::size_t f = 0; f < manifest.files.size(); ++f) {
    bytes += manifest.files[f].num_bytes;
    files.push_back(Json::Object{{"name", shard_name(static_cast<int>(f))},
                                 {"bytes", manifest.files[f].num_bytes}});
  }
  out.set("step", manifest.meta.step);
  out.set("run_id", manifest.meta.run_id);
  out.set("save_id", manifest.save_id);
  out.set("bytes", bytes);
  out.set("elements", elements);
  out.set("files", std::move(files));
  out.set("arrays", std::move(arrays));
  out.set("extra", manifest.meta.extra);
  out.set("config_yaml", manifest.meta.config_yaml);
}

Json inspect_checkpoint(const std::string& path, bool verify) {
  Json out = start("checkpoint", path, verify);
  Json problems = Json::array();
  const auto look = [&](bool payload) {
    try {
      const auto alone = comm::make_self();
      add_manifest(out, CheckpointReader::open(path, {}, *alone, payload).manifest());
      return true;
    } catch (const Error& error) {
      if (problems.size() == 0) problems.push_back(error.what());
      return false;
    }
  };
  // Where only bytes of the payload are damaged, the rest can still be told.
  if (!look(verify) && verify) look(false);
  set_problems(out, std::move(problems));
  return out;
}

Json inspect_checkpoints(const std::string& path, bool verify) {
  Json out = start("checkpoints", path, verify);
  Json list = Json::array(), problems = Json::array();
  const CheckpointFolder found = list_checkpoints(path);
  for (auto it = found.committed.rbegin(); it != found.committed.rend(); ++it) {
    Json one = inspect_checkpoint(path + '/' + it->second, verify);
    if (!one.at("valid").as_bool()) {
      for (const Json& problem : one.at("problems").as_array()) problems.push_back(problem);
    }
    list.push_back(std::move(one));
  }
  out.set("checkpoints", std::move(list));
  Json others = Json::array();
  for (const std::string& name : found.unfinished) others.push_back(name);
  for (const std::string& name : found.set_aside) others.push_back(name);
  if (others.size() > 0) out.set("not_used", std::move(others));
  set_problems(out, std::move(problems));
  return out;
}

Json inspect_shards(const std::string& path, bool verify) {
  Json out = start("shards", path, verify);
  Json problems = Json::array(), notes = Json::array();
  try {
    out.set("summary", data::summarise(data::read_index(path)));
    if (verify) {
      const data::CheckReport report = data::check_shards(path);
      out.set("samples", report.num_samples);
      out.set("good_samples", report.num_good);
      out.set("shards", report.num_shards);
      out.set("checked_bytes", report.num_bytes);
      for (const data::ShardProblem& p : report.problems) {
        (p.is_note ? notes : problems).push_back(p.where + ": " + p.what);
      }
    }
  } catch (const Error& error) {
    problems.push_back(error.what());
  }
  if (notes.size() > 0) out.set("notes", std::move(notes));
  set_problems(out, std::move(problems));
  return out;
}

bool is_finite(DType dtype, const char* at) {
  std::uint16_t half = 0;
  float single = 0;
  double full = 0;
  switch (dtype) {
    case DType::kF32:
      std::memcpy(&single, at, 4);
      return std::isfinite(single);
    case DType::kF64:
      std::memcpy(&full, at, 8);
      return std::isfinite(full);
    case DType::kBF16:
      std::memcpy(&half, at, 2);
      return (half & 0x7f80u) != 0x7f80u;
    case DType::kF16:
      std::memcpy(&half, at, 2);
      return (half & 0x7c00u) != 0x7c00u;
    default:
      return true;
  }
}

// With plain reads: a mapping would end the process when the file is cut off meanwhile.
void read_through(const data::SafetensorsFile& file, Json& out, Json& problems) {
  std::ifstream in(file.path(), std::ios::binary);
  std::vector<char> chunk(std::size_t{1} << 22);
  const auto read = [&](std::int64_t size) {
    in.read(chunk.data(), static_cast<std::streamsize>(size));
    if (in.gcount() != size) {
      throw_error(ExitCode::kIo, "[inspect] '{}' cannot be read to its end", file.path());
    }
  };
  std::uint32_t crc = 0;
  std::int64_t at = 0;
  const auto pass = [&](std::int64_t size, const data::TensorInfo* tensor, std::int64_t* num_bad) {
    while (size > 0) {
      const std::int64_t n = std::min(size, static_cast<std::int64_t>(chunk.size()));
      read(n);
      crc = crc32c(chunk.data(), static_cast<std::size_t>(n), crc);
      if (tensor != nullptr && tensor->dtype) {
        const std::int64_t width = size_of(*tensor->dtype);
        for (std::int64_t i = 0; i < n; i += width) {
          *num_bad += !is_finite(*tensor->dtype, chunk.data() + i);
        }
      }
      size -= n;
      at += n;
    }
  };
  Json non_finite = Json::object();
  try {
    for (const data::TensorInfo& t : file.tensors()) {
      pass(t.offset - at, nullptr, nullptr);
      std::int64_t num_bad = 0;
      pass(t.num_bytes, &t, &num_bad);
      if (num_bad > 0) non_finite.set(t.name, num_bad);
    }
    if (file.tensors().empty())
      pass(static_cast<std::int64_t>(fs::file_size(file.path())), nullptr, nullptr);
    out.set("crc32c", format("{:08x}", crc));
    out.set("non_finite", std::move(non_finite));
  } catch (const Error& error) {
    problems.push_back(error.what());
  }
}

Json inspect_safetensors(const std::string& path, bool verify) {
  Json out = start("safetensors", path, verify);
  Json problems = Json::array();
  try {
    const data::SafetensorsFile file = data::SafetensorsFile::open(path);
    Json metadata = Json::object(), tensors = Json::array();
    for (const auto& [key, value] : file.metadata()) metadata.set(key, value);
    std::int64_t bytes = 0;
    for (const data::TensorInfo& t : file.tensors()) {
      Json shape = Json::array();
      for (const std::int64_t d : t.dims) shape.push_back(d);
      tensors.push_back(Json::Object{{"name", t.name},
                                     {"dtype", t.dtype_name},
                                     {"shape", std::move(shape)},
                                     {"bytes", t.num_bytes}});
      bytes += t.num_bytes;
    }
    out.set("metadata", std::move(metadata));
    out.set("bytes", bytes);
    out.set("tensors", std::move(tensors));
    const std::string folder = fs::path(path).parent_path().string();
    const std::string* format = file.find_metadata("format");
    if (verify) read_through(file, out, problems);
    // A checkpoint's shard alone proves little: the manifest beside it holds the checksums.
    if (verify && format != nullptr && *format == "dsv-checkpoint-shard") {
      const Json whole = inspect_checkpoint(folder.empty() ? "." : folder, true);
      if (const Json* found = whole.find("problems")) {
        for (const Json& problem : found->as_array()) problems.push_back(problem);
      }
    }
  } catch (const Error& error) {
    if (error.code() != ExitCode::kCorruptInput) throw;
    problems.push_back(error.what());
  }
  set_problems(out, std::move(problems));
  return out;
}

std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

Json inspect(const std::string& given, bool verify) {
  const std::string path = without_trailing_slashes(given);
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    throw_error(ExitCode::kIo, "[inspect] '{}': {}", path,
                error ? error.message() : std::string("no such file or folder"));
  }
  const auto has = [&](const char* name) { return fs::exists(path + '/' + name, error); };
  if (!fs::is_directory(status)) {
    const fs::path file(path);
    const std::string folder = file.parent_path().string();
    if (file.filename() == kManifestName)
      return inspect_checkpoint(folder.empty() ? "." : folder, verify);
    if (file.extension() == ".safetensors") return inspect_safetensors(path, verify);
  } else {
    if (has("manifest.json")) return inspect_checkpoint(path, verify);
    if (has("index.json")) return inspect_shards(path, verify);
    if (has("checkpoints")) return inspect_checkpoints(path + "/checkpoints", verify);
    const CheckpointFolder found = list_checkpoints(path);
    if (!found.committed.empty() || !found.unfinished.empty() || !found.set_aside.empty()) {
      return inspect_checkpoints(path, verify);
    }
    // A step_N whose manifest is gone is a damaged checkpoint, not an unknown folder.
    if (fs::path(path).filename().string().starts_with("step_"))
      return inspect_checkpoint(path, verify);
  }
  throw_error(
      ExitCode::kConfig,
      "[inspect] '{}' is no run, checkpoint, folder of checkpoints, shard set or safetensors file",
      path);
}

}  // namespace dsv::train
