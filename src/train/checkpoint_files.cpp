#include "checkpoint_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "dsv/base/check_math.h"
#include "dsv/base/crc32c.h"
#include "dsv/base/error.h"
#include "dsv/base/log.h"
#include "dsv/train/checkpoint_layout.h"

namespace dsv::train {
namespace {

[[noreturn]] void fail(std::string_view operation, const std::string& path, int error) {
  throw_error(ExitCode::kIo, "[checkpoint] cannot {} '{}': {}", operation, path,
              std::strerror(error));
}

// Loops over short writes. A system may also take part of the bytes and fail the next call.
void write_all(int fd, const std::string& path, const char* data, std::int64_t size,
               const FaultSite& site) {
  while (size > 0) {
    std::int64_t ask = size;
    switch (const FaultAction action = fault_point("ckpt_write", site.rank, site.step); action) {
      case FaultAction::kShortWrite:
        ask = std::max<std::int64_t>(1, size / 3);
        break;
      case FaultAction::kEnospc:
      case FaultAction::kEio:
        // Half of the bytes arrive, as on a device that fills up or breaks.
        if (::write(fd, data, static_cast<std::size_t>(size / 2)) < 0) fail("write", path, errno);
        throw_if_fault(action, "write", path);
        break;
      default:
        break;
    }
    const ssize_t n = ::write(fd, data, static_cast<std::size_t>(ask));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write", path, errno);
    if (n == 0) fail("write", path, ENOSPC);
    data += n;
    size -= n;
  }
}

// "step_12" → 12. Only the spelling that step_name gives.
bool parse_step(std::string_view name, std::int64_t* step) {
  if (!name.starts_with("step_")) return false;
  const std::string_view digits = name.substr(5);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), *step);
  return error == std::errc() && end == digits.data() + digits.size() && *step >= 0 &&
         step_name(*step) == name;
}

}  // namespace

OpenFile::~OpenFile() {
  if (fd_ >= 0) ::close(fd_);
}

OpenFile::OpenFile(OpenFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

OpenFile& OpenFile::operator=(OpenFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

OpenFile OpenFile::for_reading(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for somebody to write into it.
  OpenFile file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), path);
  if (!file.is_open()) {
    if (errno == ENOENT) throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}' is missing", path);
    if (errno == ELOOP) {
      throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}' is a symbolic link, expected a file",
                  path);
    }
    fail("open", path, errno);
  }
  struct stat info {};
  if (::fstat(file.fd(), &info) != 0) fail("stat", path, errno);
  if (!S_ISREG(info.st_mode)) {
    throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}' is not a regular file", path);
  }
  return file;
}

void OpenFile::close() {
  if (::close(std::exchange(fd_, -1)) != 0) fail("close", path_, errno);
}

std::int64_t OpenFile::num_bytes() const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) fail("stat", path_, errno);
  return info.st_size;
}

void OpenFile::read_at(void* out, std::int64_t size, std::int64_t offset) const {
  char* to = static_cast<char*>(out);
  while (size > 0) {
    const ssize_t n =
        ::pread(fd_, to, static_cast<std::size_t>(std::min<std::int64_t>(size, 1 << 30)), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read", path_, errno);
    if (n == 0) {
      throw_error(ExitCode::kCorruptInput, "[checkpoint] '{}' ends at byte {}, expected {} more",
                  path_, offset, size);
    }
    to += n;
    offset += n;
    size -= n;
  }
}

std::vector<std::uint32_t> write_checked(const std::string& path, const void* data,
                                         std::int64_t size, const FaultSite& site) {
  throw_if_fault(fault_point("ckpt_open", site.rank, site.step), "create", path);
  OpenFile file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666),
                path);
  if (!file.is_open()) fail("create", path, errno);
  std::vector<std::uint32_t> crcs;
  crcs.reserve(static_cast<std::size_t>(ceil_div(size, kChunkBytes)));
  const char* at = static_cast<const char*>(data);
  for (std::int64_t done = 0; done < size; done += kChunkBytes) {
    const std::int64_t n = std::min(kChunkBytes, size - done);
    crcs.push_back(crc32c(at + done, static_cast<std::size_t>(n)));
    write_all(file.fd(), path, at + done, n, site);
  }
  throw_if_fault(fault_point("ckpt_fsync", site.rank, site.step), "sync", path);
  if (::fsync(file.fd()) != 0) fail("sync", path, errno);
  file.close();
  return crcs;
}

void check_chunk(const OpenFile& file, std::int64_t num_bytes, std::int64_t index,
                 std::uint32_t crc, std::vector<char>& buffer) {
  const std::int64_t offset = index * kChunkBytes;
  const std::int64_t size = std::min(kChunkBytes, num_bytes - offset);
  buffer.resize(static_cast<std::size_t>(kChunkBytes));
  file.read_at(buffer.data(), size, offset);
  const std::uint32_t found = crc32c(buffer.data(), static_cast<std::size_t>(size));
  if (found != crc) {
    throw_error(ExitCode::kCorruptInput,
                "[checkpoint] '{}': bytes [{}, {}) have CRC {:08x}, expected {:08x}", file.path(),
                offset, offset + size, found, crc);
  }
}

void forget_pages(const OpenFile& file) {
  ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
}

void throw_if_fault(FaultAction action, std::string_view operation, const std::string& path) {
  if (action == FaultAction::kEnospc) fail(operation, path, ENOSPC);
  if (action == FaultAction::kEio) fail(operation, path, EIO);
}

void make_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0777) != 0) fail("create folder", path, errno);
}

void sync_folder(const std::string& path) {
  const OpenFile folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), path);
  if (!folder.is_open()) fail("open folder", path, errno);
  // Some file systems have nothing to sync in a folder and say EINVAL.
  if (::fsync(folder.fd()) != 0 && errno != EINVAL) fail("sync folder", path, errno);
}

void rename_path(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    fail("rename to '" + to + "' the folder", from, errno);
}

bool exchange_paths(const std::string& a, const std::string& b) {
  return ::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

void remove_tree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error)
    throw_error(ExitCode::kIo, "[checkpoint] cannot remove '{}': {}", path, error.message());
}

std::int64_t free_bytes(const std::string& path) {
  struct statvfs info {};
  if (::statvfs(path.c_str(), &info) != 0) fail("ask for free space of", path, errno);
  if (info.f_blocks == 0) return INT64_MAX;
  std::int64_t bytes = 0;
  const bool fits = try_mul(static_cast<std::int64_t>(info.f_bavail),
                            static_cast<std::int64_t>(info.f_frsize), &bytes);
  return fits ? bytes : INT64_MAX;
}

CheckpointFolder list_checkpoints(const std::string& dir) {
  CheckpointFolder found;
  DIR* const handle = ::opendir(dir.c_str());
  if (handle == nullptr) {
    if (errno == ENOENT) return found;
    fail("list", dir, errno);
  }
  for (errno = 0; const dirent* entry = ::readdir(handle); errno = 0) {
    const std::string name = entry->d_name;
    const auto dot = name.find('.');
    std::int64_t step = 0;
    if (!parse_step(name.substr(0, dot), &step)) continue;
    if (dot == name.npos) {
      found.committed.emplace(step, name);
    } else if (name.compare(dot, 5, ".tmp-") == 0) {
      found.unfinished.push_back(name);
    } else if (name.compare(dot, 12, ".superseded-") == 0) {
      found.set_aside.push_back(name);
    }
  }
  const int error = errno;
  ::closedir(handle);
  if (error != 0) fail("list", dir, error);
  return found;
}

std::string step_name(std::int64_t step) {
  return "step_" + std::to_string(step);
}

std::string random_id() {
  std::uint64_t words[2] = {};
  if (::getrandom(words, sizeof(words), 0) != sizeof(words)) {
    throw_error(ExitCode::kEnvironment, "[checkpoint] the system gives no random bytes: {}",
                std::strerror(errno));
  }
  return format("{:016x}{:016x}", words[0], words[1]);
}

}  // namespace dsv::train
