// Training itself: ranks agree with one rank, runs repeat bit for bit, and a run that was stopped
// at any step and resumed is the run that was not.
#include "dsv/train/train_step.h"

#include <filesystem>
#include <thread>

#include "data/temp_dir.h"
#include "dsv/data/host_tensor.h"
#include "dsv/train/checkpoint_writer.h"
#include "dsv/train/fault.h"
#include "support/catch.h"

using namespace dsv;
using namespace dsv::train;

namespace {

Config tiny_config() {
  Config c;
  c.run.steps = 40;
  c.run.seed = 11;
  c.model.num_layers = 2;
  c.model.num_heads = 2;
  c.model.head_dim = 12;
  c.model.ffn_dim = 40;
  c.model.in_channels = c.model.out_channels = 6;
  c.model.text_dim = 8;
  c.model.text_len = 4;
  c.model.freq_dim = 16;
  c.optim.lr = 3e-3;
  c.optim.warmup_steps = 5;
  c.optim.schedule = optim::Schedule::kCosine;
  c.diffusion.cfg_dropout = 0.3;
  return c;
}

// Four samples a step, the same whoever asks; rank r of n takes slots [4r/n, 4(r+1)/n), in
// micro-batches.
class Source {
 public:
  Source(const Config& config, const comm::Mesh& mesh, std::int64_t start, std::int64_t micro)
      : config_(config), step_(start), micro_size_(micro) {
    const std::int64_t rank = mesh.dp->rank(), size = mesh.dp->size();
    begin_ = kBatch * rank / size;
    end_ = kBatch * (rank + 1) / size;
  }
  data::LoaderBatch operator()() {
    const std::int64_t n = end_ - begin_;
    data::LoaderBatch b{.step = step_,
                        .micro = micro_,
                        .num_micro = ceil_div(n, micro_size_),
                        .global_batch = kBatch,
                        .height = 32,
                        .width = 32,
                        .frames = 4};
    const std::int64_t from = begin_ + micro_ * micro_size_;
    const std::int64_t count = std::min(micro_size_, end_ - from);
    if (n > 0) {
      b.latent = data::host_tensor({count, config_.model.in_channels, 2, 4, 4});
      b.text = data::host_tensor({count, config_.model.text_len, config_.model.text_dim});
      b.text_mask = data::host_tensor({count, config_.model.text_len});
      for (std::int64_t i = 0; i < count; ++i) {
        const std::uint64_t id = static_cast<std::uint64_t>((step_ * kBatch + from + i) % 7);
        fill(b.latent.select(0, i), id);
        fill(b.text.select(0, i), 100 + id);
        std::fill_n(b.text_mask.select(0, i).f32(), config_.model.text_len, 1.0f);
        b.sample_ids.push_back(id);
        b.epochs.push_back((step_ * kBatch + from + i) / 7);
      }
    }
    if (++micro_ >= b.num_micro) {
      micro_ = 0;
      ++step_;
    }
    return b;
  }

 private:
  static constexpr std::int64_t kBatch = 4;
  static void fill(const Tensor& t, std::uint64_t id) {
    const PhiloxStream stream({.purpose = RngPurpose::kTest, .sample = id});
    for (std::int64_t i = 0; i < t.num_elements(); ++i) {
      t.f32()[i] =
          static_cast<float>(2 * philox_uniform(stream.word(static_cast<std::uint64_t>(i))) - 1);
    }
  }
  const Config& config_;
  std::int64_t step_, begin_ = 0, end_ = 0, micro_size_, micro_ = 0;
};

struct Curve {
  std::vector<double> loss, grad_norm;
  std::uint32_t hash = 0;
};

Tensor null_text(const Config& config) {
  const Tensor t = data::host_tensor({1, config.model.text_dim});
  std::fill_n(t.f32(), t.num_elements(), 0.0f);
  return t;
}

// Steps [from, to) on one rank, resuming from and leaving a checkpoint where folders are given.
Curve run_rank(const Config& config, std::unique_ptr<comm::Communicator> world, std::int64_t to,
               const std::string& from_dir, const std::string& to_dir, std::int64_t micro,
               int threads) {
  Runtime runtime({.num_threads = threads}, std::move(world));
  TrainState state(runtime.context(), config);
  comm::Communicator& comm = *runtime.mesh().world;
  if (!from_dir.empty()) {
    auto reader = CheckpointReader::open_newest_valid(from_dir, {.required = true}, comm);
    state.restore(runtime.context(), *reader);
  }
  Source source(config, runtime.mesh(), state.step(), micro);
  const Tensor null = null_text(config);
  Curve curve;
  while (state.step() < to) {
    const StepResult r = train_step(runtime, state, config, std::ref(source), null);
    curve.loss.push_back(r.loss);
    curve.grad_norm.push_back(r.grad.norm);
  }
  if (!to_dir.empty()) {
    CheckpointWriter writer(to_dir, {}, comm);
    writer.save({.step = state.step(), .run_id = "test"}, state.pieces(runtime.mesh()));
    writer.drain();
    DSV_CHECK(writer.stats().num_failed == 0, "[test] the checkpoint was not saved");
  }
  curve.hash = state.hash(runtime.context());
  return curve;
}

Curve run(const Config& config, int ranks, std::int64_t to, const std::string& from_dir = {},
          const std::string& to_dir = {}, std::int64_t micro = 1, int threads = 1) {
  auto comms = comm::make_loopback(ranks);
  std::vector<Curve> curves(static_cast<std::size_t>(ranks));
  std::vector<std::thread> workers;
  for (std::size_t r = 0; r < curves.size(); ++r) {
    workers.emplace_back([&, r] {
      curves[r] = run_rank(config, std::move(comms[r]), to, from_dir, to_dir, micro, threads);
    });
  }
  for (auto& w : workers) w.join();
  for (const Curve& c : curves) {
    CHECK(c.loss == curves[0].loss);
    CHECK(c.hash == curves[0].hash);
  }
  return curves[0];
}

}  // namespace

TEST_CASE("train: the loss falls, and 1, 2, 3, and 4 ranks follow one curve", "[train]") {
  const Config config = tiny_config();
  const Curve one = run(config, 1, 20);
  CHECK(one.loss.back() < 0.9 * one.loss.front());
  for (const int ranks : {2, 3, 4}) {
    const Curve many = run(config, ranks, 20);
    for (std::size_t i = 0; i < one.loss.size(); ++i) {
      INFO(ranks << " ranks, step " << i);
      CHECK(many.loss[i] == Approx(one.loss[i]).epsilon(1e-5));
      CHECK(many.grad_norm[i] == Approx(one.grad_norm[i]).epsilon(1e-4));
    }
  }
}

TEST_CASE("train: accumulation over micro-batches follows the same curve", "[train]") {
  const Config config = tiny_config();
  const Curve whole = run(config, 1, 10, {}, {}, 4);
  const Curve parts = run(config, 1, 10, {}, {}, 3);
  for (std::size_t i = 0; i < whole.loss.size(); ++i) {
    CHECK(parts.loss[i] == Approx(whole.loss[i]).epsilon(1e-5));
  }
}

TEST_CASE("train: more ranks than samples leave some idle, and nothing hangs", "[train]") {
  const Curve six = run(tiny_config(), 6, 3), one = run(tiny_config(), 1, 3);
  for (std::size_t i = 0; i < one.loss.size(); ++i) {
    CHECK(six.loss[i] == Approx(one.loss[i]).epsilon(1e-5));
  }
}

TEST_CASE("train: a layout repeats bit for bit, and threads do not change bits", "[train]") {
  const Config config = tiny_config();
  for (const int ranks : {1, 2, 4}) {
    const Curve first = run(config, ranks, 8), again = run(config, ranks, 8);
    CHECK(first.loss == again.loss);
    CHECK(first.grad_norm == again.grad_norm);
    CHECK(first.hash == again.hash);
  }
}

TEST_CASE("train: every checkpointing mode takes the same steps bit for bit", "[train]") {
  Config config = tiny_config();
  const Curve recorded = run(config, 1, 5);
  for (const auto mode : {model::Checkpointing::kBlock, model::Checkpointing::kKeepAttention}) {
    config.model.checkpointing = mode;
    CHECK(run(config, 1, 5).hash == recorded.hash);
  }
}

TEST_CASE("train: stopped at every step and resumed equals not stopped, bit for bit", "[train]") {
  const Config config = tiny_config();
  constexpr std::int64_t kSteps = 8;
  for (const int ranks : {1, 2}) {
    const Curve whole = run(config, ranks, kSteps);
    for (std::int64_t stop = 1; stop < kSteps; ++stop) {
      INFO(ranks << " ranks, stopped at step " << stop);
      const data::TempDir dir;
      const Curve head = run(config, ranks, stop, {}, dir.path());
      Curve tail = run(config, ranks, kSteps, dir.path());
      tail.loss.insert(tail.loss.begin(), head.loss.begin(), head.loss.end());
      tail.grad_norm.insert(tail.grad_norm.begin(), head.grad_norm.begin(), head.grad_norm.end());
      CHECK(tail.loss == whole.loss);
      CHECK(tail.grad_norm == whole.grad_norm);
      CHECK(tail.hash == whole.hash);
    }
  }
}

TEST_CASE("train: a run goes on with another number of ranks, 2 to 1 to 4", "[train]") {
  const Config config = tiny_config();
  const Curve whole = run(config, 1, 12);
  const data::TempDir first, second;
  const Curve two = run(config, 2, 4, {}, first.path());
  const Curve one = run(config, 1, 8, first.path(), second.path());
  const Curve four = run(config, 4, 12, second.path());
  std::vector<double> all = two.loss;
  all.insert(all.end(), one.loss.begin(), one.loss.end());
  all.insert(all.end(), four.loss.begin(), four.loss.end());
  for (std::size_t i = 0; i < whole.loss.size(); ++i) {
    INFO("step " << i);
    CHECK(all[i] == Approx(whole.loss[i]).epsilon(1e-5));
  }
  // Where nothing is trained, only moved, no bit changes.
  const Curve moved = run(config, 3, 4, first.path());
  CHECK(moved.hash == two.hash);
}

TEST_CASE("train: a non-finite gradient stops all ranks before anything changes", "[train]") {
  const Config config = tiny_config();
  set_faults("grad:nan@1,2");
  auto comms = comm::make_loopback(2);
  std::vector<std::thread> workers;
  std::vector<int> codes(2);
  std::vector<std::int64_t> steps(2);
  std::vector<std::string> messages(2);
  for (std::size_t r = 0; r < 2; ++r) {
    workers.emplace_back([&, r] {
      Runtime runtime({}, std::move(comms[r]));
      TrainState state(runtime.context(), config);
      Source source(config, runtime.mesh(), 0, 1);
      try {
        for (;;) train_step(runtime, state, config, std::ref(source), null_text(config));
      } catch (const Error& e) {
        codes[r] = static_cast<int>(e.code());
        messages[r] = e.what();
      }
      steps[r] = state.step();
    });
  }
  for (auto& w : workers) w.join();
  set_faults("");
  CHECK(codes == std::vector<int>{20, 20});
  for (const std::string& m : messages) CHECK_THAT(m, Contains("rank 1") && Contains("step 2"));
  CHECK(steps == std::vector<std::int64_t>{2, 2});
}
