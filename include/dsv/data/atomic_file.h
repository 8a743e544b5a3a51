// Files that are either complete or absent: written aside, synced, renamed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dsv::data {

// Writes PATH.tmp-PID-N; commit() syncs it, renames it to PATH and syncs the folder. Without commit
// the destructor removes it. Failures throw Error(kIo) with the path and the system's reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::int64_t size_bytes);
  void write(std::string_view text) { write(text.data(), static_cast<std::int64_t>(text.size())); }
  void commit();
  std::int64_t size_bytes() const { return size_bytes_; }

 private:
  std::string path_;
  std::string temporary_path_;
  int fd_ = -1;
  std::int64_t size_bytes_ = 0;
};

void write_file_atomic(const std::string& path, std::string_view text);

// The whole regular file; Error(kIo) when it cannot be read, Error(kCorruptInput) when it is larger
// than max_bytes (checked before anything is allocated).
std::string read_file(const std::string& path, std::int64_t max_bytes);

}  // namespace dsv::data
