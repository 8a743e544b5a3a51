// Training itself: ranks agree with one rank, runs repeat bit for bit, and a run that was stopped
// at any step and resumed is the run that was not.
#include "dsv/train/fault.h"
#include "train/tiny_run.h"

using namespace dsv;
using namespace dsv::train;

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
  for (const auto mode : {model::Checkpointing::kBlock, model::Checkpointing::kKeepAttention,
                            model::Checkpointing::kAuto}) {
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
