#include "dsv/train/weights.h"

#include <filesystem>
#include <set>

#include "dsv/data/atomic_file.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/safetensors_writer.h"
#include "dsv/model/diffusers_config.h"
#include "dsv/tensor/transfer.h"

namespace dsv::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigKey = "config";
constexpr const char* kWeightsStem = "diffusion_pytorch_model";

constexpr std::int64_t kMaxJsonBytes = 64 << 20;

std::string read_text(const fs::path& path) {
  return data::read_file(path.string(), kMaxJsonBytes);
}

// The files that hold a diffusers model's tensors, in a fixed order.
std::vector<fs::path> weight_files(const fs::path& dir) {
  const fs::path single = dir / (std::string(kWeightsStem) + ".safetensors");
  if (fs::exists(single)) return {single};
  const fs::path index = dir / (std::string(kWeightsStem) + ".safetensors.index.json");
  if (!fs::exists(index)) {
    throw_error(ExitCode::kConfig, "[import] {} holds neither {} nor {}", dir.string(),
                single.filename().string(), index.filename().string());
  }
  std::set<std::string> names;
  const Json json = parse_json(read_text(index), index.string());
  for (const auto& [tensor, file] : json.at("weight_map").as_object())
    names.insert(file.as_string());
  std::vector<fs::path> files;
  for (const std::string& name : names) {
    if (fs::path(name).filename() != name) {
      throw_error(ExitCode::kCorruptInput, "[import] {}: '{}' is not a plain file name",
                  index.string(), name);
    }
    files.push_back(dir / name);
  }
  return files;
}

// Streams one tensor of a file to a writer.
void pass_on(const data::SafetensorsFile& file, const data::TensorInfo& info,
             data::SafetensorsWriter& writer) {
  writer.add(info.name, file.view(info.name));
}

}  // namespace

void load_weights(const autograd::Context& ctx, autograd::ParamStore& store,
                  const data::SafetensorsFile& file) {
  for (const data::TensorInfo& info : file.tensors()) {
    if (store.find(info.name, nullptr) == nullptr) {
      throw_error(ExitCode::kCorruptInput,
                  "[weights] {}: the model has no parameter '{}'; does the configuration fit?",
                  file.path(), info.name);
    }
  }
  for (const autograd::ParamUnit& unit : store.units()) {
    for (const autograd::ParamEntry& entry : unit.entries) {
      const data::TensorInfo* info = file.find(entry.spec.name);
      if (info == nullptr) {
        throw_error(ExitCode::kCorruptInput, "[weights] {}: '{}' is missing", file.path(),
                    entry.spec.name);
      }
      if (!(info->shape() == entry.spec.shape)) {
        throw_error(ExitCode::kCorruptInput,
                    "[weights] {}: '{}' has shape {}, the model expects {}", file.path(),
                    info->name, info->shape(), entry.spec.shape);
      }
      const Tensor host = file.read(info->name).reshape({-1});
      const Tensor device = ctx.arena.like(host);
      transfer(host, device, ctx.stream);
      ctx.kernels.cast({.x = device, .y = unit.master.slice(0, entry.begin, entry.end)},
                       ctx.stream);
    }
  }
  store.refresh_copies(ctx);
}

void save_weights(const autograd::Context& ctx, const autograd::ParamStore& store, bool ema,
                  const model::DitConfig& config, const std::string& path) {
  data::SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  writer.set_metadata(kConfigKey, model::config_to_diffusers(config).dump());
  for (const autograd::ParamUnit& unit : store.units()) {
    const Tensor& flat = ema ? unit.ema : unit.master;
    DSV_CHECK(flat.defined(), "[weights] unit '{}' keeps no {}", unit.name,
              ema ? "EMA" : "masters");
    const Tensor host = data::host_tensor(flat.shape());
    transfer(flat, host, ctx.stream);
    for (const autograd::ParamEntry& entry : unit.entries) {
      writer.add(entry.spec.name, host.slice(0, entry.begin, entry.end).reshape(entry.spec.shape));
    }
  }
  writer.write(path);
}

model::DitConfig config_of_weights(const data::SafetensorsFile& file) {
  const std::string* text = file.find_metadata(kConfigKey);
  if (text == nullptr) {
    throw_error(
        ExitCode::kConfig,
        "[weights] {} does not say what model it is for: give a configuration or --model-json "
        "(files made by `dsv import` carry their config.json)",
        file.path());
  }
  return model::config_from_diffusers(parse_json(*text, file.path() + " (config)"));
}

std::int64_t import_diffusers(const std::string& dir, const std::string& out_file) {
  const fs::path config_path = fs::path(dir) / "config.json";
  const std::string config = read_text(config_path);
  model::config_from_diffusers(
      parse_json(config, config_path.string()));  // refuse what we can't build
  data::SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  writer.set_metadata(kConfigKey, config);
  std::int64_t count = 0;
  for (const fs::path& path : weight_files(dir)) {
    const auto file = data::SafetensorsFile::open(path.string());
    for (const data::TensorInfo& info : file.tensors()) {
      pass_on(file, info, writer);
      ++count;
    }
  }
  writer.write(out_file);
  return count;
}

std::int64_t export_diffusers(const std::string& path, const std::string& out_dir) {
  const auto file = data::SafetensorsFile::open(path);
  const std::string* config = file.find_metadata(kConfigKey);
  if (config == nullptr) config_of_weights(file);  // throws, saying why
  data::SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  for (const data::TensorInfo& info : file.tensors()) pass_on(file, info, writer);
  std::error_code error;
  fs::create_directories(out_dir, error);
  if (error) throw_error(ExitCode::kIo, "[export] cannot create {}: {}", out_dir, error.message());
  writer.write((fs::path(out_dir) / (std::string(kWeightsStem) + ".safetensors")).string());
  data::write_file_atomic((fs::path(out_dir) / "config.json").string(), *config);
  return writer.num_tensors();
}

}  // namespace dsv::train
