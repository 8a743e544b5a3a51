#include "dsv/train/fault.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dsv/base/error.h"
#include "dsv/base/log.h"

namespace dsv::train {
namespace {

constexpr std::string_view kPoints[] = {"ckpt_open",   "ckpt_write",  "ckpt_fsync", "ckpt_manifest",
                                        "ckpt_rename", "ckpt_commit", "step",       "grad"};
constexpr std::int64_t kAny = -1;
constexpr std::int64_t kForever = -1;

enum class Verb { kKill, kSleep, kReturn };

struct Fault {
  std::string point;
  Verb verb = Verb::kReturn;
  FaultAction action = FaultAction::kNone;
  std::int64_t sleep_ms = 0;
  std::int64_t rank = kAny;
  std::int64_t step = kAny;
};

std::mutex faults_mutex;
std::vector<Fault> faults;
std::atomic<bool> any_fault{false};
std::once_flag environment_read;

[[noreturn]] void refuse(std::string_view fault, std::string_view why) {
  throw_error(ExitCode::kConfig, "[fault] DSV_FAULT '{}': {}; expected point:action@rank,step",
              fault, why);
}

std::int64_t parse_number(std::string_view text, std::string_view fault) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    refuse(fault, format("'{}' is not a number ≥ 0", text));
  }
  return value;
}

Fault parse_fault(std::string_view text) {
  const auto colon = text.find(':');
  const auto at = text.find('@');
  const auto comma = text.find(',');
  if (colon == text.npos || at == text.npos || comma == text.npos || !(colon < at && at < comma)) {
    refuse(text, "it has another form");
  }
  Fault fault;
  fault.point = text.substr(0, colon);
  if (std::find(std::begin(kPoints), std::end(kPoints), fault.point) == std::end(kPoints)) {
    std::string known;
    for (const std::string_view p : kPoints) known += (known.empty() ? "" : ", ") + std::string(p);
    refuse(text, format("there is no point '{}' (known: {})", fault.point, known));
  }
  const std::string_view action = text.substr(colon + 1, at - colon - 1);
  if (action == "kill9") {
    fault.verb = Verb::kKill;
  } else if (action == "sleep" || action.starts_with("sleep=")) {
    fault.verb = Verb::kSleep;
    fault.sleep_ms = action == "sleep" ? kForever : parse_number(action.substr(6), text);
  } else if (action == "enospc") {
    fault.action = FaultAction::kEnospc;
  } else if (action == "eio") {
    fault.action = FaultAction::kEio;
  } else if (action == "shortwrite") {
    fault.action = FaultAction::kShortWrite;
  } else if (action == "nan") {
    fault.action = FaultAction::kNan;
  } else {
    refuse(text, format("there is no action '{}' (known: kill9, sleep, sleep=MS, enospc, eio, "
                        "shortwrite, nan)",
                        action));
  }
  const std::string_view rank = text.substr(at + 1, comma - at - 1);
  const std::string_view step = text.substr(comma + 1);
  fault.rank = rank == "*" ? kAny : parse_number(rank, text);
  fault.step = step == "*" ? kAny : parse_number(step, text);
  return fault;
}

std::vector<Fault> parse_faults(std::string_view spec) {
  std::vector<Fault> out;
  while (!spec.empty()) {
    const auto end = std::min(spec.find(';'), spec.size());
    out.push_back(parse_fault(spec.substr(0, end)));
    spec.remove_prefix(std::min(end + 1, spec.size()));
  }
  return out;
}

void install(std::vector<Fault> parsed) {
  const std::lock_guard lock(faults_mutex);
  faults = std::move(parsed);
  any_fault.store(!faults.empty(), std::memory_order_release);
}

}  // namespace

void read_faults_from_environment() {
  // A malformed variable throws out of call_once, which then is not done: every call throws again.
  std::call_once(environment_read, [] {
    const char* spec = std::getenv("DSV_FAULT");
    if (spec == nullptr || *spec == '\0') return;
    install(parse_faults(spec));
    log_warn("[fault] DSV_FAULT is set, this process will fail on purpose: {}", spec);
  });
}

void set_faults(std::string_view spec) {
  std::call_once(environment_read, [] {});
  install(parse_faults(spec));
}

FaultAction fault_point(std::string_view point, int rank, std::int64_t step) {
  read_faults_from_environment();
  if (!any_fault.load(std::memory_order_acquire)) return FaultAction::kNone;
  Fault hit;
  {
    const std::lock_guard lock(faults_mutex);
    const auto found = std::find_if(faults.begin(), faults.end(), [&](const Fault& f) {
      return f.point == point && (f.rank == kAny || f.rank == rank) &&
             (f.step == kAny || f.step == step);
    });
    if (found == faults.end()) return FaultAction::kNone;
    hit = *found;
  }
  switch (hit.verb) {
    case Verb::kKill:
      ::kill(::getpid(), SIGKILL);
      break;
    case Verb::kSleep:
      while (hit.sleep_ms == kForever) std::this_thread::sleep_for(std::chrono::hours(1));
      std::this_thread::sleep_for(std::chrono::milliseconds(hit.sleep_ms));
      break;
    case Verb::kReturn:
      break;
  }
  return hit.action;
}

}  // namespace dsv::train
