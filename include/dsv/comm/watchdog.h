// Watchdog: ends a rank that makes no progress, so that a hang costs minutes instead of a night.
// MPI has no timeouts: ranks wait forever for a peer that is stuck.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "dsv/comm/communicator.h"
#include "dsv/comm/watchdog_config.h"

namespace dsv::comm {

// kIdle has no limit: what a rank that waits for a person is in.
enum class Phase { kInit, kLoad, kFirstStep, kStep, kSave, kSample, kIdle };
const char* to_string(Phase phase);

struct HangReport {
  int rank = 0;
  Phase phase = Phase::kInit;
  std::int64_t step = 0;
  std::string detail;        // as given with the last beat
  double seconds = 0;        // since the last beat
  double limit_seconds = 0;  // of the phase
  std::string last_op;       // latest collective, to_string(LastOp)
};
// One line: "[watchdog] rank 1: no progress for 12.0 s (limit 10.0 s) in phase step, step 7, block
// 3 forward; last collective: all_reduce call 41 of group cp (4096 bytes), running"
std::string to_string(const HangReport& report);

// Writes the line to stderr, past the log, which the stuck thread may hold, and ends the process at
// once with exit code 21; under mpirun the whole job ends.
[[noreturn]] void exit_on_hang(const HangReport& report);

// One thread per rank. Time counts from the last beat and only while this process runs: a rank that
// was stopped and continued is not charged for the pause.
class Watchdog {
 public:
  using OnHang = std::function<void(const HangReport&)>;

  // Starts in phase kInit. `world` may be gone before the watchdog. on_hang runs on the watchdog's thread, once; after it the watchdog is silent. Throws
  // Error(kConfig) on limits that are not positive.
  Watchdog(const WatchdogConfig& config, const Communicator& world, OnHang on_hang = exit_on_hang);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // A sign of life from the main thread: cheap enough for every block of a model. Also switches the
  // phase. `detail` is kept up to 95 bytes.
  void beat(Phase phase, std::int64_t step, std::string_view detail = {});
  double limit_seconds(Phase phase) const;

 private:
  struct State;
  std::unique_ptr<State> state_;  // null when disabled
  WatchdogConfig config_;
};

}  // namespace dsv::comm
