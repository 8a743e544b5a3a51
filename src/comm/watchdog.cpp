#include "dsv/comm/watchdog.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <thread>

#include "dsv/base/log.h"
#include "exit_hung.h"

namespace dsv::comm {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr double kMaxTickSeconds = 0.25;

}  // namespace

const char* to_string(Phase phase) {
  switch (phase) {
    case Phase::kInit: return "init";
    case Phase::kLoad: return "load";
    case Phase::kFirstStep: return "first step";
    case Phase::kStep: return "step";
    case Phase::kSave: return "save";
    case Phase::kSample: return "sample";
    case Phase::kIdle: return "idle";
  }
  return "unknown";
}

std::string to_string(const HangReport& r) {
  return format(
      "[watchdog] rank {}: no progress for {:.1f} s (limit {:.1f} s) in phase {}, step {}{}{}; "
      "last "
      "collective: {}",
      r.rank, r.seconds, r.limit_seconds, to_string(r.phase), r.step, r.detail.empty() ? "" : ", ",
      r.detail, r.last_op);
}

void exit_on_hang(const HangReport& report) {
  exit_hung(to_string(report));
}

void exit_hung(const std::string& text) {
  const std::string line = text + "\n";
  // A full pipe must not make the watchdog hang too.
  pollfd err{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&err, 1, 1000) == 1 && (err.revents & POLLOUT) != 0) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  }
  _exit(static_cast<int>(ExitCode::kHang));
}

struct Watchdog::State {
  State(const Communicator& world, OnHang on_hang)
      : rank(world.rank()), last_op(world.last_op_reader()), on_hang(std::move(on_hang)) {}

  void watch();

  int rank;
  std::function<LastOp()> last_op;
  OnHang on_hang;

  std::mutex mutex;
  std::condition_variable stop_requested;
  bool stop = false;
  Phase phase = Phase::kInit;
  std::int64_t step = 0;
  std::array<char, 96> detail{};
  std::size_t detail_size = 0;
  double limit_seconds = 0;
  double silent_seconds = 0;  // running time from the last beat to counted_until
  Clock::time_point counted_until = Clock::now();
  double tick_seconds = kMaxTickSeconds;
  std::thread thread;
};

void Watchdog::State::watch() {
  std::unique_lock lock(mutex);
  while (!stop) {
    if (stop_requested.wait_for(lock, Seconds(tick_seconds), [&] { return stop; })) return;
    // A tick that took much longer means that this process did not run: stopped, or starved.
    const Clock::time_point now = Clock::now();
    silent_seconds += std::min(Seconds(now - counted_until).count(), 2 * tick_seconds);
    counted_until = now;
    if (silent_seconds <= limit_seconds) continue;
    const HangReport report{.rank = rank,
                            .phase = phase,
                            .step = step,
                            .detail = std::string(detail.data(), detail_size),
                            .seconds = silent_seconds,
                            .limit_seconds = limit_seconds,
                            .last_op = to_string(last_op())};
    lock.unlock();
    on_hang(report);
    return;
  }
}

Watchdog::Watchdog(const WatchdogConfig& config, const Communicator& world, OnHang on_hang)
    : config_(config) {
  if (!config.enabled) return;
  for (const Phase p : {Phase::kInit, Phase::kLoad, Phase::kFirstStep, Phase::kStep, Phase::kSave,
                        Phase::kSample}) {
    const double limit = limit_seconds(p);
    if (!(limit > 0) || !std::isfinite(limit)) {
      throw_error(ExitCode::kConfig, "[watchdog] expected a limit > 0 s for phase {}, got {}",
                  to_string(p), limit);
    }
  }
  state_ = std::make_unique<State>(world, std::move(on_hang));
  beat(Phase::kInit, 0);
  // Signals are for the main thread: a handler here would not interrupt what that one waits in.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  state_->thread = std::thread([state = state_.get()] { state->watch(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Watchdog::~Watchdog() {
  if (state_ == nullptr) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->stop_requested.notify_one();
  state_->thread.join();
}

double Watchdog::limit_seconds(Phase phase) const {
  switch (phase) {
    case Phase::kInit: return config_.init_seconds;
    case Phase::kLoad: return config_.load_seconds;
    case Phase::kFirstStep: return config_.step_seconds * config_.first_step_factor;
    case Phase::kStep: return config_.step_seconds;
    case Phase::kSave: return config_.save_seconds;
    case Phase::kSample: return config_.sample_seconds;
    case Phase::kIdle: return std::numeric_limits<double>::infinity();
  }
  return 0;
}

void Watchdog::beat(Phase phase, std::int64_t step, std::string_view detail) {
  if (state_ == nullptr) return;
  const std::lock_guard lock(state_->mutex);
  state_->phase = phase;
  state_->step = step;
  state_->detail_size = std::min(detail.size(), state_->detail.size() - 1);
  std::copy_n(detail.begin(), state_->detail_size, state_->detail.begin());
  state_->limit_seconds = limit_seconds(phase);
  state_->silent_seconds = 0;
  state_->counted_until = Clock::now();
  state_->tick_seconds = std::min(kMaxTickSeconds, state_->limit_seconds / 8);
}

}  // namespace dsv::comm
