#include "dsv/train/progress.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "dsv/base/format.h"
#include "support/catch.h"
#include "train/temporary_folder.h"

using namespace dsv;
using namespace dsv::train;
using test::read_text;
using test::TemporaryFolder;

namespace {

// A progress of 100 steps on a file, with a clock that the test sets.
struct Bench {
  explicit Bench(ProgressMode mode, std::int64_t steps_done = 0, int columns = 0)
      : fd(open((folder / "out").c_str(), O_WRONLY | O_CREAT, 0644)),
        progress({.mode = mode,
                  .name = "toy",
                  .steps_done = steps_done,
                  .num_steps = 100,
                  .fd = fd,
                  .clock_seconds = [this] { return now; },
                  .columns = columns}) {}
  ~Bench() { close(fd); }
  std::string text() const { return read_text(folder / "out"); }

  TemporaryFolder folder;
  double now = 1000;
  int fd;
  Progress progress;
};

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

}  // namespace

TEST_CASE("durations", "[progress]") {
  CHECK(duration_text(0) == "0:00");
  CHECK(duration_text(59.6) == "1:00");
  CHECK(duration_text(754) == "12:34");
  CHECK(duration_text(3 * 3600 + 25 * 60 + 45) == "3:25:45");
  CHECK(duration_text(4 * 86400 + 3 * 3600 + 25 * 60) == "4 d 03:25");
  CHECK(duration_text(-1) == "?");
  CHECK(duration_text(1e300) == "?");
}

TEST_CASE("the time left follows the speed, not the slow first step", "[progress]") {
  Bench bench(ProgressMode::kLines);
  bench.now += 60;  // warm-up
  bench.progress.update(1, "loss 1");
  CHECK(bench.progress.line() == "toy 1/100  1 %  60.00 s/step  ETA 1:39:00  loss 1");
  for (int step = 2; step <= 51; ++step) {
    bench.now += 2;
    bench.progress.update(step, "loss 1");
  }
  bench.now += 200;  // an output is due
  bench.progress.update(51, "loss 0.5");
  CHECK(bench.progress.line() == "toy 51/100  51 %  2.00 s/step  ETA 1:38  loss 0.5");
}

TEST_CASE("a resumed run does not count steps that were done before", "[progress]") {
  Bench bench(ProgressMode::kLines, 90);
  bench.now += 5;
  bench.progress.update(91, "");
  CHECK_THAT(bench.progress.line(), Contains("5.00 s/step  ETA 0:45"));
}

TEST_CASE("elsewhere than on a terminal, lines come at growing intervals", "[progress]") {
  Bench bench(ProgressMode::kAuto);
  for (int step = 1; step <= 100; ++step) {
    bench.now += 5;
    bench.progress.update(step, "loss 1");
  }
  const std::string text = bench.text();
  CHECK(text.starts_with("toy 1/100 "));
  CHECK_THAT(text, Contains("toy 100/100  100 %  5.00 s/step  took 8:20  loss 1\n"));
  const std::size_t num_lines = count(text, "\n");
  CHECK(num_lines > 10);
  CHECK(num_lines < 40);
  CHECK(count(text, "\r") + count(text, "\x1b") == 0);
}

TEST_CASE("the bar is redrawn in place and fits the terminal", "[progress]") {
  Bench bench(ProgressMode::kBar, 0, 60);
  for (int step = 1; step <= 100; ++step) {
    bench.now += step % 2 == 0 ? 0.01 : 0.5;  // two steps within a tenth of a second: drawn once
    bench.progress.update(step, "loss 0.123456  a status too long for the terminal ☃☃☃☃☃☃☃☃☃☃");
  }
  const std::string text = bench.text();
  CHECK(count(text, "\r") == 51);
  CHECK(count(text, "\n") == 1);
  CHECK(text.ends_with("\r\n"));
  CHECK_THAT(text, Contains("\x1b[Ktoy 51/100 [==========>         ]  51 %"));
  CHECK_THAT(text, Contains("toy 100/100 [====================]  100 %"));
  std::size_t at = 0;
  for (auto end = text.find('\r'); end != std::string::npos; end = text.find('\r', at)) {
    int columns = 0;
    for (std::size_t i = at + 3; i < end; ++i) columns += (text[i] & 0xc0) != 0x80;
    CHECK(columns <= 59);
    at = end + 1;
  }
}

TEST_CASE("a bar that is cut short leaves the line", "[progress]") {
  const TemporaryFolder folder;
  const int fd = open((folder / "out").c_str(), O_WRONLY | O_CREAT, 0644);
  {
    Progress progress({.mode = ProgressMode::kBar, .name = "toy", .num_steps = 3, .fd = fd});
    progress.update(1, "");
  }
  CHECK(read_text(folder / "out").ends_with("\r\n"));
  close(fd);
}

TEST_CASE("off shows nothing", "[progress]") {
  Bench bench(ProgressMode::kOff);
  bench.progress.update(1, "");
  bench.progress.update(100, "");
  CHECK(bench.text().empty());
}

TEST_CASE("closed streams and stopped readers do not matter", "[progress]") {
  Progress closed({.mode = ProgressMode::kLines, .num_steps = 1, .fd = 1000});
  closed.update(1, "");

  int ends[2];
  REQUIRE(pipe(ends) == 0);
  Progress full({.mode = ProgressMode::kBar,
                 .num_steps = 100'000,
                 .fd = ends[1],
                 .clock_seconds = [n = 0.0]() mutable { return n += 1; }});
  for (int step = 1; step < 10'000; ++step) full.update(step, "nobody reads this");  // returns
  close(ends[0]);
  const auto previous = std::signal(SIGPIPE, SIG_IGN);
  full.update(10'000, "");
  std::signal(SIGPIPE, previous);
  close(ends[1]);
}

TEST_CASE("closed standard streams are taken by /dev/null", "[progress]") {
  const TemporaryFolder folder;
  const pid_t child = fork();
  if (child == 0) {
    for (int fd = 0; fd <= 2; ++fd) close(fd);
    secure_standard_streams();
    const int file = open((folder / "state").c_str(), O_WRONLY | O_CREAT, 0644);
    const bool safe = file > 2 && write(2, "message", 7) == 7 && write(1, "message", 7) == 7;
    int ends[2];
    const bool piped = pipe(ends) == 0 && close(ends[0]) == 0 && write(ends[1], "x", 1) == -1;
    _exit(safe && piped ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(read_text(folder / "state").empty());
}
