#include "dsv/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>

namespace dsv {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarn: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
    case LogLevel::kOff: return spdlog::level::off;
  }
  return spdlog::level::info;
}

// The process-wide sink is the one piece of state here: a log has one destination per process.
spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = spdlog::stderr_color_mt("dsv");
    made->set_pattern("%^%L%$ %H:%M:%S %v");
    return made;
  }();
  return *instance;
}

// What lines look like: two settings made by different callers.
class Pattern {
 public:
  void set_words(std::string words) {
    const std::lock_guard<std::mutex> guard(mutex_);
    words_ = std::move(words);
    apply();
  }
  void set_erase(bool erase) {
    const std::lock_guard<std::mutex> guard(mutex_);
    erase_ = erase;
    apply();
  }

 private:
  void apply() { logger().set_pattern((erase_ ? "\r\x1b[K" : "") + words_); }
  std::mutex mutex_;
  std::string words_ = "%^%L%$ %H:%M:%S %v";
  bool erase_ = false;
};

Pattern& pattern() {
  static Pattern instance;
  return instance;
}

}  // namespace

void configure_logging(LogLevel level, int rank, int world_size, bool all_ranks) {
  const bool quiet = rank != 0 && !all_ranks && level < LogLevel::kWarn;
  logger().set_level(to_spdlog(quiet ? LogLevel::kWarn : level));
  const std::string prefix = world_size > 1 ? format("%^%L%$ %H:%M:%S [rank {}] %v", rank)
                                            : std::string("%^%L%$ %H:%M:%S %v");
  pattern().set_words(prefix);
}

void erase_line_before_messages(bool erase) { pattern().set_erase(erase); }

bool log_enabled(LogLevel level) { return logger().should_log(to_spdlog(level)); }

void log_line(LogLevel level, std::string_view message) {
  logger().log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
}

}  // namespace dsv
