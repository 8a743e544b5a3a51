#include "dsv/train/metrics.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>

#include "dsv/base/log.h"
#include "dsv/data/atomic_file.h"

namespace dsv::train {
namespace {

// A line as a record; nothing when it is not one.
std::optional<MetricRecord> parse_record(const std::string& line) {
  try {
    MetricRecord record;
    record.values = parse_json(line, "metrics", {.max_depth = 16, .max_bytes = 1u << 20});
    record.step = record.values.at("step").as_int();
    record.kind = record.values.at("kind").as_string();
    return record;
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::ifstream open_lines(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    throw_error(ExitCode::kIo, "[metrics] cannot read {}: {}", path, std::strerror(errno));
  }
  return in;
}

// The step of a line that append wrote, without the cost of parsing it; nothing for other lines.
std::optional<std::int64_t> quick_step(const std::string& line) {
  constexpr std::string_view kBegin = "{\"step\":";
  if (!line.starts_with(kBegin) || line.back() != '}') return std::nullopt;
  std::int64_t step = 0;
  const char* end = line.data() + line.size();
  const auto [next, error] = std::from_chars(line.data() + kBegin.size(), end, step);
  if (error != std::errc{} || *next != ',') return std::nullopt;
  return step;
}

enum class Fate { kKept, kOld, kDamaged };

// Of a line; the last one may lack its end.
Fate fate_of(const std::string& line, bool has_end, std::int64_t first_new_step) {
  std::optional<std::int64_t> step = has_end ? quick_step(line) : std::nullopt;
  if (!step) {
    const auto record = parse_record(line);
    if (!record) return Fate::kDamaged;
    step = record->step;
  }
  return *step < first_new_step ? Fate::kKept : Fate::kOld;
}

template <typename Action>
void for_each_line(const std::string& path, const Action& action) {
  std::ifstream in = open_lines(path);
  for (std::string line; std::getline(in, line);) action(line, !in.eof());
  if (in.bad()) throw_error(ExitCode::kIo, "[metrics] cannot read {}", path);
}

// Leaves nothing in the file that the run will write again.
std::string prepare(const std::string& path, std::int64_t first_new_step) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return path;
    throw_error(ExitCode::kIo, "[metrics] cannot read {}: {}", path, std::strerror(errno));
  }
  // Most often the kept lines are the file's first bytes as they stand; else it is written anew.
  bool is_prefix = true;
  std::int64_t kept_bytes = 0, num_old = 0, num_damaged = 0;
  for_each_line(path, [&](const std::string& line, bool has_end) {
    const Fate fate = fate_of(line, has_end, first_new_step);
    num_old += fate == Fate::kOld;
    num_damaged += fate == Fate::kDamaged;
    if (fate != Fate::kKept) return;
    is_prefix = is_prefix && num_old + num_damaged == 0 && has_end;
    kept_bytes += static_cast<std::int64_t>(line.size()) + 1;
  });
  if (num_damaged > 0) log_warn("[metrics] {}: damaged lines removed: {}", path, num_damaged);
  if (num_old > 0) {
    log_info("[metrics] {}: records removed: {}, from step {} on", path, num_old, first_new_step);
  }
  if (is_prefix) {
    if (kept_bytes < info.st_size && truncate(path.c_str(), kept_bytes) != 0) {
      throw_error(ExitCode::kIo, "[metrics] cannot shorten {}: {}", path, std::strerror(errno));
    }
    return path;
  }
  data::AtomicFile file(path);
  for_each_line(path, [&](const std::string& line, bool has_end) {
    if (fate_of(line, has_end, first_new_step) == Fate::kKept) file.write(line + "\n");
  });
  file.commit();
  return path;
}

}  // namespace

MetricsFile::MetricsFile(const std::string& path, std::int64_t first_new_step)
    : file_(prepare(path, first_new_step)) {}

void MetricsFile::append(std::int64_t step, std::string_view kind, const Json& values) {
  Json record = Json::object();
  record.set("step", step);
  record.set("kind", kind);
  for (const auto& [name, value] : values.as_object()) {
    DSV_CHECK(record.find(name) == nullptr, "[metrics] '{}' is given twice", name);
    record.as_object().emplace_back(name, value);
  }
  file_.append(record.dump() + "\n");
}

std::vector<MetricRecord> read_metrics(const std::string& path) {
  std::vector<MetricRecord> records;
  std::int64_t num_damaged = 0;
  for_each_line(path, [&](const std::string& line, bool) {
    auto record = parse_record(line);
    if (record) {
      records.push_back(std::move(*record));
    } else {
      ++num_damaged;
    }
  });
  if (num_damaged > 0) log_warn("[metrics] {}: damaged lines left out: {}", path, num_damaged);
  return records;
}

double metric_number(const Json& value) {
  if (value.is_number()) return value.as_double();
  const std::string& text = value.as_string();
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  throw_error(ExitCode::kCorruptInput, "[metrics] expected a number, got '{}'", text);
}

}  // namespace dsv::train
