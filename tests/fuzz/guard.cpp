#include "guard.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

// The address sanitizer's own interface; g++ does not ship its header.
extern "C" {
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, std::size_t),
                                              void (*on_free)(const volatile void*));
std::size_t __sanitizer_get_allocated_size(const volatile void*);
void __sanitizer_set_death_callback(void (*callback)());
// Leaks are found input by input below, which needs no right to trace processes.
const char* __asan_default_options() {
  return "detect_leaks=0:exitcode=66:handle_abort=1:max_allocation_size_mb=512:"
         "detect_stack_use_after_return=1:strict_string_checks=1";
}
// Its reports end in SIGABRT, which the address sanitizer handles like its own.
const char* __ubsan_default_options() {
  return "print_stacktrace=1:abort_on_error=1";
}
}

namespace dsv::fuzz {
namespace {

constexpr int kStatus = 66;
// Processor time, under the sanitizers; checks write and read again.
constexpr std::size_t kBytesPerSecond = 1 << 20;
constexpr long kCheckSeconds = 20;
constexpr std::size_t kMaxMessageBytes = 16 << 10;

// One input at a time, in one thread: plain variables.
bool is_counting = false;
std::int64_t live_bytes = 0, peak_bytes = 0;
char find_name[256] = "";
const char* input_data = nullptr;
std::size_t input_size = 0;

void on_malloc(const volatile void*, std::size_t size) {
  if (!is_counting) return;
  live_bytes += static_cast<std::int64_t>(size);
  peak_bytes = std::max(peak_bytes, live_bytes);
}
void on_free(const volatile void* data) {
  if (!is_counting || data == nullptr) return;
  live_bytes -= static_cast<std::int64_t>(__sanitizer_get_allocated_size(data));
}

void write_all(int fd, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t n = ::write(fd, data, size);
    if (n <= 0) return;
    data += n;
    size -= static_cast<std::size_t>(n);
  }
}

// Safe in signal handlers.
void save_input() {
  if (input_data == nullptr) return;
  const int fd = ::open(find_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return;
  write_all(fd, input_data, input_size);
  ::close(fd);
  write_all(2, "input: ", 7);
  write_all(2, find_name, std::strlen(find_name));
  write_all(2, "\n", 1);
}

void on_time_over(int) {
  constexpr char kText[] = "too much processor time for one input\n";
  write_all(2, kText, sizeof(kText) - 1);
  save_input();
  _exit(kStatus);
}

void set_timer(long seconds) {
  const itimerval timer{{0, 0}, {seconds, 0}};
  ::setitimer(ITIMER_PROF, &timer, nullptr);
}

void install() {
  static const bool once = [] {
    __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    __sanitizer_set_death_callback(save_input);
    struct sigaction action {};
    action.sa_handler = on_time_over;
    ::sigaction(SIGPROF, &action, nullptr);
    return true;
  }();
  static_cast<void>(once);
}

double cpu_ms() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

// Why a message is not fit for a terminal and a log, or "".
std::string fault_of(std::string_view text) {
  if (text.empty()) return "an empty message";
  if (text.size() > kMaxMessageBytes) return format("a message of {} bytes", text.size());
  if (text.find("(check `") != text.npos) return "a failed DSV_CHECK";
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = [&](std::size_t k) {
      return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u;
    };
    const unsigned lead = byte(0);
    if ((lead < 0x20 && lead != '\n') || lead == 0x7f || (lead == 0xc2 && byte(1) < 0xa0)) {
      return format("a message with control character 0x{:02x}", lead);
    }
    const std::size_t size = lead < 0x80   ? 1
                             : lead < 0xc2 ? 0
                             : lead < 0xe0 ? 2
                             : lead < 0xf0 ? 3
                             : lead < 0xf5 ? 4
                                           : 0;
    bool is_valid = size > 0;
    for (std::size_t k = 1; k < size; ++k) is_valid = is_valid && (byte(k) & 0xc0) == 0x80;
    if (!is_valid) return format("a message that is not UTF-8 at byte {}", i);
    i += size;
  }
  return "";
}

struct Run {
  Outcome outcome;
  std::string violation;
  std::int64_t kept_bytes = 0;
};

// Counting is off wherever this harness itself allocates or frees what it keeps.
Run run_once(const Target& target, std::string_view input) {
  Run run;
  const double begin_ms = cpu_ms();
  live_bytes = peak_bytes = 0;
  set_timer(1 + static_cast<long>(input.size() / kBytesPerSecond));
  is_counting = true;
  try {
    const Check check = target.parse(input);
    is_counting = false;
    run.outcome.peak_bytes = peak_bytes;
    run.outcome.cpu_ms = cpu_ms() - begin_ms;
    set_timer(kCheckSeconds);
    check();
    is_counting = true;
  } catch (const Error& error) {
    is_counting = false;
    run.outcome.code = error.code();
    run.outcome.message = error.what();
    is_counting = true;
  } catch (const BrokenPromise& broken) {
    is_counting = false;
    run.violation = std::string("accepted, but ") + broken.what();
    is_counting = true;
  } catch (const std::exception& other) {
    is_counting = false;
    run.violation = std::string("an exception that is not dsv::Error: ") + other.what();
    is_counting = true;
  } catch (...) {
    is_counting = false;
    run.violation = "an exception that is not dsv::Error";
    is_counting = true;
  }
  is_counting = false;
  set_timer(0);
  run.kept_bytes = live_bytes;
  if (run.outcome.code) {
    run.outcome.peak_bytes = peak_bytes;
    run.outcome.cpu_ms = cpu_ms() - begin_ms;
  }
  return run;
}

}  // namespace

std::string save_find(const Target& target, std::string_view input) {
  const std::string name =
      format("fuzz-find-{}-{:016x}", target.name, fnv1a(input.data(), input.size()));
  const int fd = ::open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return "(cannot write " + name + ")";
  write_all(fd, input.data(), input.size());
  ::close(fd);
  return name;
}

Outcome run_guarded(const Target& target, std::string_view input) {
  install();
  // Exactly as large as the input, so that reading one byte too far is seen.
  const auto copy = std::make_unique<char[]>(input.size());
  std::copy(input.begin(), input.end(), copy.get());
  const std::string_view exact(copy.get(), input.size());
  const std::string name =
      format("fuzz-find-{}-{:016x}", target.name, fnv1a(input.data(), input.size()));
  std::strncpy(find_name, name.c_str(), sizeof(find_name) - 1);
  input_data = exact.data();
  input_size = exact.size();

  Run run = run_once(target, exact);
  // Tables that are filled on first use are not leaks: those keep more every time.
  if (run.kept_bytes > 0 && run.violation.empty()) {
    const std::int64_t first = run.kept_bytes;
    run = run_once(target, exact);
    if (run.kept_bytes > 0 && run_once(target, exact).kept_bytes > 0) {
      run.violation = format("{} bytes leaked, then {}", first, run.kept_bytes);
    }
  }
  input_data = nullptr;

  const Outcome& out = run.outcome;
  const std::int64_t allowed =
      target.bytes_per_byte * static_cast<std::int64_t>(input.size()) + target.fixed_bytes;
  if (run.violation.empty() && out.peak_bytes > allowed) {
    run.violation = format("{} bytes allocated for an input of {}, expected at most {}",
                           out.peak_bytes, input.size(), allowed);
  }
  if (run.violation.empty() && out.code) {
    const auto& codes = target.codes;
    const std::string shown = out.message.substr(0, 500);
    if (const std::string fault = fault_of(out.message); !fault.empty()) {
      run.violation = format("{}: {}", fault, shown);
    } else if (std::find(codes.begin(), codes.end(), *out.code) == codes.end()) {
      run.violation = format("exit code {}: {}", static_cast<int>(*out.code), shown);
    }
  }
  if (!run.violation.empty()) throw Violation(run.violation);
  return run.outcome;
}

}  // namespace dsv::fuzz
