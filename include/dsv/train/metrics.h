// metrics.jsonl: what training measured, one JSON object a line, as
// {"step":12,"kind":"train","loss":0.5}.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dsv/base/json.h"
#include "dsv/train/append_file.h"

namespace dsv::train {

class MetricsFile {
 public:
  // Opens or creates the file and removes what training is about to write again: records whose step
  // is at least first_new_step, lines torn by a crash, lines that are not records. Throws
  // Error(kIo).
  MetricsFile(const std::string& path, std::int64_t first_new_step);

  // Appends one line: step, kind ("train", "eval", …), then the members of the object `values`,
  // whose numbers may be NaN or infinite. Never throws for I/O; see AppendFile.
  void append(std::int64_t step, std::string_view kind, const Json& values);
  std::int64_t num_lost() const { return file_.num_lost(); }

 private:
  AppendFile file_;
};

struct MetricRecord {
  std::int64_t step = 0;
  std::string kind;
  Json values;  // the whole line
};

// The records of a file in its order; lines that are not records are left out and counted in a
// warning. Throws Error(kIo).
std::vector<MetricRecord> read_metrics(const std::string& path);

// A number of a record: JSON has no non-finite numbers, so these are the texts "NaN", "Infinity",
// "-Infinity". Throws Error(kCorruptInput) for anything else.
double metric_number(const Json& value);

}  // namespace dsv::train
