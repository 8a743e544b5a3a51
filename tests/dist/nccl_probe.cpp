// A small job on GPUs and one misbehaviour by name, for fault_test.sh: mpirun -n N nccl_probe
// BEHAVIOUR DIR. As dist_probe, with steps of all_reduce on the device. Exit code 77 without enough
// GPUs.
#include <dirent.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <set>
#include <thread>

#include "dist/gpu_ranks.h"
#include "dsv/base/log.h"
#include "dsv/comm/watchdog.h"

namespace {

using namespace dsv::comm;
using namespace std::chrono_literals;
using contract::Gpu;
using dsv::Tensor;

std::set<int> open_files() {
  std::set<int> files;
  DIR* dir = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(dir)) files.insert(std::atoi(entry->d_name));
  closedir(dir);
  return files;
}

class Job {
 public:
  Job(MpiSession& session, std::string behaviour, std::string dir)
      : session_(session), behaviour_(std::move(behaviour)), dir_(std::move(dir)) {}

  int run() {
    auto host = session_.world();
    host->set_checked(false);  // ranks are to wait on the device, not for the headers of calls
    is_odd_one_ = host->rank() == host->size() - 1;
    std::ofstream(dsv::format("{}/pid.{}", dir_, host->rank())) << getpid() << std::endl;
    Gpu gpu(behaviour_ == "same-gpu" ? 0 : session_.local_rank());
    files_before_ = open_files();
    const auto world = make_nccl(std::move(host), gpu.stream());
    dsv::WatchdogConfig limits;
    limits.init_seconds = limits.step_seconds = 4;
    Watchdog dog(limits, *world);
    const Tensor x = gpu.upload(std::vector<float>(4 << 20, 1), dsv::DType::kF32);
    for (int step = 0; step < 200; ++step) {
      dog.beat(step == 0 ? Phase::kFirstStep : Phase::kStep, step, "probe");
      if (step == 5) misbehave(*world, x);
      for (int i = 0; i < 10; ++i) world->all_reduce(x, ReduceOp::kMax);
      gpu.wait();
      world->throw_if_failed();
      std::this_thread::sleep_for(10ms);
    }
    return 1;
  }

 private:
  void misbehave(Communicator& world, const Tensor& x) {
    if (behaviour_ == "throw") {  // a collective is under way that the others never join
      if (!is_odd_one_) std::this_thread::sleep_for(1h);
      world.all_reduce(x);
      dsv::throw_error(dsv::ExitCode::kNonFinite, "[probe] a rank fails");
    }
    if (!is_odd_one_) return;
    if (behaviour_ == "kill") {
      for (int i = 0; i < 20; ++i) world.all_reduce(x);
      raise(SIGKILL);
    }
    if (behaviour_ == "freeze") raise(SIGSTOP);
    if (behaviour_ == "sleep") std::this_thread::sleep_for(1h);
    if (behaviour_ == "network") {
      for (const int file : open_files()) {
        if (files_before_.count(file) == 0) shutdown(file, SHUT_RDWR);  // not those of MPI
      }
    }
  }

  MpiSession& session_;
  std::string behaviour_;
  std::string dir_;
  bool is_odd_one_ = false;
  std::set<int> files_before_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: nccl_probe BEHAVIOUR DIR\n");
    return 2;
  }
  try {
    MpiSession session(&argc, &argv);
    const auto host = session.world();
    dsv::configure_logging(dsv::LogLevel::kInfo, host->rank(), host->size(), false);
    const bool shared = std::string(argv[1]) == "same-gpu";
    if (!contract::have_gpus(*host, shared ? 1 : session.local_size())) return 77;
    try {
      return Job(session, argv[1], argv[2]).run();
    } catch (const dsv::Error& e) {
      dsv::log_error("{}", e.what());
      session.abort(static_cast<int>(e.code()));
    }
  } catch (const dsv::Error& e) {
    dsv::log_error("{}", e.what());
    return static_cast<int>(e.code());
  }
}
