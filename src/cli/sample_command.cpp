// dsv sample: videos from a run's or a checkpoint's weights.
#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <memory>

#include "commands.h"
#include "device_option.h"
#include "dsv/base/log.h"
#include "dsv/data/safetensors_writer.h"
#include "dsv/train/config_io.h"
#include "dsv/train/generate.h"
#include "dsv/train/progress.h"
#include "dsv/train/runtime.h"
#include "dsv/train/train_state.h"

namespace dsv::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string source, out = "sample.mp4", bucket, latents;
  std::vector<std::string> prompts;
  std::int64_t count = 0, seed = -1;
  int steps = 0;
  DeviceOption device;
  double cfg_scale = -1, fps = 0;
  bool raw = false;
  std::string attention = "policy";
};

// A run folder, or a checkpoint folder.
train::CheckpointReader open_source(const std::string& source, train::Runtime& runtime) {
  comm::Communicator& self = *runtime.mesh().world;
  if (fs::exists(fs::path(source) / "manifest.json")) {
    return train::CheckpointReader::open(source, {.strict = true, .stream = runtime.stream()},
                                         self);
  }
  const fs::path checkpoints = fs::path(source) / "checkpoints";
  if (!fs::is_directory(checkpoints)) {
    throw_error(
        ExitCode::kConfig,
        "dsv sample: expected a run folder (with checkpoints/) or a checkpoint folder (with "
        "manifest.json), got {}",
        source);
  }
  return std::move(*train::CheckpointReader::open_newest_valid(
      checkpoints.string(), {.required = true, .stream = runtime.stream()}, self));
}

// "64x96x16": height, width, frames.
void set_size(const std::string& text, train::GenerateRequest& request) {
  if (std::sscanf(text.c_str(), "%ldx%ldx%ld", &request.height, &request.width, &request.frames) !=
          3 ||
      request.height < 1 || request.width < 1 || request.frames < 1) {
    throw_error(ExitCode::kConfig, "--size: expected HEIGHTxWIDTHxFRAMES, got '{}'", text);
  }
}

void run(const Options& o) {
  train::Runtime runtime(runtime_options(o.device), comm::make_self());
  train::CheckpointReader reader = open_source(o.source, runtime);
  const train::Config config = train::parse_config(reader.meta().config_yaml, reader.path());
  const train::Codec codec = train::codec_from_json(reader.meta().extra.at("codec"), reader.path());
  train::GenerateRequest request{
      .num_steps = o.steps > 0 ? o.steps : narrow<int>(config.sample.steps),
      .cfg_scale = o.cfg_scale >= 0 ? o.cfg_scale : config.sample.cfg_scale,
      .seed = o.seed >= 0 ? static_cast<std::uint64_t>(o.seed) : config.run.seed};
  if (!o.bucket.empty()) {
    set_size(o.bucket, request);
  } else {
    const Json& size = reader.meta().extra.at("sample_size");
    request.height = size.at("height").as_int();
    request.width = size.at("width").as_int();
    request.frames = size.at("frames").as_int();
  }
  request.prompts = o.prompts.empty() ? config.sample.prompts : o.prompts;
  if (request.prompts.empty()) {
    for (const Json& caption : reader.meta().extra.at("captions").as_array()) {
      request.prompts.push_back(caption.as_string());
    }
  }
  if (request.prompts.empty()) request.prompts.emplace_back();
  const std::size_t given = request.prompts.size();
  const auto count = o.count > 0 ? static_cast<std::size_t>(o.count) : given;
  for (std::size_t i = given; i < count; ++i) request.prompts.push_back(request.prompts[i % given]);
  request.prompts.resize(count);

  const autograd::Context ctx = runtime.context();
  train::TrainState state(ctx, config, {});
  const bool ema = config.optim.ema && !o.raw;
  state.restore_weights(ctx, reader, ema);
  log_info("[sample] {} weights of step {}; {} clip(s) of {}x{}, {} frames", ema ? "EMA" : "raw",
           reader.meta().step, count, request.height, request.width, request.frames);
  for (std::size_t i = 0; i < count; ++i) log_info("[sample] {}: {}", i, request.prompts[i]);
  if (o.attention == "policy") request.attention = &state.attention();
  const std::int64_t sparse = request.attention != nullptr ? request.attention->num_sparse_blocks() : 0;
  if (sparse > 0) log_info("[sample] attention is sparse in {} of {} blocks", sparse, config.model.num_layers);
  const auto start = std::chrono::steady_clock::now();
  train::Progress progress({.name = "sampling", .num_steps = request.num_steps});
  const train::Generated generated =
      train::generate(ctx, state.dit(), config.diffusion, codec, request,
                      [&](int done, int) { progress.update(done, ""); });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  log_info("[sample] {:.2f} s, {:.1f} ms a solver step", took.count(),
           1e3 * took.count() / request.num_steps);
  const fs::path out(o.out);
  const std::string stem = (out.parent_path() / out.stem()).string();
  for (const std::string& path :
       train::write_generated(generated, stem, o.fps > 0 ? o.fps : config.sample.fps)) {
    log_info("[sample] wrote {}", path);
  }
  if (!o.latents.empty()) {
    data::SafetensorsWriter writer;
    writer.add("latents", generated.latents);
    writer.write(o.latents);
    log_info("[sample] wrote {}", o.latents);
  }
}

}  // namespace

void add_sample_command(CLI::App& app, Invocation&) {
  auto o = std::make_shared<Options>();
  CLI::App* sample = app.add_subcommand("sample", "Generate videos from a run or checkpoint");
  sample->add_option("RUN_OR_CHECKPOINT", o->source, "runs/NAME or runs/NAME/checkpoints/step_N")
      ->required();
  sample->add_option("--prompt", o->prompts, "What to show; repeat for several clips")
      ->allow_extra_args(false);
  sample
      ->add_option("-o,--out", o->out,
                   "The .mp4 to write; several clips get _0, _1, …; a contact "
                   "sheet goes beside it as .png")
      ->capture_default_str();
  sample->add_option("--latents", o->latents, "Also write the latents as safetensors");
  sample->add_option("--count", o->count, "Number of clips (default: one per prompt)");
  sample->add_option("--size", o->bucket,
                     "HEIGHTxWIDTHxFRAMES (default: the first training bucket)");
  sample->add_option("--steps", o->steps, "Euler steps (default: sample.steps)");
  sample->add_option("--cfg-scale", o->cfg_scale, "Guidance (default: sample.cfg_scale; 1: none)");
  sample->add_option("--fps", o->fps, "Frame rate of the files (default: sample.fps)");
  sample->add_option("--seed", o->seed, "Of the initial noise (default: run.seed)");
  add_device_option(sample, &o->device, "auto");
  sample
      ->add_option("--attention", o->attention,
                   "policy: sparse where training was; full: to everything")
      ->check(CLI::IsMember({"policy", "full"}))
      ->capture_default_str();
  sample->add_flag("--raw", o->raw, "Use the raw weights, not the EMA");
  sample->footer(
      "Example:\n  dsv sample runs/mine --prompt \"a red ball rolls to the left\" -o out.mp4");
  sample->callback([o] { run(*o); });
}

}  // namespace dsv::cli
