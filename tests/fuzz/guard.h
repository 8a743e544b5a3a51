// Runs one input through a parser and sees to it that nothing but a clean refusal or a correct
// value comes of it.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "target.h"

namespace dsv::fuzz {

struct Outcome {
  std::optional<ExitCode> code;  // empty: accepted
  std::string message;
  std::int64_t peak_bytes = 0;  // allocated while parsing, beyond what was there before
  double cpu_ms = 0;
};

// A defect that ends in an orderly way.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws Violation for: any exception but Error with one of the target's codes; a message that is
// empty, longer than 16 KiB, not UTF-8, holds control characters, or tells of a failed DSV_CHECK;
// an accepted input of which a promise does not hold; more memory than allowed; memory that is not
// given back. Reports of the sanitizers and more than a second of processor time (and one more for
// every MiB) end the process with status 66, after the input has been written to a file that is
// named on stderr.
Outcome run_guarded(const Target& target, std::string_view input);

// Writes an input beside the working directory's other finds; returns the file's name.
std::string save_find(const Target& target, std::string_view input);

}  // namespace dsv::fuzz
