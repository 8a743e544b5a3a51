#include "dsv/train/run_dir.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <random>
#include <sstream>

#include "dsv/base/json.h"
#include "dsv/base/log.h"
#include "dsv/data/atomic_file.h"
#include "dsv/train/config_io.h"

namespace dsv::train {
namespace {

[[noreturn]] void io_error(const std::string& action, const std::string& path, int error) {
  throw_error(ExitCode::kIo, "[run] cannot {} {}: {}", action, path, std::strerror(error));
}

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

// When a process began, in the kernel's ticks: tells it from a later one with the same pid. 0 when
// there is no such process, or no /proc.
std::int64_t start_ticks(std::int64_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(in, text)) return 0;
  const auto name_end = text.rfind(')');  // the name may hold spaces and parentheses
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 21; ++i) fields >> field;
  std::int64_t ticks = 0;
  fields >> ticks;
  return ticks;
}

struct Holder {
  std::int64_t pid = 0;
  std::int64_t ticks = 0;
  std::string host, run_id;

  std::string text() const { return format("process {} on {}, run {}", pid, host, run_id); }
};

// What a lock says of its holder; nothing when it was never written in full.
std::optional<Holder> read_holder(int fd) {
  char buffer[4096];
  const ssize_t size = pread(fd, buffer, sizeof(buffer), 0);
  if (size <= 0) return std::nullopt;
  try {
    const Json json = parse_json({buffer, static_cast<std::size_t>(size)}, "lock");
    return Holder{json.at("pid").as_int(), json.at("start_ticks").as_int(),
                  json.at("host").as_string(), json.at("run_id").as_string()};
  } catch (const Error&) {
    return std::nullopt;
  }
}

bool is_alive(const Holder& holder) {
  if (holder.pid <= 0 || holder.pid > std::numeric_limits<pid_t>::max()) return false;
  const bool exists = kill(static_cast<pid_t>(holder.pid), 0) == 0 || errno == EPERM;
  const std::int64_t ticks = exists ? start_ticks(holder.pid) : 0;
  return exists && (ticks == 0 || holder.ticks == 0 || ticks == holder.ticks);
}

[[noreturn]] void refuse(const std::string& path, const std::optional<Holder>& holder,
                         std::string_view hint) {
  throw_error(ExitCode::kEnvironment, "[run] {} is held by {}: another job writes to this folder{}",
              path, holder ? holder->text() : "a process that is starting", hint);
}

// The file that is locked may have been removed by its last holder in the meantime.
bool is_still_at(int fd, const std::string& path) {
  struct stat opened {
  }, named{};
  return fstat(fd, &opened) == 0 && stat(path.c_str(), &named) == 0 &&
         opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

// Returns the file, locked by flock where the file system knows flock, with no living holder.
int acquire(const std::string& path) {
  constexpr int kAttempts = 100;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) io_error("open", path, errno);
    const bool locked = flock(fd, LOCK_EX | LOCK_NB) == 0;
    const bool is_busy = !locked && errno == EWOULDBLOCK;
    const std::optional<Holder> holder = read_holder(fd);
    if (!is_busy && !is_still_at(fd, path)) {
      close(fd);
      continue;
    }
    const bool is_foreign = holder && holder->host != host_name();
    if (is_busy || is_foreign || (holder && is_alive(*holder))) {
      close(fd);
      refuse(path, holder,
             is_foreign && !is_busy ? "; if that job has ended, remove the file" : "");
    }
    if (holder) {
      log_info("[run] {} was left by {}, which is gone: taken over", path, holder->text());
    }
    return fd;
  }
  throw_error(ExitCode::kEnvironment, "[run] {} changes hands all the time", path);
}

void write_holder(int fd, const std::string& path, const std::string& run_id) {
  Json json = Json::object();
  json.set("pid", static_cast<std::int64_t>(getpid()));
  json.set("host", host_name());
  json.set("run_id", run_id);
  json.set("start_ticks", start_ticks(getpid()));
  const std::string text = json.dump() + "\n";
  const auto size = static_cast<ssize_t>(text.size());
  if (ftruncate(fd, 0) != 0 || pwrite(fd, text.data(), text.size(), 0) != size || fsync(fd) != 0) {
    const int error = errno;
    unlink(path.c_str());
    close(fd);
    io_error("write", path, error);
  }
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) io_error("make the folder", path, error.value());
}

void probe(const std::string& folder) {
  const std::string path = folder + "/.probe-" + std::to_string(getpid());
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) io_error("write to", folder, errno);
  const std::string block(4096, '\0');
  const bool written =
      write(fd, block.data(), block.size()) == static_cast<ssize_t>(block.size()) && fsync(fd) == 0;
  const int error = errno;
  close(fd);
  unlink(path.c_str());
  if (!written) io_error("write to", folder, error);
}

// Folders first, so that the lock has a place; members are made in this order.
const RunPaths& with_folders(const RunPaths& paths) {
  make_folder(paths.root);
  return paths;
}

}  // namespace

std::string make_run_id() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) id += format("{:08x}", static_cast<std::uint32_t>(random()));
  return id;
}

RunLock::RunLock(std::string path, const std::string& run_id) : path_(std::move(path)) {
  fd_ = acquire(path_);
  write_holder(fd_, path_, run_id);
}

RunLock::~RunLock() {
  // Removed while still held: nobody can take a file that is about to go.
  if (is_still_at(fd_, path_)) unlink(path_.c_str());
  close(fd_);
}

RunDir::RunDir(const RunConfig& run, const std::string& run_id)
    : paths_(with_folders(RunPaths(run))), lock_(paths_.lock(), run_id) {
  for (const std::string& folder : {paths_.tensorboard(), paths_.samples(), paths_.checkpoints()}) {
    make_folder(folder);
    probe(folder);
  }
  probe(paths_.root);
}

void RunDir::write_config(const Config& config) const {
  data::write_file_atomic(paths_.config(), dump_config(config));
}

}  // namespace dsv::train
