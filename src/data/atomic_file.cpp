#include "dsv/data/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "dsv/base/error.h"

namespace dsv::data {
namespace {

[[noreturn]] void fail(const char* action, const std::string& path, int error) {
  throw_error(ExitCode::kIo, "[file] cannot {} '{}': {}", action, path, std::strerror(error));
}

// Makes the rename itself durable. Some file systems refuse to sync a folder: not an error of ours.
void sync_folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  static std::atomic<unsigned> counter{0};
  temporary_path_ = format("{}.tmp-{}-{}", path_, static_cast<std::int64_t>(::getpid()), counter++);
  fd_ = ::open(temporary_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ < 0) fail("create", temporary_path_, errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_path_.c_str());
}

void AtomicFile::write(const void* data, std::int64_t size_bytes) {
  DSV_CHECK(fd_ >= 0, "[file] '{}' is already committed", path_);
  const char* at = static_cast<const char*>(data);
  std::int64_t left = size_bytes;
  while (left > 0) {
    const ssize_t n =
        ::write(fd_, at, static_cast<std::size_t>(std::min<std::int64_t>(left, 1 << 30)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write", temporary_path_, errno);
    at += n;
    left -= n;
  }
  size_bytes_ += size_bytes;
}

void AtomicFile::commit() {
  DSV_CHECK(fd_ >= 0, "[file] '{}' is already committed", path_);
  if (::fsync(fd_) != 0) fail("sync", temporary_path_, errno);
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) fail("rename to", path_, errno);
  ::close(fd_);
  fd_ = -1;
  sync_folder_of(path_);
}

void write_file_atomic(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string read_file(const std::string& path, std::int64_t max_bytes) {
  // O_NONBLOCK: opening a FIFO must not wait for somebody to write into it.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail("open", path, errno);
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } closer{fd};
  struct stat info {};
  if (::fstat(fd, &info) != 0) fail("stat", path, errno);
  if (!S_ISREG(info.st_mode)) {
    throw_error(ExitCode::kIo, "[file] '{}' is not a regular file", path);
  }
  if (info.st_size > max_bytes) {
    throw_error(ExitCode::kCorruptInput, "[file] '{}' has {} bytes, expected at most {}", path,
                static_cast<std::int64_t>(info.st_size), max_bytes);
  }
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::read(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read", path, errno);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  text.resize(done);
  return text;
}

}  // namespace dsv::data
