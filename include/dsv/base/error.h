// Errors: what was expected, what was got, where to look. Only main() ends the process.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "dsv/base/format.h"

namespace dsv {

// The documented exit codes of `dsv` (docs/cli.md). kInternal is a defect of the engine itself.
enum class ExitCode : int {
  kOk = 0,
  kInternal = 1,
  kConfig = 2,         // configuration or usage
  kEnvironment = 3,    // environment or launch
  kCorruptInput = 10,  // corrupt input, in strict mode
  kNothingToResume = 11,
  kResumeRefused = 12,  // drift between checkpoint and configuration
  kNonFinite = 20,
  kHang = 21,
  kIo = 22,
  kStopped = 75,  // stopped on request after a checkpoint
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, std::string message) : std::runtime_error(std::move(message)), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

[[noreturn]] void throw_check_failure(const char* expression, const char* file, int line,
                                      std::string message);

template <typename... Args>
[[noreturn]] void throw_error(ExitCode code, std::string_view pattern, const Args&... args) {
  throw Error(code, vformat(pattern, {FormatArg(args)...}));
}

// Checks an invariant between rooms (shapes, dtypes, states): failing is a defect or wrong use of
// the library, exit code 1. User input is checked with throw_error and the code that fits.
#define DSV_CHECK(condition, ...)                                                             \
  do {                                                                                        \
    if (!(condition)) [[unlikely]]                                                            \
      ::dsv::throw_check_failure(#condition, __FILE__, __LINE__, ::dsv::format(__VA_ARGS__)); \
  } while (false)

}  // namespace dsv
