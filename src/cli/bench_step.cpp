// dsv bench step: whole training steps on random latents, with where the time and the memory went.
#include "bench_step.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include "commands.h"
#include "dsv/comm/launch.h"
#include "dsv/data/host_tensor.h"
#include "dsv/kernels/affinity.h"
#include "dsv/train/config_io.h"
#include "dsv/train/runtime.h"
#include "dsv/train/train_step.h"

namespace dsv::cli {
namespace {

struct Options {
  std::vector<std::string> configs, sets;
  std::vector<std::int64_t> latent{8, 16, 16};
  std::int64_t batch = 1;
  int threads = 0, repeat = 5;
  bool json = false;
};

// Random latents and text, other ones on each rank: the arithmetic does not depend on what they
// hold.
data::LoaderBatch random_batch(const train::Config& config, const Options& o,
                               const comm::Communicator& world, std::int64_t step) {
  data::LoaderBatch batch{.step = step, .num_micro = 1, .global_batch = o.batch * world.size()};
  batch.latent =
      data::host_tensor({o.batch, config.model.in_channels, o.latent[0], o.latent[1], o.latent[2]});
  batch.text = data::host_tensor({o.batch, config.model.text_len, config.model.text_dim});
  batch.text_mask = data::host_tensor({o.batch, config.model.text_len});
  for (const Tensor& t : {batch.latent, batch.text}) {
    const PhiloxStream stream({.seed = 1,
                               .purpose = RngPurpose::kTest,
                               .sample = static_cast<std::uint64_t>(world.rank())});
    for (std::int64_t i = 0; i < t.num_elements(); ++i) {
      t.f32()[i] =
          static_cast<float>(philox_uniform(stream.word(static_cast<std::uint64_t>(i))) - 0.5);
    }
  }
  std::fill_n(batch.text_mask.f32(), batch.text_mask.num_elements(), 1.0f);
  for (std::int64_t b = 0; b < o.batch; ++b) {
    batch.sample_ids.push_back(static_cast<std::uint64_t>(world.rank() * o.batch + b));
    batch.epochs.push_back(step);
    batch.captions.emplace_back();
  }
  return batch;
}

struct Measured {
  std::vector<double> seconds;
  train::StepResult last;
  ArenaStats memory;
  std::map<std::string, Tracer::Total, std::less<>> times;  // of all measured steps
  bool steady = true;                                       // no allocation after the warm-up
};

Measured measure(const train::Config& config, const Options& o, train::Runtime& runtime) {
  train::TrainState state(runtime.context(), config);
  const Tensor null_text = data::host_tensor({1, config.model.text_dim});
  std::fill_n(null_text.f32(), null_text.num_elements(), 0.0f);
  Measured out;
  std::int64_t allocations = 0;
  // Two steps to warm up: checkpointing: auto acts in the second on what it saw in the first.
  for (int i = -2; i < o.repeat; ++i) {
    const data::LoaderBatch batch = random_batch(config, o, *runtime.mesh().world, state.step());
    const auto start = std::chrono::steady_clock::now();
    out.last = train::train_step(
        runtime, state, config, [&] { return batch; }, null_text);
    synchronize(runtime.stream());  // the optimizer is still running
    const std::chrono::duration<double> d = std::chrono::steady_clock::now() - start;
    const std::int64_t now = runtime.arena().stats().num_device_allocations;
    if (i < 0) {
      runtime.tracer().reset();
    } else {
      out.seconds.push_back(d.count());
      out.steady = out.steady && now == allocations;
    }
    allocations = now;
  }
  out.memory = runtime.arena().stats();
  out.times = runtime.tracer().totals();
  return out;
}

// Collective; rank 0 prints.
void report(const Measured& m, const Options& o, const train::Runtime& runtime) {
  comm::Communicator& world = *runtime.mesh().world;
  const double peak = world.all_reduce(runtime.peak_flops(), comm::ReduceOp::kSum);
  if (world.rank() != 0) return;
  std::vector<double> sorted = m.seconds;
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[sorted.size() / 2];
  const double flops = m.last.model_flops / median;
  if (o.json) {
    Json json = Json::object();
    json.set("step_ms", median * 1e3);
    json.set("min_ms", sorted.front() * 1e3);
    json.set("max_ms", sorted.back() * 1e3);
    json.set("tokens", m.last.num_tokens);
    json.set("gflops", flops / 1e9);
    json.set("peak_gflops", peak / 1e9);
    json.set("mfu", flops / peak);
    json.set("memory_peak_bytes", m.memory.peak_bytes);
    json.set("memory_reserved_bytes", m.memory.reserved_bytes);
    json.set("steady", m.steady);
    json.set("processor", runtime.processor_name());
    for (const auto& [name, total] : m.times) {
      json.set(name + "_ms", total.seconds * 1e3 / static_cast<double>(o.repeat));
    }
    std::printf("%s\n", json.dump(2).c_str());
    return;
  }
  std::printf("%s", format("step        {:.1f} ms (min {:.1f}, max {:.1f}, {} steps)\n",
                           median * 1e3, sorted.front() * 1e3, sorted.back() * 1e3, o.repeat)
                        .c_str());
  std::printf("%s", format("tokens      {} a step, {:.0f} a second\n", m.last.num_tokens,
                           static_cast<double>(m.last.num_tokens) / median)
                        .c_str());
  std::printf(
      "%s", format("arithmetic  {:.1f} GFLOP/s of model FLOPs, {:.1f} % of the {} peak of {:.1f} "
                   "({})\n",
                   flops / 1e9, 100 * flops / peak, runtime.on_cuda() ? "datasheet's" : "measured",
                   peak / 1e9, runtime.processor_name())
                .c_str());
  std::printf("%s",
              format("memory      {:.1f} MiB at the peak, {:.1f} reserved, {}\n",
                     static_cast<double>(m.memory.peak_bytes) / (1 << 20),
                     static_cast<double>(m.memory.reserved_bytes) / (1 << 20),
                     m.steady ? "no allocation in a steady step" : "ALLOCATES in steady steps")
                  .c_str());
  for (const auto& [name, total] : m.times) {
    std::printf("%s", format("  {:<24} {:>8.1f} ms a step\n", name,
                             total.seconds * 1e3 / static_cast<double>(o.repeat))
                          .c_str());
  }
}

}  // namespace

void add_bench_step(CLI::App& bench, Invocation& invocation) {
  auto o = std::make_shared<Options>();
  CLI::App* step = bench.add_subcommand("step", "Training steps on random latents");
  step->add_option("CONFIG", o->configs, "YAML files; later ones win")->required();
  step->add_option("--set", o->sets, "Override a field")->allow_extra_args(false);
  step->add_option("--latent", o->latent, "T H W of the latents")
      ->expected(3)
      ->capture_default_str();
  step->add_option("--batch", o->batch, "Samples of each rank")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  step->add_option("--repeat", o->repeat, "Measured steps, after two to warm up")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  step->add_option("--threads", o->threads, "CPU threads, pinned (default: all cores)");
  step->add_flag("--json", o->json, "Print JSON");
  step->footer(
      "Under mpirun each rank takes samples of its own, as in training.\n"
      "Examples:\n  dsv bench step configs/tiny-cpu.yaml --latent 8 16 16 --batch 2\n"
      "  mpirun -n 2 dsv bench step configs/wan-1.3b.yaml --latent 21 60 104");
  step->callback([o, &invocation] {
    const train::Config config =
        train::resolve_auto(train::load_config(o->configs, o->sets), num_cuda_devices() > 0);
    comm::MpiSession session(&invocation.argc, &invocation.argv);
    auto world = session.world();
    int threads = o->threads;
    if (session.launched()) {
      const comm::LaunchPlan plan = comm::plan_launch(*world, session);
      if (threads == 0) threads = plan.num_threads;
      kernels::pin_threads(plan.cores, threads);
    } else {
      threads = kernels::pin_all_cores(threads);
    }
    train::Runtime runtime({.device = config.run.device,
                            .compute = config.precision.compute,
                            .determinism = config.run.determinism,
                            .place = {.num_threads = threads, .local_rank = session.local_rank()}},
                           std::move(world));
    const Measured m = measure(config, *o, runtime);
    report(m, *o, runtime);
  });
}

}  // namespace dsv::cli
