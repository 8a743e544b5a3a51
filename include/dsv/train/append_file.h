// A file that grows by whole records while training runs: metrics and TensorBoard events.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dsv::train {

class AppendFile {
 public:
  // Creates the file when it is absent. Throws Error(kIo).
  explicit AppendFile(std::string path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  // Hands the record to the system in one piece; what a full disk takes of it only in part is
  // removed again. Never throws: a log must not end the training. False when the record is lost,
  // which is logged at the first of a row of losses.
  bool append(std::string_view record);
  std::int64_t num_lost() const { return num_lost_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_ = -1;
  std::int64_t num_lost_ = 0;
  bool is_losing_ = false;
};

}  // namespace dsv::train
