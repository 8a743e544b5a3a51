// Every file in configs_bad/ is refused with exit code 2 and a message that says where and why, in
// little memory, as is whatever is made of them by chance.
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "dsv/base/error.h"
#include "dsv/train/config_io.h"
#include "support/catch.h"
#include "train/temporary_folder.h"

using namespace dsv;
using namespace dsv::train;
using test::read_text;
using test::TemporaryFolder;
using test::write_text;

namespace {

const std::string kFolder = std::string(DSV_SOURCE_DIR) + "/tests/train/configs_bad/";

struct BadFile {
  std::string name;
  std::vector<std::string> fragments;  // of the message, which begins with the file's path
};

std::vector<BadFile> table() {
  std::vector<BadFile> files;
  std::istringstream lines(read_text(kFolder + "expected.txt"));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("#")) continue;
    const auto space = line.find(' ');
    REQUIRE(space != std::string::npos);
    BadFile file{line.substr(0, space), {}};
    std::string rest = line.substr(space + 1);
    for (auto cut = rest.find(" ~ "); cut != std::string::npos; cut = rest.find(" ~ ")) {
      file.fragments.push_back(rest.substr(0, cut));
      rest = rest.substr(cut + 3);
    }
    file.fragments.push_back(rest);
    files.push_back(std::move(file));
  }
  return files;
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (name.ends_with(".yaml")) names.push_back(name);
  }
  return names;
}

// "" when it loads.
std::string refusal(const std::string& path) {
  try {
    load_config({path}, {});
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kConfig);
    return e.what();
  }
  return "";
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // their shadow memory counts as ours
#else
constexpr bool kSanitized = false;
#endif

// A line "NAME:  123 kB" of this process's status.
std::int64_t status_kib(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name + ":")) return std::stoll(line.substr(name.size() + 1));
  }
  return -1;
}

// KiB by which resident memory rises at most while a process of its own loads the file. What other
// tests left in this process does not count, nor can the file live in memory that they gave back.
std::int64_t rise_kib(const std::string& path) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
    const std::int64_t before = status_kib("VmRSS");
    try {
      load_config({path}, {});
    } catch (const Error&) {
    }
    const std::int64_t rise = before < 0 ? -1 : status_kib("VmHWM") - before;
    _exit(write(ends[1], &rise, sizeof(rise)) == sizeof(rise) ? 0 : 1);
  }
  close(ends[1]);
  std::int64_t rise = -1;
  const auto got = read(ends[0], &rise, sizeof(rise));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  REQUIRE(got == sizeof(rise));
  REQUIRE(WIFEXITED(status));
  REQUIRE(rise >= 0);
  return rise;
}

std::string repeat(const std::string& text, std::size_t bytes) {
  std::string out;
  while (out.size() + text.size() <= bytes) out += text;
  return out;
}

}  // namespace

TEST_CASE("the table and the folder of bad configurations list the same files", "[config]") {
  std::vector<std::string> listed, present = files_in(kFolder);
  for (const BadFile& file : table()) listed.push_back(file.name);
  std::sort(present.begin(), present.end());
  CHECK(std::is_sorted(listed.begin(), listed.end()));
  CHECK(listed == present);
  CHECK(present.size() >= 60);
}

TEST_CASE("each bad configuration is refused where it is bad", "[config]") {
  for (const BadFile& file : table()) {
    CAPTURE(file.name);
    const std::string message = refusal(kFolder + file.name);
    REQUIRE(message.starts_with(kFolder + file.name));
    for (const std::string& fragment : file.fragments) CHECK_THAT(message, Contains(fragment));
  }
}

TEST_CASE("bad configurations take less than 64 MiB to refuse", "[config]") {
  if (kSanitized) {
    WARN("SKIPPED: sanitizers change what memory is used");
    return;
  }
  std::vector<std::string> paths;
  for (const std::string& name : files_in(kFolder)) paths.push_back(kFolder + name);
  // What is large, or costs yaml-cpp most, at the limit of size and far beyond it.
  const std::size_t limit = 128u << 10;
  const TemporaryFolder folder;
  const auto add = [&](const std::string& text) {
    paths.push_back(folder / format("{}.yaml", paths.size()));
    write_text(paths.back(), text);
  };
  for (const char* unit :
       {"[", "{", "{a: ", "[a, ", "- ", "? ", "&a ", "*a ", "\"", "|\n", "a\n"}) {
    add(repeat(unit, limit));
  }
  add(repeat("seed: 1\n", 10u << 20));
  // 64 MiB in all, of which a process without a file takes less than 16.
  std::int64_t highest = 0;
  for (const std::string& path : paths) {
    CAPTURE(path);
    CHECK(refusal(path) != "");
    highest = std::max(highest, rise_kib(path));
    CHECK(highest < 48 << 10);
  }
  CHECK(highest > 1 << 10);  // the measure measures
}

TEST_CASE("files too large or not readable are refused", "[config]") {
  const TemporaryFolder folder;
  write_text(folder / "large.yaml", repeat("# more\n", 10u << 20));
  CHECK_THAT(refusal(folder / "large.yaml"),
             Contains("expected at most 131072 bytes of configuration, got more"));
  CHECK_THAT(refusal("/nonexistent/a.yaml"),
             Contains("/nonexistent/a.yaml: expected a readable file"));
  CHECK_THAT(refusal("/dev/zero"), Contains("expected at most 131072 bytes"));
  CHECK_THAT(refusal("/tmp"), Contains("/tmp: expected a readable file"));
  CHECK_THAT(refusal(""), Contains("expected a readable file"));
}

TEST_CASE("one run reports all problems, at most twenty", "[config]") {
  const std::string message = refusal(kFolder + "many_unknown_keys.yaml");
  CHECK(std::count(message.begin(), message.end(), '\n') == 20);
  CHECK_THAT(message, Contains(":21:3: optim.key_19:") && Contains("… and 2980 more"));
}

TEST_CASE("mutated configurations load or are refused, never more", "[config][fuzz]") {
  std::vector<std::string> seeds{dump_config(Config{}), config_json(Config{}).dump(1)};
  for (const std::string& name : files_in(kFolder)) {
    const std::string text = read_text(kFolder + name);
    if (text.size() < 2000) seeds.push_back(text);
  }
  const std::string letters = "[]{}:,-?&*!|>'\"%@`# \n\t0123456789abcxyz~<.";
  std::mt19937_64 random(20250101);
  const auto pick = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  std::int64_t num_loaded = 0, num_refused = 0;
  for (int round = 0; round < 10'000; ++round) {
    std::string text = seeds[pick(2) == 0 ? pick(2) : pick(seeds.size())];
    for (std::size_t edits = 1 + pick(3); edits > 0; --edits) {
      if (text.empty()) text.push_back('a');
      const std::size_t at = pick(text.size());
      switch (pick(5)) {
        case 0:
          text[at] = letters[pick(letters.size())];
          break;
        case 1:
          text.insert(at, 1, letters[pick(letters.size())]);
          break;
        case 2:
          text.erase(at, 1 + pick(8));
          break;
        case 3:
          text.insert(at, text.substr(pick(text.size()), pick(60)));
          break;
        case 4:
          text[at] = static_cast<char>(pick(256));
          break;
      }
    }
    try {
      const std::string dumped = dump_config(parse_config(text, "fuzz"));
      ++num_loaded;
      if (dump_config(parse_config(dumped, "dump")) != dumped)
        FAIL("not read back equal: " << text);
    } catch (const Error& e) {
      ++num_refused;
      if (e.code() != ExitCode::kConfig) FAIL("exit code of: " << text);
    }
  }
  CHECK(num_loaded > 50);
  CHECK(num_refused > 5000);
}
