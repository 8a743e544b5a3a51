// One parser under test: how to call it, what it must refuse, what inputs to start from.
#pragma once

#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "dsv/base/error.h"
#include "random.h"

namespace dsv::fuzz {

// One input of a corpus and what must come of it.
struct Case {
  std::string name;
  std::string bytes;
  std::vector<std::string> fragments;                      // of the message
  std::optional<ExitCode> code = ExitCode::kCorruptInput;  // empty: the input is accepted
};

inline Case accepted(std::string name, std::string bytes) {
  return {std::move(name), std::move(bytes), {}, std::nullopt};
}

// Thrown by a check: an input was accepted and something that must hold of it does not.
struct BrokenPromise : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What must hold of an accepted input; throws BrokenPromise. Holds the parsed value.
using Check = std::function<void()>;

struct Target {
  std::string name;
  // Parses or throws Error with one of `codes`.
  std::function<Check(std::string_view input)> parse;
  std::vector<ExitCode> codes;
  std::function<std::vector<Case>()> cases;
  // Small inputs that mutations start from, with the accepted and the short bad ones of `cases`.
  std::function<std::vector<std::string>()> seeds;
  std::vector<std::string> words;  // of the language, for insertions
  // Makes checksums and lengths of a mutated input right again, most of the time; may be empty.
  std::function<std::string(std::string input, Random& random)> repair;
  // Memory while parsing, at most: bytes_per_byte × input + fixed_bytes.
  std::int64_t bytes_per_byte = 0;
  std::int64_t fixed_bytes = 0;
  // A run of mutations must meet at least so many different reasons for refusal: fewer mean that
  // it no longer gets past the first checks.
  std::size_t min_reasons = 0;
};

Target json_target();
Target safetensors_target();
Target index_target();
Target config_target();
Target set_target();
Target manifest_target();
Target diffusers_target();
Target captions_target();
Target buggy_target();  // has the defects that the guards must find

// Throws BrokenPromise.
template <typename... Args>
void promise(bool holds, std::string_view pattern, const Args&... args) {
  if (!holds) throw BrokenPromise(format(pattern, args...));
}

}  // namespace dsv::fuzz
