// A parser with every defect that the guards must find: input "defect x" has defect x.
#include <limits>
#include <memory>
#include <new>

#include "target.h"

namespace dsv::fuzz {
namespace {

volatile int sink = 0;

void read_beyond(std::string_view input) {
  sink = input.data()[input.size()];
}
void use_after_free() {
  int* p = new int(1);
  delete p;
  sink = *p;
}
void overflow(int n) {
  sink = std::numeric_limits<int>::max() - 5 + n;
}
void hang() {
  while (sink != -1) sink = 1;
}
void* volatile lost = nullptr;
void leak() {
  lost = new int(7);
}
int recurse(int n) {
  return n == -1 ? 0 : 1 + recurse(n + sink * 0 + 1);
}

[[noreturn]] void refuse(std::string message, ExitCode code = ExitCode::kCorruptInput) {
  throw Error(code, std::move(message));
}

Check parse(std::string_view input) {
  constexpr std::string_view kPrefix = "defect ";
  // For mutations: a number that is one too large.
  if (input.find("2147483648") != input.npos) refuse("found", ExitCode::kIo);
  if (!input.starts_with(kPrefix)) return [] {};
  switch (input.substr(kPrefix.size())[0]) {
    case 'o':
      read_beyond(input);
      break;
    case 'f':
      use_after_free();
      break;
    case 'i':
      overflow(static_cast<int>(input.size()));
      break;
    case 'b':
      sink = *std::unique_ptr<bool>(reinterpret_cast<bool*>(new char(7)));
      break;
    case 'h':
      hang();
      break;
    case 'l':
      leak();
      break;
    case 's':
      sink = recurse(0);
      break;
    case 'a':
      std::terminate();
    case 'e':
      throw std::out_of_range("vector");
    case 't':
      throw 7;
    case 'm':
      sink = std::vector<char>(1 << 20).back();
      break;
    case 'g':
      sink = std::vector<char>(std::size_t{1} << 40).back();
      break;
    case 'c':
      refuse("wrong code", ExitCode::kInternal);
    case 'k':
      DSV_CHECK(input.size() > 100, "[buggy] expected more");
      break;
    case 'x':
      refuse("an escape \x1b[31m");
    case 'y':
      refuse("C1 \xc2\x9b");
    case 'u':
      refuse("not UTF-8 \xff");
    case 'q':
      refuse("");
    case 'z':
      refuse(std::string(20'000, 'z'));
    case 'w':
      return [] { promise(false, "the promise {} is broken", 5); };
    default:
      refuse("refused");
  }
  return [] {};
}

}  // namespace

Target buggy_target() {
  return {.name = "buggy",
          .parse = parse,
          .codes = {ExitCode::kCorruptInput},
          .cases = [] { return std::vector<Case>{accepted("good", "{}")}; },
          .seeds = [] { return std::vector<std::string>{R"({"n": 5, "m": [6, 7]})"}; },
          .words = {},
          .repair = {},
          .bytes_per_byte = 64,
          .fixed_bytes = 128 << 10,
          .min_reasons = 0};
}

}  // namespace dsv::fuzz
