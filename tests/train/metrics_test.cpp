#include "dsv/train/metrics.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include <cmath>
#include <csignal>
#include <limits>

#include "support/catch.h"
#include "train/temporary_folder.h"

using namespace dsv;
using namespace dsv::train;
using test::read_text;
using test::TemporaryFolder;
using test::write_text;

namespace {

Json loss(double value) {
  Json values = Json::object();
  values.set("loss", value);
  return values;
}

std::vector<std::int64_t> steps_of(const std::string& path) {
  std::vector<std::int64_t> steps;
  for (const MetricRecord& record : read_metrics(path)) steps.push_back(record.step);
  return steps;
}

std::string line(int step) {
  return "{\"step\":" + std::to_string(step) + ",\"kind\":\"train\",\"loss\":0.5}\n";
}

std::string lines(int from, int to) {
  std::string out;
  for (int i = from; i < to; ++i) out += line(i);
  return out;
}

}  // namespace

TEST_CASE("metrics are lines of JSON, numbers to the bit", "[metrics]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  const double tenth = 0.1 + 1e-17, tiny = 4.9e-324;
  {
    MetricsFile file(path, 0);
    Json values = loss(tenth);
    values.set("tiny", tiny);
    values.set("tokens", std::int64_t{1} << 60);
    values.set("stage", "dense");
    file.append(1, "train", values);
    file.append(1, "eval", loss(-0.0));
  }
  CHECK(read_text(path).starts_with("{\"step\":1,\"kind\":\"train\",\"loss\":0.10000000000000002,"));
  const auto records = read_metrics(path);
  REQUIRE(records.size() == 2);
  CHECK(records[0].kind == "train");
  CHECK(records[0].values.at("loss").as_double() == tenth);
  CHECK(records[0].values.at("tiny").as_double() == tiny);
  CHECK(records[0].values.at("tokens").as_int() == std::int64_t{1} << 60);
  CHECK(records[1].kind == "eval");
  CHECK(std::signbit(records[1].values.at("loss").as_double()));
}

TEST_CASE("a record is in the file when append returns", "[metrics]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  MetricsFile file(path, 0);
  for (int i = 0; i < 10; ++i) {
    file.append(i, "train", loss(0.5));
    CHECK(read_text(path) == lines(0, i + 1));
  }
}

TEST_CASE("non-finite numbers are legal", "[metrics]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  const double infinity = std::numeric_limits<double>::infinity();
  {
    MetricsFile file(path, 0);
    file.append(0, "train", loss(std::nan("")));
    file.append(1, "train", loss(infinity));
    file.append(2, "train", loss(-infinity));
    file.append(3, "train", loss(2));
  }
  const auto records = read_metrics(path);
  REQUIRE(records.size() == 4);
  CHECK(std::isnan(metric_number(records[0].values.at("loss"))));
  CHECK(metric_number(records[1].values.at("loss")) == infinity);
  CHECK(metric_number(records[2].values.at("loss")) == -infinity);
  CHECK(metric_number(records[3].values.at("loss")) == 2);
  CHECK_THROWS_AS(metric_number(Json("fast")), Error);
  CHECK_THROWS_AS(metric_number(Json(true)), Error);
}

TEST_CASE("a resumed run writes no step twice", "[metrics]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  write_text(path, lines(0, 10));
  {
    MetricsFile file(path, 6);
    CHECK(read_text(path) == lines(0, 6));
    file.append(6, "train", loss(0.5));
  }
  CHECK(read_text(path) == lines(0, 7));
  MetricsFile(path, 100);  // nothing to remove
  CHECK(read_text(path) == lines(0, 7));
  MetricsFile(path, 0);
  CHECK(read_text(path).empty());
}

TEST_CASE("removed records may stand between kept ones", "[metrics]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  write_text(path, line(0) + line(7) + line(1) + line(8) + line(2));
  MetricsFile(path, 7);
  CHECK(read_text(path) == lines(0, 3));
}

TEST_CASE("a torn last line goes, whatever is left of it", "[metrics]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  const std::string whole = line(3);
  for (std::size_t size = 1; size < whole.size() - 1; ++size) {
    write_text(path, lines(0, 3) + whole.substr(0, size));
    CHECK(steps_of(path) == std::vector<std::int64_t>{0, 1, 2});
    MetricsFile file(path, 100);
    file.append(3, "train", loss(0.5));
    CHECK(read_text(path) == lines(0, 4));
  }
  // Complete but for its end.
  write_text(path, lines(0, 3) + whole.substr(0, whole.size() - 1));
  MetricsFile file(path, 100);
  file.append(4, "train", loss(0.5));
  CHECK(read_text(path) == lines(0, 5));
}

TEST_CASE("lines that are not records go", "[metrics]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  const std::string zeros(100, '\0');
  for (const std::string& bad :
       {std::string("\n"), std::string("text\n"), std::string("[1]\n"),
        std::string("{\"step\":1}\n"), std::string("{\"step\":\"1\",\"kind\":\"train\"}\n"),
        std::string("{\"step\":1.5,\"kind\":\"t\"}\n"),
        std::string("{\"step\":99999999999999999999,\"kind\":\"t\"}\n"), zeros + "\n", zeros,
        std::string(5000, '[') + "\n", std::string("{\"kind\":\"train\",\"loss\":1}\n")}) {
    write_text(path, line(0) + bad + (bad.ends_with("\n") ? line(1) : ""));
    MetricsFile file(path, 100);
    CHECK(read_text(path) == (bad.ends_with("\n") ? lines(0, 2) : lines(0, 1)));
  }
}

TEST_CASE("a name is given once in a record", "[metrics]") {
  const TemporaryFolder folder;
  MetricsFile file(folder / "metrics.jsonl", 0);
  Json values = Json::object();
  values.set("step", 3);
  CHECK_THROWS_WITH(file.append(1, "train", values), Contains("'step' is given twice"));
}

TEST_CASE("a metrics file that cannot be opened is an I/O error", "[metrics]") {
  const TemporaryFolder folder;
  for (const std::string& path : {folder / "absent/metrics.jsonl", folder.path()}) {
    try {
      MetricsFile file(path, 0);
      FAIL("opened " << path);
    } catch (const Error& e) {
      CHECK(e.code() == ExitCode::kIo);
      CHECK_THAT(e.what(), Contains(path));
    }
  }
}

// A limit on the size of files stands for a full disk: the write that crosses it is cut short.
TEST_CASE("a full disk loses whole records and nothing else", "[metrics]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit tight{3 * line(0).size() + 10, RLIM_INFINITY};
    const rlimit loose{RLIM_INFINITY, RLIM_INFINITY};
    MetricsFile file(path, 0);
    setrlimit(RLIMIT_FSIZE, &tight);
    for (int i = 0; i < 6; ++i) file.append(i, "train", loss(0.5));
    setrlimit(RLIMIT_FSIZE, &loose);
    file.append(6, "train", loss(0.5));
    _exit(file.num_lost() == 3 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(read_text(path) == lines(0, 3) + line(6));
}
