// dsv train: the main job, alone or under mpirun.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "commands.h"
#include "dsv/base/log.h"
#include "dsv/base/philox.h"
#include "dsv/comm/launch.h"
#include "dsv/comm/stop_request.h"
#include "dsv/kernels/affinity.h"
#include "dsv/train/config_io.h"
#include "dsv/train/dry_run.h"
#include "dsv/train/fault.h"
#include "dsv/train/runtime.h"
#include "dsv/train/trainer.h"

namespace dsv::cli {
namespace {

struct Options {
  std::vector<std::string> configs, sets;
  std::string resume;
  bool dry_run = false, dump_config = false, config_reference = false;
};

LogLevel log_level(train::LogVerbosity level) {
  switch (level) {
    case train::LogVerbosity::kDebug:
      return LogLevel::kDebug;
    case train::LogVerbosity::kInfo:
      return LogLevel::kInfo;
    case train::LogVerbosity::kWarn:
      return LogLevel::kWarn;
    case train::LogVerbosity::kError:
      return LogLevel::kError;
    case train::LogVerbosity::kOff:
      return LogLevel::kOff;
  }
  return LogLevel::kInfo;
}

// --resume auto|required|never|PATH over what the YAML says.
std::string apply_resume(const std::string& text, train::Config& config) {
  if (text.empty()) return {};
  if (text == "auto")
    config.resume.mode = train::ResumeMode::kAuto;
  else if (text == "required")
    config.resume.mode = train::ResumeMode::kRequired;
  else if (text == "never")
    config.resume.mode = train::ResumeMode::kNever;
  else
    return text;
  return {};
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

// All ranks must have read the same configuration.
void require_same_config(comm::Communicator& world, const train::Config& config) {
  const auto all = world.all_gather_bytes(train::dump_config(config));
  for (std::size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    throw_error(ExitCode::kEnvironment,
                "[launch] ranks 0 and {} read different configurations: {:x} and {:x}; is the YAML "
                "on a file system that all hosts share?",
                r, fnv1a(all[0].data(), all[0].size()), fnv1a(all[r].data(), all[r].size()));
  }
}

int run_under_mpi(Invocation& invocation, train::Config config, const std::string& resume_path) {
  comm::MpiSession session(&invocation.argc, &invocation.argv);
  auto world = session.world();
  configure_logging(log_level(config.log.level), world->rank(), world->size(),
                    config.log.all_ranks);
  try {
    train::read_faults_from_environment();
    comm::install_stop_handlers();
    require_same_config(*world, config);
    const comm::LaunchPlan plan = comm::plan_launch(*world, session);
    const int threads = config.run.threads > 0 ? narrow<int>(config.run.threads) : plan.num_threads;
    kernels::pin_threads(plan.cores, threads);
    const train::Place place{.num_threads = threads, .local_rank = session.local_rank()};
    train::Trainer trainer(config, std::move(world), place, resume_path);
    return static_cast<int>(trainer.run());
  } catch (const Error& e) {
    // Every rank of a collective failure comes here; a lone one must take its peers along.
    log_error("{}", e.what());
    session.abort(static_cast<int>(e.code()));
  } catch (const std::exception& e) {
    log_error("[dsv] {}", e.what());
    session.abort(static_cast<int>(ExitCode::kInternal));
  }
}

}  // namespace

void add_train_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* train = app.add_subcommand("train", "Train a model; resumes by itself");
  train->add_option("CONFIG", options->configs, "YAML files; later ones win");
  train->add_option("--set", options->sets, "Override a field: --set run.steps=200")
      ->allow_extra_args(false);
  train->add_option("--resume", options->resume,
                    "auto (default), required, never, or the path of a checkpoint");
  train->add_flag("--dry-run", options->dry_run, "Print parameters, FLOPs, and memory, and stop");
  train->add_flag("--dump-config", options->dump_config, "Print what would run, and stop");
  train->add_flag("--config-reference", options->config_reference,
                  "Print every setting (docs/config.md), and stop");
  train->footer(
      "Examples:\n"
      "  dsv train configs/tiny-cpu.yaml --set data.shards=shards\n"
      "  mpirun -n 2 dsv train configs/quickstart.yaml my.yaml --set optim.lr=3e-4\n"
      "SIGTERM or SIGUSR1 stops after a checkpoint with exit code 75; the same command goes on.");
  train->callback([options, &invocation] {
    if (options->config_reference) return print(train::config_reference_markdown());
    if (options->configs.empty())
      throw_error(ExitCode::kConfig, "dsv train: expected CONFIG, see --help");
    train::Config config =
        train::resolve_auto(train::load_config(options->configs, options->sets),
                            num_cuda_devices() > 0);
    const std::string resume_path = apply_resume(options->resume, config);
    if (options->dump_config) return print(train::dump_config(config));
    if (options->dry_run) return print(train::dry_run_report(config));
    invocation.exit_code = run_under_mpi(invocation, std::move(config), resume_path);
  });
}

}  // namespace dsv::cli
