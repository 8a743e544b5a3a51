#include "dsv/train/run_dir.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <set>

#include "dsv/base/error.h"
#include "dsv/base/json.h"
#include "dsv/train/config_io.h"
#include "support/catch.h"
#include "train/temporary_folder.h"

using namespace dsv;
using namespace dsv::train;
using test::read_text;
using test::TemporaryFolder;
using test::write_text;

namespace {

RunConfig run_in(const std::string& dir) {
  RunConfig run;
  run.dir = dir;
  run.name = "toy";
  return run;
}

struct Refusal {
  ExitCode code = ExitCode::kOk;
  std::string message;
};

Refusal refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return {e.code(), e.what()};
  }
  return {};
}

std::string host() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

std::string lock_text(std::int64_t pid, const std::string& host, std::int64_t ticks) {
  return format("{{\"pid\":{},\"host\":\"{}\",\"run_id\":\"abc\",\"start_ticks\":{}}}\n", pid, host,
                ticks);
}

// The pid of a process that has ended.
pid_t dead_pid() {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
  return child;
}

}  // namespace

TEST_CASE("a run has its folders, its lock, and its configuration", "[run_dir]") {
  const TemporaryFolder folder;
  const RunConfig run = run_in(folder / "deep/runs");
  Config config;
  config.run = run;
  {
    const RunDir dir(run, "id-1");
    CHECK(dir.paths().root == folder / "deep/runs/toy");
    for (const std::string& path :
         {dir.paths().tensorboard(), dir.paths().samples(), dir.paths().checkpoints()}) {
      CHECK(std::filesystem::is_directory(path));
      CHECK(std::filesystem::is_empty(path));  // the probes are gone
    }
    dir.write_config(config);
    CHECK(dump_config(load_config({dir.paths().config()}, {})) == dump_config(config));
    config.run.seed = 5;
    dir.write_config(config);
    CHECK(load_config({dir.paths().config()}, {}).run.seed == 5);

    const Json lock = parse_json(read_text(dir.paths().lock()), "lock");
    CHECK(lock.at("pid").as_int() == getpid());
    CHECK(lock.at("host").as_string() == host());
    CHECK(lock.at("run_id").as_string() == "id-1");
  }
  CHECK(!std::filesystem::exists(folder / "deep/runs/toy/lock"));
  const RunDir again(run, "id-2");
}

TEST_CASE("a folder in use is refused, naming its user", "[run_dir]") {
  const TemporaryFolder folder;
  const RunDir first(run_in(folder.path()), "id-1");
  const Refusal second = refusal([&] { RunDir(run_in(folder.path()), "id-2"); });
  CHECK(second.code == ExitCode::kEnvironment);
  CHECK_THAT(second.message, Contains(first.paths().lock()) &&
                                 Contains(format("process {} on {}, run id-1", getpid(), host())));
  CHECK_THAT(read_text(first.paths().lock()), Contains("id-1"));
}

TEST_CASE("a process of another one in use is refused too", "[run_dir]") {
  const TemporaryFolder folder;
  int ready[2], done[2];
  REQUIRE(pipe(ready) == 0);
  REQUIRE(pipe(done) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const RunDir dir(run_in(folder.path()), "of the child");
    char byte = 'r';
    const bool told = write(ready[1], &byte, 1) == 1 && read(done[0], &byte, 1) == 1;
    _exit(told ? 0 : 1);  // without the destructor: as after kill -9
  }
  char byte = 0;
  REQUIRE(read(ready[0], &byte, 1) == 1);
  const Refusal busy = refusal([&] { RunDir(run_in(folder.path()), "id"); });
  CHECK(busy.code == ExitCode::kEnvironment);
  CHECK_THAT(busy.message,
             Contains(format("process {} on", child)) && Contains("run of the child"));
  REQUIRE(write(done[1], &byte, 1) == 1);
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  for (const int fd : {ready[0], ready[1], done[0], done[1]}) close(fd);
  // Its lock is still there, it is not.
  CHECK_THAT(read_text(folder / "toy/lock"), Contains("of the child"));
  const RunDir next(run_in(folder.path()), "id");
  CHECK_THAT(read_text(folder / "toy/lock"), Contains("\"id\""));
}

TEST_CASE("stale locks are taken over", "[run_dir]") {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "toy");
  const std::string lock = folder / "toy/lock";
  const std::string other_start =
      lock_text(getppid(), host(), 1);  // the pid lives, as another process
  for (const std::string& text :
       {lock_text(dead_pid(), host(), 7), other_start, std::string(), std::string("torn {\"pid\":"),
        lock_text(-1, host(), 0), lock_text(std::int64_t{1} << 40, host(), 0)}) {
    CAPTURE(text);
    write_text(lock, text);
    const RunDir dir(run_in(folder.path()), "id-3");
    CHECK_THAT(read_text(lock), Contains("id-3"));
  }
}

TEST_CASE("a lock that may be held elsewhere is not touched", "[run_dir]") {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "toy");
  const std::string lock = folder / "toy/lock";
  const std::string foreign = lock_text(1, "another-host", 7);
  write_text(lock, foreign);
  const Refusal elsewhere = refusal([&] { RunDir(run_in(folder.path()), "id"); });
  CHECK(elsewhere.code == ExitCode::kEnvironment);
  CHECK_THAT(elsewhere.message, Contains("process 1 on another-host, run abc") &&
                                    Contains("if that job has ended, remove the file"));
  CHECK(read_text(lock) == foreign);
  // Alive on this host, though the file system forgot its lock.
  write_text(lock, lock_text(getppid(), host(), 0));
  CHECK(refusal([&] { RunDir(run_in(folder.path()), "id"); }).code == ExitCode::kEnvironment);
}

TEST_CASE("only one of many that start at once gets the folder", "[run_dir]") {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "toy");
  write_text(folder / "toy/lock", lock_text(dead_pid(), host(), 7));
  int outcomes[2], start[2], release[2];
  REQUIRE(pipe(outcomes) == 0);
  REQUIRE(pipe(start) == 0);
  REQUIRE(pipe(release) == 0);
  std::vector<pid_t> children;
  constexpr std::size_t kNumChildren = 8;
  for (std::size_t i = 0; i < kNumChildren; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(30);
      close(release[1]);
      char byte = 0;
      bool fine = read(start[0], &byte, 1) == 1;
      const Refusal refused = refusal([&] {
        const RunLock lock(folder / "toy/lock", "id");
        fine = fine && write(outcomes[1], "h", 1) == 1;
        fine = fine && read(release[0], &byte, 1) == 0;  // until the parent closes it
      });
      if (refused.code != ExitCode::kOk) {
        const bool expected = refused.code == ExitCode::kEnvironment;
        fine = fine && write(outcomes[1], expected ? "r" : "?", 1) == 1;
      }
      _exit(fine ? 0 : 1);
    }
    children.push_back(child);
  }
  REQUIRE(write(start[1], "........", kNumChildren) == kNumChildren);
  std::string got;
  for (char byte = 0; got.size() < kNumChildren && read(outcomes[0], &byte, 1) == 1;) got += byte;
  std::sort(got.begin(), got.end());
  CHECK(got == "hrrrrrrr");
  close(release[1]);
  for (const pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
  }
  for (const int fd : {outcomes[0], outcomes[1], start[0], start[1], release[0]}) close(fd);
  CHECK(!std::filesystem::exists(folder / "toy/lock"));
}

TEST_CASE("a folder that cannot be written to is an I/O error at the start", "[run_dir]") {
  const TemporaryFolder folder;
  write_text(folder / "file", "");
  const Refusal under_a_file = refusal([&] { RunDir(run_in(folder / "file/runs"), "id"); });
  CHECK(under_a_file.code == ExitCode::kIo);
  CHECK_THAT(under_a_file.message, Contains("file/runs/toy"));
  CHECK(refusal([] { RunDir(run_in("/proc/dsv"), "id"); }).code == ExitCode::kIo);

  // Permissions bind everybody but root.
  for (const char* closed : {"runs/toy", "runs/toy/checkpoints"}) {
    std::filesystem::create_directories(folder / "runs/toy/checkpoints");
    chmod(folder.path().c_str(), 0777);
    for (const char* open : {"runs", "runs/toy", "runs/toy/checkpoints"}) {
      chmod((folder / open).c_str(), 0777);
    }
    chmod((folder / closed).c_str(), 0555);
    const pid_t child = fork();
    if (child == 0) {
      if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(9);
      const Refusal read_only = refusal([&] { RunDir(run_in(folder / "runs"), "id"); });
      const bool named = read_only.message.find(folder / closed) != std::string::npos;
      _exit(read_only.code == ExitCode::kIo && named ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    chmod((folder / closed).c_str(), 0777);
    std::filesystem::remove(folder / "runs/toy/lock");
  }
}

TEST_CASE("run ids are long, hexadecimal, and different", "[run_dir]") {
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) ids.insert(make_run_id());
  CHECK(ids.size() == 100);
  for (const std::string& id : ids) {
    CHECK(id.size() == 32);
    CHECK(id.find_first_not_of("0123456789abcdef") == std::string::npos);
  }
}
