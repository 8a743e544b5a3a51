// A small job with a main() as the real one has it, and one misbehaviour by name, for
// fault_test.sh: mpirun -n N dist_probe BEHAVIOUR DIR. Every rank writes DIR/pid.R, steps of
// all_reduce follow, and a rank that stops in order writes the step into DIR/stopped.R.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

#include "dsv/base/log.h"
#include "dsv/comm/launch.h"
#include "dsv/comm/stop_request.h"
#include "dsv/comm/watchdog.h"

namespace {

using namespace dsv::comm;
using namespace std::chrono_literals;

constexpr int kMaxSteps = 3000;  // half a minute: a test that waits longer has failed

class Job {
 public:
  Job(MpiSession& session, Communicator& world, std::string behaviour, std::string dir)
      : session_(session), world_(world), behaviour_(std::move(behaviour)), dir_(std::move(dir)) {}

  int run() {
    write("pid", getpid());
    if (behaviour_ == "where") return tell_where();
    install_stop_handlers();
    dsv::WatchdogConfig limits;
    limits.init_seconds = limits.step_seconds = 2;
    limits.first_step_factor = 2;
    limits.save_seconds = 4;
    Watchdog dog(limits, world_);
    world_.barrier();
    for (int step = 0; step < kMaxSteps; ++step) {
      dog.beat(step == 0 ? Phase::kFirstStep : Phase::kStep, step, "probe");
      const double sum = world_.all_reduce(double(step), ReduceOp::kSum);
      if (sum != double(step) * world_.size()) return 1;
      if (step == 5 && world_.rank() == world_.size() - 1) misbehave();
      if (step == 5 && behaviour_ == "mismatch") disagree();
      if (step == 5 && behaviour_ == "slow") std::this_thread::sleep_for(1500ms);
      if (step == 5 && behaviour_ == "save") {
        dog.beat(Phase::kSave, step);
        std::this_thread::sleep_for(2500ms);  // above the limit of a step
      }
      if (step == 8 && (behaviour_ == "slow" || behaviour_ == "save")) return 0;
      if (step == 6) write("ready", step);
      if (stop_requested_anywhere(world_)) {
        write("stopped", step);
        return static_cast<int>(dsv::ExitCode::kStopped);
      }
      std::this_thread::sleep_for(10ms);
    }
    return 1;
  }

 private:
  void misbehave() {
    if (behaviour_ == "throw") dsv::throw_error(dsv::ExitCode::kNonFinite, "[probe] a rank fails");
    if (behaviour_ == "abort") world_.abort(22);
    if (behaviour_ == "kill") raise(SIGKILL);
    if (behaviour_ == "freeze") raise(SIGSTOP);
    if (behaviour_ == "sleep") std::this_thread::sleep_for(1h);
    if (behaviour_ == "exit") _exit(0);
  }

  // The last rank is one row ahead: an error that all ranks know of, so all end in order.
  void disagree() {
    const std::int64_t n = world_.rank() == world_.size() - 1 ? 9 : 8;
    float data[9] = {};
    world_.all_reduce(dsv::Tensor(data, dsv::DType::kF32, {n}));
  }

  int tell_where() {
    const LaunchPlan plan = plan_launch(world_, session_);
    std::printf("%d/%d %s local %d/%d threads %d\n", world_.rank(), world_.size(),
                world_.backend_name(), session_.local_rank(), session_.local_size(),
                plan.num_threads);
    return 0;
  }

  void write(const char* what, int value) const {
    std::ofstream(dsv::format("{}/{}.{}", dir_, what, world_.rank())) << value << std::endl;
  }

  MpiSession& session_;
  Communicator& world_;
  std::string behaviour_;
  std::string dir_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: dist_probe BEHAVIOUR DIR\n");
    return 2;
  }
  try {
    MpiSession session(&argc, &argv);
    const auto world = session.world();
    world->set_checked(true);
    dsv::configure_logging(dsv::LogLevel::kInfo, world->rank(), world->size(), false);
    try {
      return Job(session, *world, argv[1], argv[2]).run();
    } catch (const dsv::Error& e) {
      dsv::log_error("{}", e.what());
      session.abort(static_cast<int>(e.code()));
    }
  } catch (const dsv::Error& e) {
    dsv::log_error("{}", e.what());
    return static_cast<int>(e.code());
  }
}
