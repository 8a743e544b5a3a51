#include "dsv/comm/watchdog.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <thread>

#include "support/catch.h"

using dsv::comm::HangReport;
using dsv::comm::Phase;
using dsv::comm::Watchdog;
using namespace std::chrono_literals;

namespace {

dsv::WatchdogConfig short_limits() {
  dsv::WatchdogConfig c;
  c.init_seconds = c.load_seconds = c.save_seconds = c.sample_seconds = 2;
  c.step_seconds = 0.5;
  c.first_step_factor = 4;
  return c;
}

}  // namespace

TEST_CASE("watchdog: reports rank, phase, step and the last collective", "[comm][watchdog]") {
  const auto self = dsv::comm::make_self();
  self->barrier();
  std::promise<HangReport> told;
  Watchdog dog(short_limits(), *self, [&](const HangReport& r) { told.set_value(r); });
  const auto start = std::chrono::steady_clock::now();
  dog.beat(Phase::kStep, 7, "block 3 forward");
  auto report = told.get_future();
  REQUIRE(report.wait_for(10s) == std::future_status::ready);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  const HangReport r = report.get();
  CHECK(elapsed.count() >= 0.5);
  CHECK(r.rank == 0);
  CHECK(r.phase == Phase::kStep);
  CHECK(r.step == 7);
  CHECK(r.limit_seconds == 0.5);
  CHECK(r.seconds > 0.5);
  CHECK_THAT(to_string(r), Contains("rank 0: no progress for 0.") &&
                               Contains("(limit 0.5 s) in phase step, "
                                        "step 7, block 3 forward; last collective: barrier call 1 "
                                        "of group world (0 bytes), done"));
}

TEST_CASE("watchdog: slow but healthy phases live", "[comm][watchdog]") {
  const auto self = dsv::comm::make_self();
  bool told = false;
  {
    Watchdog dog(short_limits(), *self, [&](const HangReport&) { told = true; });
    const auto stay = [&](Phase phase, int step, std::chrono::milliseconds time) {
      dog.beat(phase, step);
      std::this_thread::sleep_for(time);
    };
    stay(Phase::kInit, 0, 700ms);
    stay(Phase::kLoad, 0, 700ms);
    stay(Phase::kFirstStep, 0, 700ms);  // above the limit of later steps
    for (int step = 1; step < 8; ++step) stay(Phase::kStep, step, 100ms);  // each alone is below it
    stay(Phase::kSave, 8, 700ms);
    stay(Phase::kSample, 8, 700ms);
    stay(Phase::kIdle, 8, 700ms);
  }
  CHECK_FALSE(told);
}

TEST_CASE("watchdog: disabled it never fires; wrong limits are refused", "[comm][watchdog]") {
  const auto self = dsv::comm::make_self();
  dsv::WatchdogConfig off = short_limits();
  off.enabled = false;
  bool told = false;
  {
    Watchdog dog(off, *self, [&](const HangReport&) { told = true; });
    dog.beat(Phase::kStep, 1, std::string(1000, 'x'));
    std::this_thread::sleep_for(1s);
  }
  CHECK_FALSE(told);
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity()}) {
    dsv::WatchdogConfig c;
    c.save_seconds = bad;
    CHECK_THROWS_AS(Watchdog(c, *self), dsv::Error);
  }
  dsv::WatchdogConfig c = short_limits();
  Watchdog dog(c, *self, [](const HangReport&) {});
  dog.beat(Phase::kIdle, 1, std::string(1000, 'x'));  // cut, not overflowed
}

// In a child process: the default action ends it, and a stopped process must not be charged.
TEST_CASE("watchdog: ends the process with 21, but not after a mere pause", "[comm][watchdog]") {
  const bool hangs = GENERATE(true, false);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const auto self = dsv::comm::make_self();
    if (hangs) close(STDERR_FILENO);  // the line has nowhere to go: it must end all the same
    Watchdog dog(short_limits(), *self);
    for (int i = 0; i < 20; ++i) {
      dog.beat(Phase::kStep, i);
      std::this_thread::sleep_for(hangs && i == 5 ? 10s : 50ms);
    }
    _exit(0);
  }
  if (!hangs) {
    std::this_thread::sleep_for(300ms);
    kill(child, SIGSTOP);
    std::this_thread::sleep_for(2s);  // four limits
    kill(child, SIGCONT);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == (hangs ? 21 : 0));
}
