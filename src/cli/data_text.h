// What `dsv data` shows: progress while it works, results as text.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "dsv/base/json.h"
#include "dsv/data/encoder.h"
#include "dsv/data/shard_check.h"

namespace dsv::cli {

// One updating line with the time left on a terminal, a line every ten seconds elsewhere; on
// stderr.
class WorkProgress {
 public:
  explicit WorkProgress(std::string name);
  ~WorkProgress();  // leaves the cursor on a new line
  WorkProgress(const WorkProgress&) = delete;
  WorkProgress& operator=(const WorkProgress&) = delete;

  // `done` of `total` `unit`, with `status` behind. Work that an earlier run did counts in `done`
  // and is named in `done_before`, so that it does not flatter the speed.
  void update(std::int64_t done, std::int64_t total, const std::string& unit,
              const std::string& status, std::int64_t done_before = 0);

 private:
  std::string name_;
  bool is_terminal_;
  bool is_drawn_ = false;
  std::chrono::steady_clock::time_point begin_, next_output_;
};

// While it lives, the first Ctrl-C or SIGTERM is a request to stop in good order; the second ends
// the process.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;
  bool requested() const;
};

std::string encode_text(const data::EncodeReport& report, const std::string& out);
std::string check_text(const data::CheckReport& report, const std::string& folder);
Json check_json(const data::CheckReport& report);
std::string stats_text(const Json& summary, const std::string& folder);

}  // namespace dsv::cli
