#include "dsv/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <optional>

#include "dsv/base/log.h"
#include "dsv/comm/stop_request.h"
#include "dsv/comm/watchdog.h"
#include "dsv/data/held_out.h"
#include "dsv/data/loader.h"
#include "dsv/train/attention_costs.h"
#include "dsv/train/checkpoint_writer.h"
#include "dsv/train/config_io.h"
#include "dsv/train/fault.h"
#include "dsv/train/generate.h"
#include "dsv/train/run_log.h"
#include "dsv/train/runtime.h"
#include "dsv/train/train_step.h"

namespace dsv::train {
namespace {

using Clock = std::chrono::steady_clock;
using comm::Phase;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int kCostRepeats = 3;

bool due(std::int64_t step, std::int64_t every) {
  return every > 0 && step % every == 0;
}

std::shared_ptr<const data::Dataset> open_dataset(const Config& config) {
  if (config.data.shards.empty()) {
    throw_error(ExitCode::kConfig,
                "data.shards: expected the folder that `dsv data encode` wrote, got nothing");
  }
  return std::make_shared<const data::Dataset>(config.data.shards);
}

Codec codec_of(const data::ShardIndex& index) {
  return {.latents = index.latent, .text_kind = index.text_kind, .text = index.text};
}

// Which samples a set holds: another set under the same name would be another run.
std::string fingerprint(const data::ShardIndex& index) {
  std::uint64_t sum = 0;  // of mixed ids: the order of samples does not matter
  for (const data::SampleRecord& record : index.samples) {
    const std::string id = record.hex_id() + format("{:08x}", record.latent_crc32c);
    sum += fnv1a(id.data(), id.size());
  }
  return format("{} samples, {:016x}", index.samples.size(), sum);
}

// The model must take what the shards hold.
void require_fit(const Config& config, const data::ShardIndex& index) {
  if (index.latent.channels != config.model.in_channels) {
    throw_error(ExitCode::kConfig,
                "model.in_channels: expected {}, as the shards in {} have, got {}",
                index.latent.channels, config.data.shards, config.model.in_channels);
  }
  if (index.text.dim != config.model.text_dim) {
    throw_error(ExitCode::kConfig, "model.text_dim: expected {}, as the shards in {} have, got {}",
                index.text.dim, config.data.shards, config.model.text_dim);
  }
}

}  // namespace

struct Trainer::Impl {
  Impl(const Config& c, std::unique_ptr<comm::Communicator> world, const Place& place,
       const std::string& resume_path)
      : config(c),
        watchdog(c.watchdog, *world),
        runtime({.device = c.run.device,
                 .compute = c.precision.compute,
                 .determinism = c.run.determinism,
                 .place = place,
                 .dp = c.parallel.dp,
                 .cp = c.parallel.cp},
                std::move(world)),
        rank(runtime.mesh().world->rank()),
        log(c, *runtime.mesh().world),
        dataset(open_dataset(c)),
        codec(codec_of(dataset->index())),
        state((require_fit(c, dataset->index()), runtime.context()), c) {
    split = data::split_held_out(dataset->index().samples, config.data.held_out_percent);
    plan = std::make_shared<const data::BatchPlan>(dataset->index().samples, split.train,
                                                   config.data, config.run.seed);
    null_text = dataset->null_text();
    peak_flops = this->world().all_reduce(runtime.peak_flops(), comm::ReduceOp::kSum);
    log.describe(state.params().num_params(), *plan, split, runtime);
    resume(resume_path);
    loader =
        std::make_unique<data::Loader>(dataset, plan, config.data, config.model.text_len,
                                       data::LoaderPosition{.dp_rank = runtime.mesh().dp->rank(),
                                                            .dp_size = runtime.mesh().dp->size(),
                                                            .start_step = state.step()},
                                       runtime.make_staging());
  }

  comm::Communicator& world() { return *runtime.mesh().world; }

  void resume(const std::string& path);
  void find_costs();
  std::vector<Shape> plan_latents() const;
  std::vector<std::string> sample_prompts() const;
  void save();
  void evaluate();
  void sample();
  void record_gpu(Json& record) const;
  void record_sparsity(Json& record) const;
  Json step_record(const StepResult& result, double seconds, const comm::CommStats& before);
  void tell_sparsity(const StepResult& result, sparsity::Stage before);
  ExitCode finish(bool stopped);
  ExitCode run();

  Config config;
  comm::Watchdog watchdog;  // before the runtime: connecting to peers can hang, too
  Runtime runtime;
  int rank;
  RunLog log;
  std::shared_ptr<const data::Dataset> dataset;
  Codec codec;
  TrainState state;
  data::Split split;
  std::shared_ptr<const data::BatchPlan> plan;
  Tensor null_text;
  std::unique_ptr<data::Loader> loader;
  std::unique_ptr<CheckpointWriter> writer;
  double peak_flops = 0;  // of all ranks together
};

void Trainer::Impl::resume(const std::string& path) {
  watchdog.beat(Phase::kLoad, 0, "checkpoint");
  const bool strict = config.resume.fallback == ResumeFallback::kStrict;
  std::optional<CheckpointReader> reader;
  if (!path.empty()) {
    reader = CheckpointReader::open(path, {.strict = true, .stream = runtime.stream()}, world());
  } else if (config.resume.mode != ResumeMode::kNever) {
    reader = CheckpointReader::open_newest_valid(
        log.checkpoint_dir(),
        {.strict = strict,
         .required = config.resume.mode == ResumeMode::kRequired,
         .stream = runtime.stream()},
        world());
  } else if (log.has_checkpoints()) {
    throw_error(
        ExitCode::kConfig,
        "resume.mode is never, but {} holds checkpoints: choose another run.name, or remove "
        "them",
        log.checkpoint_dir());
  }
  std::optional<std::int64_t> resumed;
  if (reader) {
    const CheckpointMeta& meta = reader->meta();
    require_resumable(
        config_differences(parse_config(meta.config_yaml, reader->path() + " (config)"), config),
        config.resume.allow);
    const Codec stored = codec_from_json(meta.extra.at("codec"), reader->path());
    if (!(stored == codec)) {
      throw_error(
          ExitCode::kResumeRefused,
          "[resume] the shards in {} were encoded or normalised otherwise than those of {}: the "
          "model would see other latents",
          config.data.shards, reader->path());
    }
    const std::string& shards = meta.extra.at("shards").as_string();
    const auto& allow = config.resume.allow;
    if (shards != fingerprint(dataset->index()) &&
        std::find(allow.begin(), allow.end(), "data.shards") == allow.end()) {
      throw_error(ExitCode::kResumeRefused,
                  "[resume] {} was trained on other shards ({}) than {} holds now ({}); "
                  "resume.allow: [data.shards] goes on with them",
                  reader->path(), shards, config.data.shards, fingerprint(dataset->index()));
    }
    state.restore(runtime.context(), *reader);
    resumed = state.step();
    log.resumed(*reader, runtime);
  }
  if (state.attention().needs_costs() && state.attention().costs().points.empty()) find_costs();
  writer = std::make_unique<CheckpointWriter>(
      log.checkpoint_dir(),
      CheckpointWriter::Options{.keep = config.checkpoint.keep,
                                .async = config.checkpoint.async,
                                .verify_after_save = config.checkpoint.verify_after_save,
                                .resumed_step = resumed,
                                .stream = runtime.stream()},
      world());
  log.start(state.step());
}

// Rank 0 reads or measures, and all decide from its numbers.
void Trainer::Impl::find_costs() {
  watchdog.beat(Phase::kInit, 0, "what attention costs");
  std::string text;
  if (rank == 0) {
    costs::AttentionCosts found;
    if (!config.sparsity.profile.empty()) {
      found = read_profile(config.sparsity.profile, cost_frame(config, runtime),
                           config.sparsity.allow_stale);
    } else {
      log_info("[profile] measuring what attention costs here; `dsv profile` does it once for all "
               "runs");
      std::vector<sparsity::Extent3> grids;
      for (const Shape& latents : plan_latents()) {
        const autograd::PatchGeometry g = state.dit().geometry(latents);
        grids.push_back({g.latent[0] / g.patch[0], g.latent[1] / g.patch[1],
                         g.latent[2] / g.patch[2]});
      }
      found = measure_attention_costs(config, runtime, grids, kCostRepeats,
                                      [](const costs::AttentionPoint& point) {
                                        log_info("[profile] {}", describe(point));
                                      });
    }
    text = costs::to_json(found).dump();
  }
  text = world().broadcast_bytes(text, 0);
  state.attention().set_costs(
      costs::attention_costs_from_json(parse_json(text, "costs of rank 0"), "costs of rank 0"));
}

// The latents [1, C, T, H, W] of each bucket's shape.
std::vector<Shape> Trainer::Impl::plan_latents() const {
  std::vector<Shape> out;
  for (const data::Bucket& bucket : plan->buckets()) {
    for (const data::SampleRecord& record : dataset->index().samples) {
      if (record.height != bucket.height || record.width != bucket.width ||
          record.frames != bucket.frames) {
        continue;
      }
      const Shape& l = record.latent_shape;
      out.push_back({1, l[0], l[1], l[2], l[3]});
      break;
    }
  }
  return out;
}

std::vector<std::string> Trainer::Impl::sample_prompts() const {
  std::vector<std::string> choices = config.sample.prompts;
  if (choices.empty()) {
    // Captions of held-out clips, each once: clips of one video share theirs.
    for (const std::int64_t i : split.held_out.empty() ? split.train : split.held_out) {
      const std::string& caption = dataset->record(i).caption;
      if (std::find(choices.begin(), choices.end(), caption) == choices.end()) {
        choices.push_back(caption);
      }
    }
  }
  std::vector<std::string> out;
  for (std::size_t i = 0; i < static_cast<std::size_t>(config.sample.count); ++i) {
    out.push_back(choices[i % choices.size()]);
  }
  return out;
}

void Trainer::Impl::save() {
  watchdog.beat(Phase::kSave, state.step());
  CheckpointMeta meta{
      .step = state.step(), .run_id = log.run_id(), .config_yaml = dump_config(config)};
  meta.extra.set("codec", to_json(codec));
  meta.extra.set("shards", fingerprint(dataset->index()));
  // What `dsv sample` makes when it is not told.
  const data::Bucket& bucket = plan->buckets().front();
  Json size = Json::object();
  size.set("height", bucket.height);
  size.set("width", bucket.width);
  size.set("frames", bucket.frames);
  meta.extra.set("sample_size", std::move(size));
  Json captions = Json::array();
  for (const std::string& text : sample_prompts()) captions.push_back(text);
  meta.extra.set("captions", std::move(captions));
  meta.extra.set("layout", log.layout(runtime));
  state.describe(meta.extra);
  writer->save(meta, state.pieces(runtime.mesh()));
}

void Trainer::Impl::evaluate() {
  if (split.held_out.empty()) return;
  watchdog.beat(Phase::kSample, state.step(), "held-out loss");
  Json record = Json::object();
  // Every world-size-th sample, one at a time: the same samples whatever the layout.
  std::vector<data::LoaderBatch> batches;
  const auto limit = config.eval.max_samples > 0
                         ? std::min<std::size_t>(split.held_out.size(),
                                                 static_cast<std::size_t>(config.eval.max_samples))
                         : split.held_out.size();
  for (std::size_t i = static_cast<std::size_t>(rank); i < limit;
       i += static_cast<std::size_t>(world().size())) {
    batches.push_back(data::read_batch(*dataset, {split.held_out[i]}, config.model.text_len,
                                       config.data.verify_crc));
  }
  const autograd::Context ctx = runtime.context();
  const auto measure = [&](const char* name) {
    const std::vector<double> losses = held_out_loss(runtime, state, config, batches);
    double mean = 0;
    Json list = Json::array();
    for (const double l : losses) {
      mean += l / static_cast<double>(losses.size());
      list.push_back(l);
    }
    record.set(format("held_out_{}", name), mean);
    record.set(format("held_out_{}_by_t", name), std::move(list));
  };
  measure("raw");
  if (config.optim.ema) {
    state.params().swap_ema(ctx);
    measure("ema");
    state.params().swap_ema(ctx);
  }
  log.held_out(state.step(), record);
}

void Trainer::Impl::sample() {
  watchdog.beat(Phase::kSample, state.step(), "samples");
  if (rank == 0) {
    const TraceScope trace(runtime.tracer(), "sample");
    const data::Bucket& bucket = plan->buckets().front();
    GenerateRequest request{.height = bucket.height,
                            .width = bucket.width,
                            .frames = bucket.frames,
                            .num_steps = narrow<int>(config.sample.steps),
                            .cfg_scale = config.sample.cfg_scale,
                            .seed = config.run.seed,
                            .attention = &state.attention()};
    request.prompts = sample_prompts();
    const autograd::Context ctx = runtime.context();
    if (config.optim.ema) state.params().swap_ema(ctx);
    const Generated generated =
        generate(ctx, state.dit(), config.diffusion, codec, request,
                 [&](int, int) { watchdog.beat(Phase::kSample, state.step(), "samples"); });
    if (config.optim.ema) state.params().swap_ema(ctx);
    log.samples(state.step(), generated, request.prompts, config.sample.fps);
  }
  world().barrier();
}

void Trainer::Impl::record_gpu(Json& record) const {
  const CudaUsage usage = cuda_usage(runtime.device().index);
  const auto set = [&](const char* name, double value) {
    if (value >= 0) record.set(name, value);
  };
  set("gpu_utilisation_percent", usage.utilisation_percent);
  set("gpu_memory_used_bytes", usage.memory_used_bytes);
  set("gpu_power_watts", usage.power_watts);
  set("gpu_sm_clock_mhz", usage.sm_clock_mhz);
  set("gpu_temperature_c", usage.temperature_c);
}

void Trainer::Impl::record_sparsity(Json& record) const {
  const sparsity::SparsityState& s = state.attention().state();
  record.set("sparse_stage", s.stage == sparsity::Stage::kSparse ? 1 : 0);
  record.set("sparse_blocks", state.attention().num_sparse_blocks());
  record.set("predictor_loss", s.loss_ema);
  double density = 0, coverage = 0, recall = 0, oracle = 0;
  bool covered = true, profiled = true;
  for (const sparsity::BlockState& block : s.blocks) {
    density += block.sparse ? block.mean_density() : 1;
    coverage += block.mean_coverage();
    recall += block.recall;
    oracle += block.oracle_coverage;
    covered = covered && block.least_coverage() >= 0;
    profiled = profiled && block.recall >= 0;
  }
  const auto n = static_cast<double>(s.blocks.size());
  record.set("density", density / n);
  if (covered) record.set("coverage", coverage / n);
  if (profiled) {
    record.set("predictor_recall", recall / n);
    record.set("covered_of_oracle", oracle / n);
  }
}

Json Trainer::Impl::step_record(const StepResult& r, double seconds,
                                const comm::CommStats& before) {
  const comm::CommStats comm = world().stats();
  const ArenaStats memory = runtime.arena().stats();
  Json record = Json::object();
  record.set("loss", r.loss);
  record.set("grad_norm", r.grad.norm);
  record.set("lr", r.lr);
  record.set("samples", r.num_samples);
  record.set("tokens", r.num_tokens);
  record.set("step_ms", seconds * 1e3);
  record.set("samples_per_s", static_cast<double>(r.num_samples) / seconds);
  record.set("tokens_per_s", static_cast<double>(r.num_tokens) / seconds);
  record.set("gflops", r.model_flops / seconds / 1e9);
  record.set("mfu", r.model_flops / seconds / peak_flops);
  record.set("data_wait_ms", r.data_wait_ms);
  record.set("comm_ms", (comm.seconds - before.seconds) * 1e3);
  record.set("comm_bytes_sent", comm.bytes_sent - before.bytes_sent);
  record.set("memory_peak_bytes", memory.peak_bytes);
  record.set("memory_reserved_bytes", memory.reserved_bytes);
  record.set("device_allocations", memory.num_device_allocations);
  if (runtime.on_cuda()) record_gpu(record);
  if (state.attention().learns()) record_sparsity(record);
  record.set("checkpoint_failures", writer->stats().num_failed);
  Json times = Json::object();
  for (const auto& [name, total] : runtime.tracer().totals()) times.set(name, total.seconds * 1e3);
  record.set("time_ms", std::move(times));
  runtime.tracer().reset();
  return record;
}

void Trainer::Impl::tell_sparsity(const StepResult& result, sparsity::Stage before) {
  const sparsity::SparsityState& s = state.attention().state();
  if (s.stage != before) {
    log_info("[sparsity] step {}: warm-up is over (predictor loss {:.4f}); attention becomes sparse",
             state.step(), s.loss_ema);
  }
  for (const sparsity::Decision& d : result.decisions) {
    log_info("[sparsity] step {}: block {} becomes {}: {}", state.step(), d.block,
             d.sparse ? "sparse" : "dense", d.reason);
  }
  if (s.gave_up && state.step() == config.sparsity.max_steps) {
    log_warn("[sparsity] step {}: predictors are not good enough after sparsity.max_steps "
             "(loss {:.4f}, wanted {}): attention stays dense",
             state.step(), s.loss_ema, config.sparsity.loss_threshold);
  }
  if (due(state.step(), config.sparsity.coverage_every) || !result.decisions.empty()) {
    log.sparsity(state.step(), sparsity::to_json(s));
  }
}

ExitCode Trainer::Impl::finish(bool stopped) {
  watchdog.beat(Phase::kSave, state.step(), "last checkpoint");
  writer->drain();  // a save of this very step may be in flight
  if (writer->stats().last_saved_step != state.step()) save();
  writer->drain();
  const bool saved =
      writer->stats().last_saved_step == state.step() && !writer->stats().last_save_failed;
  watchdog.beat(Phase::kIdle, state.step());
  log.finish(state.step(), state.hash(runtime.context()), stopped, saved, writer->stats());
  if (!saved) return ExitCode::kIo;
  return stopped ? ExitCode::kStopped : ExitCode::kOk;
}

ExitCode Trainer::Impl::run() {
  const std::int64_t first = state.step();
  comm::CommStats comm_before = world().stats();
  while (state.step() < config.run.steps) {
    watchdog.beat(state.step() == first ? Phase::kFirstStep : Phase::kStep, state.step());
    fault_point("step", rank, state.step());
    if (comm::stop_requested_anywhere(world())) return finish(true);
    const auto start = Clock::now();
    const sparsity::Stage was_stage = state.attention().state().stage;
    const StepResult result = train_step(
        runtime, state, config, [&] { return loader->next(); }, null_text);
    log.step(state.step(), step_record(result, seconds_since(start), comm_before));
    if (state.attention().learns()) tell_sparsity(result, was_stage);
    const bool last = state.step() == config.run.steps;
    if (due(state.step(), config.eval.every_steps) || (last && config.eval.every_steps > 0)) {
      evaluate();
    }
    if (due(state.step(), config.sample.every_steps)) sample();
    if (due(state.step(), config.checkpoint.every_steps) && !last) save();
    writer->poll();
    comm_before = world().stats();
  }
  return finish(false);
}

Trainer::Trainer(const Config& config, std::unique_ptr<comm::Communicator> world,
                 const Place& place, const std::string& resume_path)
    : impl_(std::make_unique<Impl>(config, std::move(world), place, resume_path)) {}
Trainer::~Trainer() = default;
ExitCode Trainer::run() {
  return impl_->run();
}

}  // namespace dsv::train
