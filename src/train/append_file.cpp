#include "dsv/train/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "dsv/base/error.h"
#include "dsv/base/log.h"

namespace dsv::train {

AppendFile::AppendFile(std::string path) : path_(std::move(path)) {
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    throw_error(ExitCode::kIo, "[log] cannot open {} for writing: {}", path_, std::strerror(errno));
  }
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) close(fd_);
}

bool AppendFile::append(std::string_view record) {
  struct stat before {};
  const bool known = fstat(fd_, &before) == 0;
  std::size_t done = 0;
  int error = 0;
  while (done < record.size()) {
    const ssize_t written = write(fd_, record.data() + done, record.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      error = written < 0 ? errno : ENOSPC;
      break;
    }
    done += static_cast<std::size_t>(written);
  }
  if (error == 0) {
    is_losing_ = false;
    return true;
  }
  if (done > 0 && (!known || ftruncate(fd_, before.st_size) != 0)) {
    log_warn("[log] {} ends in part of a record", path_);
  }
  ++num_lost_;
  if (!is_losing_) log_warn("[log] cannot write to {}: {}", path_, std::strerror(error));
  is_losing_ = true;
  return false;
}

}  // namespace dsv::train
