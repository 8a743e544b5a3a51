#include "dsv/comm/stop_request.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace dsv::comm {
namespace {

// The state of a process, because signals go to processes.
// A signal may arrive on any thread: lock-free atomics are what a handler may share with threads.
std::atomic<bool> stop_flag{false};
std::atomic<pid_t> parent_pid{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<pid_t>::is_always_lock_free);

void on_stop(int, siginfo_t*, void*) {
  stop_flag = true;
}

void on_continue(int, siginfo_t* info, void*) {
  if (info->si_pid == parent_pid) stop_flag = true;
}

void install(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  // Restart: a read of a training shard must not fail because someone asked to stop.
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(signal, &action, nullptr) != 0) {
    throw_error(ExitCode::kEnvironment, "[stop] cannot handle signal {}: {}", signal,
                std::strerror(errno));
  }
}

bool launcher_sends_continue() {
  const char* forwards = std::getenv("OMPI_MCA_orte_forward_job_control");
  const bool job_control = forwards != nullptr && std::strcmp(forwards, "0") != 0;
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr && !job_control;
}

}  // namespace

void install_stop_handlers() {
  parent_pid = getppid();
  install(SIGTERM, on_stop);
  install(SIGUSR1, on_stop);
  if (launcher_sends_continue()) install(SIGCONT, on_continue);
  signal(SIGPIPE, SIG_IGN);
}

bool stop_requested() {
  return stop_flag;
}

bool stop_requested_anywhere(Communicator& world) {
  return world.all_reduce(std::int64_t{stop_requested()}, ReduceOp::kMax) != 0;
}

void request_stop() {
  stop_flag = true;
}
void clear_stop_request() {
  stop_flag = false;
}

}  // namespace dsv::comm
