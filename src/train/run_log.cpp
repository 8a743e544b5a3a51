#include "dsv/train/run_log.h"

#include <chrono>
#include <filesystem>
#include <optional>
#include <thread>

#include "dsv/base/log.h"
#include "dsv/data/atomic_file.h"
#include "dsv/train/metrics.h"
#include "dsv/train/progress.h"
#include "dsv/train/run_dir.h"
#include "dsv/train/tensorboard.h"

namespace dsv::train {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMaxPngBytes = 256 << 20;

// Runs fn on rank 0 and gives its result, or its error, to all ranks.
template <typename Fn>
std::string on_rank_0(comm::Communicator& world, const Fn& fn) {
  std::string message = "0";
  if (world.rank() == 0) {
    try {
      message += fn();
    } catch (const Error& e) {
      message = format("{} {}", static_cast<int>(e.code()), e.what());
    }
  }
  message = world.broadcast_bytes(message, 0);
  if (message.front() == '0') return message.substr(1);
  const std::size_t space = message.find(' ');
  throw Error(static_cast<ExitCode>(std::stoi(message.substr(0, space))),
              message.substr(space + 1));
}

// A job that was killed may take some seconds to die after its launcher has returned; one that is
// started in its place, by a scheduler say, waits for that instead of failing.
constexpr int kLockSeconds = 10;

void open_when_free(std::optional<RunDir>& dir, const RunConfig& run, const std::string& run_id) {
  for (int second = 0;; ++second) {
    try {
      dir.emplace(run, run_id);
      return;
    } catch (const Error& e) {
      if (e.code() != ExitCode::kEnvironment || second == kLockSeconds) throw;
      if (second == 0) log_warn("{}; waiting up to {} s for it to end", e.what(), kLockSeconds);
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }
}

std::string status_text(const Json& record) {
  return format("loss {:.4f}  grad {:.3f}  lr {:.2e}  {:.0f} tok/s  {:.1f} % of peak",
                metric_number(record.at("loss")), metric_number(record.at("grad_norm")),
                metric_number(record.at("lr")), metric_number(record.at("tokens_per_s")),
                100 * metric_number(record.at("mfu")));
}

}  // namespace

struct RunLog::Impl {
  Impl(const Config& c, comm::Communicator& w) : config(c), world(w), paths(c.run) {}

  const Config& config;
  comm::Communicator& world;
  RunPaths paths;
  std::string run_id, checkpoints;
  bool had_checkpoints = false;
  // Rank 0 only.
  std::optional<RunDir> dir;
  std::optional<MetricsFile> metrics, sparsity;
  std::optional<TensorboardWriter> tensorboard;
  std::optional<Progress> progress;
};

RunLog::RunLog(const Config& config, comm::Communicator& world)
    : impl_(std::make_unique<Impl>(config, world)) {
  Impl& m = *impl_;
  m.checkpoints = m.paths.checkpoints();
  m.run_id = on_rank_0(world, [&] {
    const std::string fresh = make_run_id();
    open_when_free(m.dir, config.run, fresh);
    return fresh;
  });
  m.had_checkpoints = on_rank_0(world, [&] {
                        for (const auto& entry : fs::directory_iterator(m.checkpoints)) {
                          const std::string name = entry.path().filename().string();
                          if (name.starts_with("step_") && name.find('.') == std::string::npos) {
                            return std::string("yes");
                          }
                        }
                        return std::string();
                      }) == "yes";
}
RunLog::~RunLog() = default;

const std::string& RunLog::checkpoint_dir() const {
  return impl_->checkpoints;
}
bool RunLog::has_checkpoints() const {
  return impl_->had_checkpoints;
}
const std::string& RunLog::run_id() const {
  return impl_->run_id;
}

void RunLog::describe(std::int64_t num_params, const data::BatchPlan& plan,
                      const data::Split& split, const Runtime& runtime) const {
  const Config& c = impl_->config;
  log_info("[train] run {} in {}: {} ({} blocks, {} heads x {}), {:.2f} M parameters", c.run.name,
           impl_->paths.root, c.model.preset, c.model.num_layers, c.model.num_heads,
           c.model.head_dim, static_cast<double>(num_params) / 1e6);
  log_info("[train] {} samples to train on, {} held out; {:.1f} steps an epoch", split.train.size(),
           split.held_out.size(), plan.steps_per_epoch());
  for (std::size_t b = 0; b < plan.buckets().size(); ++b) {
    const data::Bucket& bucket = plan.buckets()[b];
    log_info("[train] bucket {}x{}, {} frames: {} samples, batch {}, probability {:.3f}",
             bucket.height, bucket.width, bucket.frames, plan.num_samples(b), bucket.batch,
             bucket.probability);
  }
  if (plan.num_unused() > 0) {
    log_warn("[train] {} samples are of shapes that data.buckets does not list: they are not used",
             plan.num_unused());
  }
  log_info("[train] {} ({}), {}, {} rank(s) x {} thread(s)", runtime.device(),
           runtime.processor_name(), runtime.compute_dtype(), impl_->world.size(),
           runtime.num_threads());
}

Json RunLog::layout(const Runtime& runtime) const {
  Json json = Json::object();
  json.set("ranks", impl_->world.size());
  json.set("threads", runtime.num_threads());
  json.set("processor", runtime.processor_name());
  json.set("compute", to_string(runtime.compute_dtype()));
  return json;
}

void RunLog::resumed(const CheckpointReader& reader, const Runtime& runtime) {
  Impl& m = *impl_;
  m.run_id = reader.meta().run_id;
  const Json now = layout(runtime);
  const Json& before = reader.meta().extra.at("layout");
  log_info("[resume] {} at step {}", reader.path(), reader.meta().step);
  for (const auto& [name, value] : now.as_object()) {
    const Json* old = before.find(name);
    if (old != nullptr && *old == value) continue;
    log_warn("[resume] the layout has changed: {} {} -> {}; results agree to rounding, not in bits",
             name, old != nullptr ? old->dump() : "?", value.dump());
  }
}

void RunLog::start(std::int64_t step) {
  Impl& m = *impl_;
  if (m.world.rank() != 0) return;
  m.dir->write_config(m.config);
  m.metrics.emplace(m.paths.metrics(), step + 1);
  if (m.config.attention.policy == sparsity::Policy::kDsv) {
    m.sparsity.emplace(m.paths.sparsity(), step + 1);
  }
  if (m.config.log.tensorboard) m.tensorboard.emplace(m.paths.tensorboard(), step + 1);
  m.progress.emplace(Progress::Options{.mode = m.config.log.progress,
                                       .name = m.config.run.name,
                                       .steps_done = step,
                                       .num_steps = m.config.run.steps});
}

void RunLog::step(std::int64_t step, const Json& record) {
  Impl& m = *impl_;
  if (m.world.rank() != 0) return;
  m.progress->update(step, status_text(record));
  if (step % m.config.log.every_steps != 0 && step != m.config.run.steps) return;
  m.metrics->append(step, "train", record);
  if (!m.tensorboard) return;
  m.tensorboard->scalars(step, "train", record);
  m.tensorboard->scalars(step, "time_ms", record.at("time_ms"));
}

void RunLog::sparsity(std::int64_t step, const Json& record) {
  Impl& m = *impl_;
  if (m.world.rank() == 0) m.sparsity->append(step, "sparsity", record);
}

void RunLog::held_out(std::int64_t step, const Json& record) {
  Impl& m = *impl_;
  if (m.world.rank() != 0) return;
  m.metrics->append(step, "eval", record);
  if (m.tensorboard) m.tensorboard->scalars(step, "eval", record);
  std::string text;
  for (const char* name : {"held_out_raw", "held_out_ema"}) {
    if (const Json* value = record.find(name))
      text += format("  {} {:.5f}", name, metric_number(*value));
  }
  log_info("[eval] step {}:{}", step, text);
}

void RunLog::samples(std::int64_t step, const Generated& generated,
                     const std::vector<std::string>& prompts, double fps) {
  Impl& m = *impl_;
  const std::string stem = format("{}/step_{:08}", m.paths.samples(), step);
  const std::vector<std::string> paths = write_generated(generated, stem, fps);
  log_info("[sample] step {}: {} clip(s), {}", step, generated.clips.size(), paths.back());
  if (!m.tensorboard) return;
  m.tensorboard->image(step, "samples", data::read_file(paths.back(), kMaxPngBytes));
  std::string text;
  for (const std::string& prompt : prompts) text += "- " + prompt + "\n";
  m.tensorboard->text(step, "prompts", text);
}

void RunLog::finish(std::int64_t step, std::uint32_t state_hash, bool stopped, bool saved,
                    const CheckpointStats& checkpoints) {
  Impl& m = *impl_;
  m.progress.reset();
  if (m.world.rank() != 0) return;
  log_info("[train] {} at step {} of {}; state hash {:08x}",
           stopped ? "stopped on request" : "done", step, m.config.run.steps, state_hash);
  if (checkpoints.num_failed > 0) {
    log_warn("[train] {} checkpoint(s) could not be written; the last reason: {}",
             checkpoints.num_failed, checkpoints.last_error);
  }
  if (saved) {
    log_info("[train] checkpoint {}/step_{}{}", m.checkpoints, step,
             stopped ? "; the same command resumes" : "");
  } else {
    log_error("[train] the last checkpoint could not be written: {}", checkpoints.last_error);
  }
  if (m.metrics && m.metrics->num_lost() > 0) {
    log_warn("[train] {} metric records were lost", m.metrics->num_lost());
  }
}

}  // namespace dsv::train
