// fuzz_parsers: hostile inputs for every parser, under the address and undefined-behaviour
// sanitizers.
#include <sys/wait.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "guard.h"
#include "mutate.h"

namespace dsv::fuzz {
namespace {

constexpr const char* kUsage =
    "fuzz_parsers corpus TARGET                          every case of the corpus\n"
    "fuzz_parsers mutate TARGET COUNT [SEED [FIRST]]     mutations FIRST … FIRST + COUNT - 1\n"
    "fuzz_parsers run TARGET FILE                        one input\n"
    "fuzz_parsers guards                                 shows that the guards find defects\n"
    "targets: json, safetensors, index, config, set, manifest, diffusers, captions\n";

Target find_target(const std::string& name) {
  for (const Target& target :
       {json_target(), safetensors_target(), index_target(), config_target(), set_target(),
        manifest_target(), diffusers_target(), captions_target(), buggy_target()}) {
    if (target.name == name) return target;
  }
  throw Error(ExitCode::kConfig, "unknown target " + name);
}

std::uint64_t parse_count(const char* text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc{} || *end != '\0') {
    throw Error(ExitCode::kConfig, std::string("expected a count, got ") + text);
  }
  return value;
}

// What was observed over many inputs.
struct Tally {
  std::uint64_t inputs = 0, accepted = 0;
  double slowest_ms = 0;
  std::int64_t peak_bytes = 0;
  std::map<std::string, std::uint64_t> reasons;

  void add(const Outcome& out) {
    ++inputs;
    accepted += !out.code;
    slowest_ms = std::max(slowest_ms, out.cpu_ms);
    peak_bytes = std::max(peak_bytes, out.peak_bytes);
    if (out.code) ++reasons[reason_of(out.message)];
  }
  // The message without what differs from input to input: numbers, quoted text, positions.
  static std::string reason_of(const std::string& message) {
    std::string out;
    bool quoted = false;
    for (const char c : message) {
      if (c == '\'') quoted = !quoted;
      if (quoted || (c >= '0' && c <= '9')) continue;
      out += c;
      if (out.size() == 80) break;
    }
    return out;
  }
  void print() const {
    std::printf(
        "%llu inputs, %llu accepted, %zu reasons for refusal, slowest %.1f ms, peak %lld bytes\n",
        static_cast<unsigned long long>(inputs), static_cast<unsigned long long>(accepted),
        reasons.size(), slowest_ms, static_cast<long long>(peak_bytes));
  }
};

// "" when the case went as its table says.
std::string misfit(const Case& c, const Outcome& out) {
  if (out.code != c.code) {
    const auto text = [](const std::optional<ExitCode>& code) {
      return code ? "exit code " + std::to_string(static_cast<int>(*code)) : "accepted";
    };
    return format("expected {}, got {} {}", text(c.code), text(out.code), out.message);
  }
  for (const std::string& fragment : c.fragments) {
    if (out.message.find(fragment) == std::string::npos) {
      return format("expected '{}' in: {}", fragment, out.message);
    }
  }
  return "";
}

int run_corpus(const Target& target) {
  Tally tally;
  std::size_t failures = 0, refused = 0;
  for (const Case& c : target.cases()) {
    std::string wrong;
    try {
      const Outcome out = run_guarded(target, c.bytes);
      tally.add(out);
      refused += out.code.has_value();
      wrong = misfit(c, out);
    } catch (const Violation& violation) {
      wrong = violation.what();
    }
    if (wrong.empty()) continue;
    ++failures;
    std::printf("FAILED %s: %s\n  input: %s\n", c.name.c_str(), wrong.c_str(),
                save_find(target, c.bytes).c_str());
  }
  tally.print();
  if (tally.accepted == 0 || refused == 0) {
    std::printf("FAILED: expected cases that are accepted and cases that are refused\n");
    return 1;
  }
  return failures == 0 ? 0 : 1;
}

std::vector<std::string> seeds_of(const Target& target) {
  const std::vector<std::string> good = target.seeds();
  std::vector<std::string> seeds = good;
  for (const Case& c : target.cases()) {
    if (c.bytes.size() <= kMaxMutatedBytes / 4) seeds.push_back(c.bytes);
  }
  // The good ones lead further: half of all mutations start from them.
  for (std::size_t i = seeds.size(); i > 0; --i) seeds.push_back(good[i % good.size()]);
  return seeds;
}

int run_mutations(const Target& target, std::uint64_t count, std::uint64_t seed,
                  std::uint64_t first) {
  constexpr std::size_t kMaxFailures = 10;
  const std::vector<std::string> seeds = seeds_of(target);
  for (const std::string& input : seeds) run_guarded(target, input);  // fills tables of first use
  Tally tally;
  std::map<std::string, int> failures;
  for (std::uint64_t i = first; i < first + count && failures.size() < kMaxFailures; ++i) {
    Random random(seed, target.name, i);
    std::string input = mutate(seeds, target.words, random);
    if (target.repair) input = target.repair(std::move(input), random);
    try {
      tally.add(run_guarded(target, input));
    } catch (const Violation& violation) {
      if (failures[Tally::reason_of(violation.what())]++ > 0) continue;
      std::printf("FAILED iteration %llu of seed %llu: %s\n  input: %s\n",
                  static_cast<unsigned long long>(i), static_cast<unsigned long long>(seed),
                  violation.what(), save_find(target, input).c_str());
    }
  }
  tally.print();
  if (!failures.empty()) return 1;
  // Few inputs need not meet everything.
  if (count >= 1000 && (tally.reasons.size() < target.min_reasons || tally.accepted == 0)) {
    std::printf("FAILED: expected some inputs to be accepted and %zu reasons for refusal\n",
                target.min_reasons);
    return 1;
  }
  return 0;
}

int run_file(const Target& target, const char* path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error(ExitCode::kIo, std::string("cannot read ") + path);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  const Outcome out = run_guarded(target, bytes.str());
  std::printf("%s, %lld bytes at most, %.2f ms\n%s\n", out.code ? "refused" : "accepted",
              static_cast<long long>(out.peak_bytes), out.cpu_ms, out.message.c_str());
  return 0;
}

// Runs this program again; its status and what it printed.
std::pair<int, std::string> run_self(const std::string& program, const std::string& arguments) {
  FILE* pipe = ::popen(("'" + program + "' " + arguments + " 2>&1").c_str(), "r");
  if (pipe == nullptr) throw Error(ExitCode::kEnvironment, "cannot start " + program);
  std::string text;
  std::array<char, 4096> buffer{};
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    text.append(buffer.data(), n);
  }
  const int status = ::pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text};
}

int run_guards(const std::string& program) {
  struct Defect {
    const char* input;
    int status;
    const char* text;
  };
  constexpr Defect kDefects[] = {
      {"none", 0, "refused"},
      {"o", 66, "heap-buffer-overflow"},
      {"f", 66, "heap-use-after-free"},
      {"i", 66, "signed integer overflow"},
      {"b", 66, "not a valid value for type 'bool'"},
      {"h", 66, "too much processor time"},
      {"s", 66, "stack-overflow"},
      {"a", 66, "ABRT"},
      {"g", 66, "exceeds maximum supported size"},
      {"l", 1, "bytes leaked"},
      {"e", 1, "an exception that is not dsv::Error: vector"},
      {"t", 1, "an exception that is not dsv::Error"},
      {"m", 1, "bytes allocated for an input of 8, expected at most 131584"},
      {"c", 1, "exit code 1: wrong code"},
      {"k", 1, "a failed DSV_CHECK"},
      {"x", 1, "control character 0x1b"},
      {"y", 1, "control character 0xc2"},
      {"u", 1, "not UTF-8 at byte 10"},
      {"q", 1, "an empty message"},
      {"z", 1, "a message of 20000 bytes"},
      {"w", 1, "accepted, but the promise 5 is broken"},
  };
  int failures = 0;
  const auto expect = [&](const std::string& what, const std::pair<int, std::string>& got,
                          int status, const std::string& text) {
    if (got.first == status && got.second.find(text) != std::string::npos) return;
    ++failures;
    std::printf("FAILED %s: expected status %d and '%s', got %d and:\n%s\n", what.c_str(), status,
                text.c_str(), got.first, got.second.c_str());
  };
  const std::string file = "fuzz-guards-input";
  for (const Defect& d : kDefects) {
    const std::string input = std::string("defect ") + d.input;
    std::ofstream(file, std::ios::binary) << input;
    const auto got = run_self(program, "run buggy " + file);
    expect(d.input, got, d.status, d.text);
    // Inputs that end the process are kept, byte for byte.
    const std::string name = format("fuzz-find-buggy-{:016x}", fnv1a(input.data(), input.size()));
    std::ifstream kept(name, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(kept)), {});
    if ((d.status == 66) != (bytes == input)) {
      ++failures;
      std::printf("FAILED %s: the input was %s\n", d.input, bytes.empty() ? "not kept" : "kept");
    }
    std::remove(name.c_str());
  }
  std::remove(file.c_str());
  expect("mutations", run_self(program, "mutate buggy 20000"), 1, "exit code 22: found");
  const auto once = run_self(program, "mutate buggy 500 3 7"),
             again = run_self(program, "mutate buggy 500 3 7");
  if (once.second.substr(0, once.second.find("slowest")) !=
      again.second.substr(0, again.second.find("slowest"))) {
    ++failures;
    std::printf("FAILED: the same seed gave other inputs\n");
  }
  std::printf("%zu defects, %d failures\n", std::size(kDefects), failures);
  return failures == 0 ? 0 : 1;
}

int run(const std::vector<const char*>& args) {
  const std::string command = args.size() > 1 ? args[1] : "";
  if (command == "guards" && args.size() == 2) return run_guards(args[0]);
  if (command == "corpus" && args.size() == 3) return run_corpus(find_target(args[2]));
  if (command == "run" && args.size() == 4) return run_file(find_target(args[2]), args[3]);
  if (command == "mutate" && args.size() >= 4 && args.size() <= 6) {
    return run_mutations(find_target(args[2]), parse_count(args[3]),
                         args.size() > 4 ? parse_count(args[4]) : 1,
                         args.size() > 5 ? parse_count(args[5]) : 0);
  }
  std::fputs(kUsage, stderr);
  return 2;
}

}  // namespace
}  // namespace dsv::fuzz

int main(int argc, char** argv) {
  try {
    return dsv::fuzz::run({argv, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
