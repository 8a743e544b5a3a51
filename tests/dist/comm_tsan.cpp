// Loopback ranks and the watchdog under ThreadSanitizer, without the test framework: every thread
// in this program is ours. Exit code 66 is the sanitizer's.
#include <atomic>
#include <chrono>
#include <cstdio>

#include "comm/contract.h"
#include "comm/fake_device.h"
#include "comm/loopback_ranks.h"
#include "dsv/comm/stop_request.h"
#include "dsv/comm/watchdog.h"

namespace {

using namespace dsv::comm;
using namespace std::chrono_literals;

int num_failures = 0;

void report(const char* what, const std::vector<std::string>& errors) {
  for (std::size_t r = 0; r < errors.size(); ++r) {
    if (errors[r].empty()) continue;
    ++num_failures;
    std::fprintf(stderr, "%s, rank %zu of %zu: %s\n", what, r, errors.size(), errors[r].c_str());
  }
}

// Beats from the ranks' threads while the watchdogs read what collectives are running.
void watched_steps(Communicator& world) {
  dsv::WatchdogConfig limits;
  limits.step_seconds = 60;
  std::atomic<bool> told{false};
  Watchdog dog(limits, world, [&](const HangReport&) { told = true; });
  const auto half = world.split(world.rank() % 2, 0);
  for (int step = 0; step < 200; ++step) {
    dog.beat(Phase::kStep, step, "block");
    half->all_reduce(1.0, ReduceOp::kSum);
    if (stop_requested_anywhere(world)) return;
    std::this_thread::sleep_for(1ms);
  }
  CONTRACT_EXPECT(!told, "a healthy run was called hung");
}

void hang(Communicator& world) {
  dsv::WatchdogConfig limits;
  limits.step_seconds = 0.2;
  std::atomic<int> num_told{0};
  Watchdog dog(limits, world, [&](const HangReport& r) { num_told += r.last_op.empty() ? 0 : 1; });
  dog.beat(Phase::kStep, 1);
  for (int i = 0; i < 40 && num_told == 0; ++i) {
    world.barrier();
    std::this_thread::sleep_for(50ms);
  }
  world.barrier();
  while (num_told == 0) std::this_thread::sleep_for(10ms);
}

}  // namespace

int main() {
  for (const int size : {2, 5}) {
    for (const contract::Case& c : contract::cases()) {
      if (std::string(c.name) == "large") continue;  // more bytes, no other order of events
      report(c.name, contract::run_ranks(size, c.run));
    }
  }
  for (const contract::Case& c : contract::cases()) {
    if (std::string(c.name) == "large") continue;
    const auto run = [&](std::unique_ptr<Communicator> host, const contract::HostedMemory& memory) {
      contract::HostedCommunicator comm(std::move(host), memory);
      c.run(comm);
    };
    report(c.name, contract::run_device_ranks(3, {}, run));
  }
  report("watched steps", contract::run_ranks(3, watched_steps));
  report("hang", contract::run_ranks(1, hang));
  const auto errors = contract::run_ranks(4, [](Communicator& comm) {
    const auto half = comm.split(comm.rank() / 2, 0);
    if (comm.rank() == 3) comm.abort(20);
    for (;;) half->all_reduce(1.0, ReduceOp::kSum);
  });
  for (const std::string& e : errors) {
    if (e.find("rank 3 of group world aborted") == std::string::npos) ++num_failures;
  }
  std::fprintf(stderr, "comm_tsan: %d failures\n", num_failures);
  return num_failures == 0 ? 0 : 1;
}
