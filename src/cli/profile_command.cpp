// dsv profile: measures what attention costs on this machine, for the dispatcher of later runs.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "commands.h"
#include "dsv/base/log.h"
#include "dsv/data/shard_format.h"
#include "dsv/kernels/affinity.h"
#include "dsv/model/dit.h"
#include "dsv/train/attention_costs.h"
#include "dsv/train/config_io.h"
#include "dsv/train/progress.h"

namespace dsv::cli {
namespace {

struct Options {
  std::vector<std::string> configs, sets;
  std::string out = "profile.json";
  std::vector<std::int64_t> latents;
  int repeat = 5, threads = 0;
};

// Token grids of the latents that were named, or of every shape in the shards.
std::vector<sparsity::Extent3> grids_of(const train::Config& config, const Options& o) {
  const model::Dit dit(config.model);
  std::vector<sparsity::Extent3> out;
  const auto add = [&](std::int64_t T, std::int64_t H, std::int64_t W) {
    const autograd::PatchGeometry g = dit.geometry({1, config.model.in_channels, T, H, W});
    const sparsity::Extent3 grid{g.latent[0] / g.patch[0], g.latent[1] / g.patch[1],
                                 g.latent[2] / g.patch[2]};
    if (std::find(out.begin(), out.end(), grid) == out.end()) out.push_back(grid);
  };
  for (std::size_t i = 0; i + 2 < o.latents.size(); i += 3) {
    add(o.latents[i], o.latents[i + 1], o.latents[i + 2]);
  }
  if (out.empty() && !config.data.shards.empty()) {
    for (const data::SampleRecord& record : data::read_index(config.data.shards).samples) {
      add(record.latent_shape[1], record.latent_shape[2], record.latent_shape[3]);
    }
  }
  if (out.empty()) {
    throw_error(ExitCode::kConfig,
                "--latent: expected T H W of latents to measure, as data.shards names none");
  }
  return out;
}

void run(const Options& o) {
  const train::Config config =
      train::resolve_auto(train::load_config(o.configs, o.sets), num_cuda_devices() > 0);
  const std::vector<sparsity::Extent3> grids = grids_of(config, o);
  train::Runtime runtime({.device = config.run.device,
                          .compute = config.precision.compute,
                          .determinism = config.run.determinism,
                          .place = {.num_threads = kernels::pin_all_cores(o.threads)}},
                         comm::make_self());
  train::Progress progress(
      {.name = "profile", .num_steps = static_cast<std::int64_t>(grids.size())});
  std::int64_t done = 0;
  const costs::AttentionCosts costs = train::measure_attention_costs(
      config, runtime, grids, o.repeat, [&](const costs::AttentionPoint& point) {
        log_info("[profile] {}", train::describe(point));
        progress.update(++done, "");
      });
  train::write_profile(o.out, costs);
  log_info("[profile] wrote {} ({})", o.out, costs.machine);
}

}  // namespace

void add_profile_command(CLI::App& app, Invocation&) {
  auto o = std::make_shared<Options>();
  CLI::App* profile =
      app.add_subcommand("profile", "Measure what dense and sparse attention cost here");
  profile->add_option("CONFIG", o->configs, "YAML files; later ones win")->required();
  profile->add_option("--set", o->sets, "Override a field")->allow_extra_args(false);
  profile->add_option("-o,--out", o->out, "The profile to write")->capture_default_str();
  profile
      ->add_option("--latent", o->latents,
                   "T H W of latents; several triples for several lengths (default: the shapes of "
                   "data.shards)")
      ->check(CLI::PositiveNumber);
  profile->add_option("--repeat", o->repeat, "Measurements, of which the median counts")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  profile->add_option("--threads", o->threads, "CPU threads, pinned (default: all cores)");
  profile->footer(
      "Training with sparsity.profile: FILE decides from it when sparse attention pays.\n"
      "Example:\n  dsv profile configs/wan-1.3b.yaml --latent 21 60 104 21 90 160 -o h100.json");
  profile->callback([o] { run(*o); });
}

}  // namespace dsv::cli
