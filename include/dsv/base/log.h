// Logging: "[tag] message" lines on stderr; rank 0 unless asked. spdlog is hidden in log.cpp.
#pragma once

#include <string_view>

#include "dsv/base/format.h"

namespace dsv {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

// Sets what this process prints. `rank` is shown in front of lines when world_size > 1; ranks other
// than 0 print warnings and errors only, unless all_ranks. Thread-safe after the first call.
void configure_logging(LogLevel level, int rank, int world_size, bool all_ranks);
// While a progress bar stands on the terminal's last line: messages erase it and take its place.
void erase_line_before_messages(bool erase);
bool log_enabled(LogLevel level);
void log_line(LogLevel level, std::string_view message);

template <typename... Args>
void log_debug(std::string_view pattern, const Args&... args) {
  if (log_enabled(LogLevel::kDebug)) log_line(LogLevel::kDebug, format(pattern, args...));
}
template <typename... Args>
void log_info(std::string_view pattern, const Args&... args) {
  if (log_enabled(LogLevel::kInfo)) log_line(LogLevel::kInfo, format(pattern, args...));
}
template <typename... Args>
void log_warn(std::string_view pattern, const Args&... args) {
  if (log_enabled(LogLevel::kWarn)) log_line(LogLevel::kWarn, format(pattern, args...));
}
template <typename... Args>
void log_error(std::string_view pattern, const Args&... args) {
  if (log_enabled(LogLevel::kError)) log_line(LogLevel::kError, format(pattern, args...));
}

}  // namespace dsv
