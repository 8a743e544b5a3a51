// What checkpoints ask of the file system: checked bytes in and out, names of folders, free space.
// Failures throw Error(kIo) with the path and the system's reason.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv/train/fault.h"

namespace dsv::train {

// A file descriptor and the path it came from, for messages.
class OpenFile {
 public:
  OpenFile() = default;
  OpenFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~OpenFile();
  OpenFile(OpenFile&& other) noexcept;
  OpenFile& operator=(OpenFile&& other) noexcept;

  // A regular file that is not a link; nothing else is opened for reading.
  static OpenFile for_reading(const std::string& path);

  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  std::int64_t num_bytes() const;
  // Network file systems report failed writes as late as here.
  void close();
  // Exactly `size` bytes at `offset`; the end of the file before that is an error.
  void read_at(void* out, std::int64_t size, std::int64_t offset) const;

 private:
  int fd_ = -1;
  std::string path_;
};

// Who writes, for fault points.
struct FaultSite {
  int rank = 0;
  std::int64_t step = 0;
};

// Creates `path`, writes `size` bytes, syncs and closes it; returns the CRC of each chunk, taken
// from `data`, not from the file.
std::vector<std::uint32_t> write_checked(const std::string& path, const void* data,
                                         std::int64_t size, const FaultSite& site);

// Reads chunk `index` of a file of `num_bytes` bytes and compares. Throws Error(kCorruptInput)
// naming the bytes that differ. `buffer` is scratch.
void check_chunk(const OpenFile& file, std::int64_t num_bytes, std::int64_t index,
                 std::uint32_t crc, std::vector<char>& buffer);

// Drops the file's pages from memory, so that what is read next comes from the device.
void forget_pages(const OpenFile& file);

// The error of a fault, as the system call at this place would give it.
void throw_if_fault(FaultAction action, std::string_view operation, const std::string& path);

void make_folder(const std::string& path);  // fails when it exists
void sync_folder(const std::string& path);
void rename_path(const std::string& from, const std::string& to);
// Swaps two paths in one step; false where the file system cannot.
bool exchange_paths(const std::string& a, const std::string& b);
void remove_tree(const std::string& path);         // nothing there is no error
std::int64_t free_bytes(const std::string& path);  // INT64_MAX where the file system does not say

// What lies in a folder of checkpoints.
struct CheckpointFolder {
  std::map<std::int64_t, std::string> committed;  // step → "step_N"; may still be damaged
  std::vector<std::string> unfinished;            // "step_N.tmp-…": of saves that died
  std::vector<std::string> set_aside;             // "step_N.superseded-…"
};
CheckpointFolder list_checkpoints(const std::string& dir);  // empty when dir does not exist

std::string step_name(std::int64_t step);  // "step_12"
std::string random_id();                   // 32 hex digits

}  // namespace dsv::train
