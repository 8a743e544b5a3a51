#include "checkpoint_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "checkpoint_agree.h"
#include "dsv/base/log.h"
#include "dsv/data/atomic_file.h"

namespace dsv::train {
namespace {

void probe(const std::string& dir, const std::string& token, int rank) {
  if (::access(token.c_str(), F_OK) != 0) {
    throw_error(
        ExitCode::kEnvironment,
        "[checkpoint] '{}' is not the folder that rank 0 sees: is it on a shared file system?",
        dir);
  }
  const std::string mine = token + '-' + std::to_string(rank);
  const Verdict written = attempt([&] { data::write_file_atomic(mine, "probe"); });
  ::unlink(mine.c_str());
  if (!written.ok()) {
    throw_error(ExitCode::kIo, "[checkpoint] cannot write in '{}': {}", dir, written.message);
  }
}

}  // namespace

OpenFile prepare_checkpoint_folder(const std::string& dir, comm::Communicator& comm) {
  const bool is_root = comm.rank() == 0;
  bool created = false;
  OpenFile lock;
  const std::string token =
      dir + '/' + comm.broadcast_bytes(is_root ? ".probe-" + random_id() : std::string(), 0);
  const Verdict made = attempt([&] {
    if (!is_root) return;
    std::error_code error;
    created = std::filesystem::create_directories(dir, error);
    if (error) {
      throw_error(ExitCode::kIo, "[checkpoint] cannot create folder '{}': {}", dir,
                  error.message());
    }
    const std::string path = dir + "/.lock";
    lock = OpenFile(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666), path);
    if (!lock.is_open()) {
      throw_error(ExitCode::kIo, "[checkpoint] cannot write in '{}': {}", dir,
                  std::strerror(errno));
    }
    if (::flock(lock.fd(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) {
        throw_error(ExitCode::kEnvironment,
                    "[checkpoint] another process saves checkpoints in '{}'", dir);
      }
      log_warn(
          "[checkpoint] '{}' cannot be locked ({}): nothing stops a second run from writing there",
          dir, std::strerror(errno));
    }
    data::write_file_atomic(token, "");
  });
  agree(comm, made).throw_if_failed();
  const Verdict probed = agree(comm, attempt([&] { probe(dir, token, comm.rank()); }));
  if (is_root) ::unlink(token.c_str());
  probed.throw_if_failed();
  const Verdict cleaned = attempt([&] {
    if (!is_root) return;
    for (const std::string& name : list_checkpoints(dir).unfinished) {
      log_warn("[checkpoint] removing {}/{}, left by a save that did not end", dir, name);
      remove_tree(dir + '/' + name);
    }
    for (const auto& entry : std::filesystem::directory_iterator(dir)) {
      if (entry.path().filename().string().starts_with(".probe-"))
        remove_tree(entry.path().string());
    }
    if (created) sync_folder(std::filesystem::absolute(dir).parent_path().string());
  });
  share(comm, cleaned, 0).throw_if_failed();
  return lock;
}

}  // namespace dsv::train
