// How long collectives take on GPUs, for docs/distributed.md: mpirun -n N nccl_speed. Best of 20,
// after five that do not count; bytes are of one rank's input.
#include <cstdio>

#include "dist/gpu_ranks.h"
#include "dsv/base/log.h"

namespace {

using namespace contract;

double best_seconds(Communicator& world, Gpu& gpu, const std::function<void()>& call) {
  dsv::StreamTimer timer(gpu.stream());
  double best = 1e9;
  for (int i = 0; i < 25; ++i) {
    world.barrier();
    timer.start();
    call();
    const double seconds = timer.stop();
    if (i >= 5) best = std::min(best, seconds);
  }
  return world.all_reduce(best, ReduceOp::kMax);
}

}  // namespace

int main(int argc, char** argv) {
  dsv::comm::MpiSession session(&argc, &argv);
  const auto host = session.world();
  dsv::configure_logging(dsv::LogLevel::kDebug, host->rank(), host->size(), false);
  if (!have_gpus(*host, session.local_size())) return 77;
  Gpu gpu(session.local_rank());
  const auto ordered = make_nccl(session.world(), gpu.stream());
  const auto fast = make_nccl(session.world(), gpu.stream(), {.deterministic = false});
  const auto even = [&](std::int64_t n) {
    return Counts(static_cast<std::size_t>(host->size()), n / host->size());
  };
  if (host->rank() == 0) {
    std::printf("%12s | %s\n", "bytes",
                "us: all_reduce ordered, NCCL | reduce_scatter ordered, NCCL | all_gather | "
                "all_to_all");
  }
  for (std::int64_t bytes = 1 << 12; bytes <= 1 << 30; bytes *= 4) {
    const std::int64_t n = bytes / 4 / host->size() * host->size();
    const Counts counts = even(n);
    const Tensor a = gpu.empty({n}), b = gpu.empty({n});
    gpu.wait();
    const Tensor part = b.slice(0, 0, counts[0]);
    const auto time = [&](const std::function<void()>& call) {
      return 1e6 * best_seconds(*host, gpu, call);
    };
    const double us[] = {
        time([&] { ordered->all_reduce(a); }),
        time([&] { fast->all_reduce(a); }),
        time([&] { ordered->reduce_scatter_v(a, part, counts); }),
        time([&] { fast->reduce_scatter_v(a, part, counts); }),
        time([&] { ordered->all_gather_v(part, a, counts); }),
        time([&] { ordered->all_to_all_v(a, counts, b, counts); }),
    };
    if (host->rank() != 0) continue;
    std::printf("%12lld |", static_cast<long long>(bytes));
    for (const double x : us) std::printf(" %10.1f", x);
    std::printf("\n");
    std::fflush(stdout);
  }
  return 0;
}
