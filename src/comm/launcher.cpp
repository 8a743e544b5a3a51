#include "launcher.h"

#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "dsv/base/error.h"
#include "dsv/base/log.h"

namespace dsv::comm {
namespace {

std::optional<int> number(const GetEnv& get_env, const char* name) {
  const char* text = get_env(name);
  if (text == nullptr) return std::nullopt;
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stop != end) {
    throw_error(ExitCode::kEnvironment, "[launch] expected a number in {}, got '{}'", name, text);
  }
  return value;
}

// Seccomp profiles of containers forbid cross-memory reads; Open MPI then fails in the middle of a
// large message. Reading from ourselves is always allowed otherwise.
bool cross_memory_reads_work() {
  char from = 1, to = 0;
  const iovec local{.iov_base = &to, .iov_len = 1};
  const iovec remote{.iov_base = &from, .iov_len = 1};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

}  // namespace

Launcher find_launcher(const GetEnv& get_env) {
  if (const auto size = number(get_env, "OMPI_COMM_WORLD_SIZE")) {
    return {.found = true,
            .name = "Open MPI",
            .announced_ranks = *size,
            .local_ranks = number(get_env, "OMPI_COMM_WORLD_LOCAL_SIZE").value_or(1),
            .local_rank = number(get_env, "OMPI_COMM_WORLD_LOCAL_RANK").value_or(0)};
  }
  if (const auto size = number(get_env, "PMI_SIZE")) {
    return {.found = true, .name = "PMI", .announced_ranks = *size};
  }
  const int slurm_tasks = number(get_env, "SLURM_STEP_NUM_TASKS").value_or(0);
  if (get_env("PMIX_RANK") != nullptr) {
    return {.found = true,
            .name = slurm_tasks > 0 ? "Slurm with PMIx" : "PMIx",
            .announced_ranks = slurm_tasks};
  }
  if (slurm_tasks > 1) {
    throw_error(
        ExitCode::kEnvironment,
        "[launch] srun started {} tasks without MPI support, so each would train alone; use `srun "
        "--mpi=pmix` or mpirun",
        slurm_tasks);
  }
  return {};
}

void prepare_environment(const Launcher& launcher) {
  if (launcher.name != "Open MPI" || launcher.local_ranks < 2) return;
  const bool speaks = launcher.local_rank == 0;
  constexpr const char* kSingleCopy = "OMPI_MCA_btl_vader_single_copy_mechanism";
  if (std::getenv(kSingleCopy) == nullptr && !cross_memory_reads_work()) {
    setenv(kSingleCopy, "none", 0);
    if (speaks) {
      log_warn(
          "[launch] this container forbids cross-memory reads: using {}=none; `docker run "
          "--cap-add=SYS_PTRACE` allows them, which is faster for large messages",
          kSingleCopy);
    }
  }
  // A segment of 4 MiB per rank, and queues. With less Open MPI falls back to TCP.
  constexpr std::int64_t kShmPerRankBytes = std::int64_t{6} << 20;
  struct statvfs shm {};
  if (speaks && statvfs("/dev/shm", &shm) == 0) {
    const auto free_bytes = static_cast<std::int64_t>(shm.f_bavail * shm.f_frsize);
    const std::int64_t needed = kShmPerRankBytes * launcher.local_ranks;
    if (free_bytes < needed) {
      log_warn(
          "[launch] /dev/shm has {} MiB free, {} ranks need {} MiB for fast messages: start the "
          "container with `--shm-size=1g`",
          free_bytes >> 20, launcher.local_ranks, needed >> 20);
    }
  }
}

}  // namespace dsv::comm
