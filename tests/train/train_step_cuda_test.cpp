// Training on a GPU: it is the processor's training in f32, near it in bf16, repeats its own bits,
// and goes on from checkpoints at every step, its own and the processor's.
#include "train/tiny_run.h"

using namespace dsv;
using namespace dsv::train;

namespace {

bool has_gpu() {
  if (num_cuda_devices() > 0) return true;
  WARN("SKIPPED: " << why_no_cuda());
  return false;
}

Config cuda_config(Compute compute) {
  Config config = tiny_config();
  config.run.device = DeviceChoice::kCuda;
  config.precision.compute = compute;
  return config;
}

void require_equal(const Curve& a, const Curve& b) {
  CHECK(a.loss == b.loss);
  CHECK(a.grad_norm == b.grad_norm);
  CHECK(a.hash == b.hash);
}

}  // namespace

TEST_CASE("train on a GPU: f32 follows the processor's curve", "[train][gpu]") {
  if (!has_gpu()) return;
  const Curve cpu = run(tiny_config(), 1, 20);
  const Curve gpu = run(cuda_config(Compute::kF32), 1, 20);
  for (std::size_t i = 0; i < cpu.loss.size(); ++i) {
    INFO("step " << i);
    CHECK(gpu.loss[i] == Approx(cpu.loss[i]).epsilon(1e-5));
    CHECK(gpu.grad_norm[i] == Approx(cpu.grad_norm[i]).epsilon(1e-4));
  }
}

TEST_CASE("train on a GPU: bf16 stays near the f32 curve", "[train][gpu]") {
  if (!has_gpu()) return;
  const Curve f32 = run(tiny_config(), 1, 40);
  const Curve bf16 = run(cuda_config(Compute::kBF16), 1, 40);
  for (std::size_t i = 0; i < f32.loss.size(); ++i) {
    INFO("step " << i);
    CHECK(bf16.loss[i] == Approx(f32.loss[i]).epsilon(0.01));
  }
  CHECK(bf16.loss.back() < 0.9 * bf16.loss.front());
}

TEST_CASE("train on a GPU: runs repeat bit for bit, whatever is kept", "[train][gpu]") {
  if (!has_gpu()) return;
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    Config config = cuda_config(compute);
    const Curve first = run(config, 1, 8);
    require_equal(run(config, 1, 8), first);
    for (const auto mode : {model::Checkpointing::kBlock, model::Checkpointing::kKeepAttention,
                            model::Checkpointing::kAuto}) {
      config.model.checkpointing = mode;
      require_equal(run(config, 1, 8), first);
    }
  }
}

TEST_CASE("train on a GPU: stopped at every step and resumed, bit for bit", "[train][gpu]") {
  if (!has_gpu()) return;
  constexpr std::int64_t kSteps = 8;
  const Config config = cuda_config(Compute::kBF16);
  const Curve whole = run(config, 1, kSteps);
  for (std::int64_t stop = 1; stop < kSteps; ++stop) {
    INFO("stopped at step " << stop);
    const data::TempDir dir;
    const Curve head = run(config, 1, stop, {}, dir.path());
    Curve tail = run(config, 1, kSteps, dir.path());
    tail.loss.insert(tail.loss.begin(), head.loss.begin(), head.loss.end());
    tail.grad_norm.insert(tail.grad_norm.begin(), head.grad_norm.begin(), head.grad_norm.end());
    require_equal(tail, whole);
  }
}

TEST_CASE("train on a GPU: a checkpoint moves between backends", "[train][gpu]") {
  if (!has_gpu()) return;
  const Curve whole = run(tiny_config(), 1, 12);
  const data::TempDir first, second;
  const Curve on_cpu = run(tiny_config(), 1, 4, {}, first.path());
  const Curve on_gpu = run(cuda_config(Compute::kF32), 1, 8, first.path(), second.path());
  const Curve back = run(tiny_config(), 1, 12, second.path());
  std::vector<double> all = on_cpu.loss;
  all.insert(all.end(), on_gpu.loss.begin(), on_gpu.loss.end());
  all.insert(all.end(), back.loss.begin(), back.loss.end());
  for (std::size_t i = 0; i < whole.loss.size(); ++i) {
    INFO("step " << i);
    CHECK(all[i] == Approx(whole.loss[i]).epsilon(1e-5));
  }
  // Where nothing is trained, only moved, no bit changes.
  CHECK(run(cuda_config(Compute::kBF16), 1, 4, first.path()).hash == on_cpu.hash);
}

TEST_CASE("train on a GPU: a steady step allocates nothing", "[train][gpu]") {
  if (!has_gpu()) return;
  const Config config = cuda_config(Compute::kBF16);
  Runtime runtime({.device = DeviceChoice::kCuda, .compute = Compute::kBF16}, comm::make_self());
  TrainState state(runtime.context(), config);
  Source source(config, runtime.mesh(), 0, 2);
  const Tensor null = null_text(config);
  train_step(runtime, state, config, std::ref(source), null);
  const std::int64_t after_one = runtime.arena().stats().num_device_allocations;
  for (int i = 0; i < 5; ++i) train_step(runtime, state, config, std::ref(source), null);
  CHECK(runtime.arena().stats().num_device_allocations == after_one);
}
