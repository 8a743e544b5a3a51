// The contract suite with tensors on GPUs, and what only NCCL can get wrong: mpirun -n N
// nccl_contract [case…], one GPU per rank. Exit code 0 when all ranks passed all cases, 77 without
// enough GPUs.
#include <algorithm>
#include <cstdio>

#include "comm/contract.h"
#include "comm/hosted_communicator.h"
#include "dist/gpu_ranks.h"
#include "dsv/base/log.h"

namespace {

using namespace contract;
using dsv::comm::MpiSession;

// What a case may use; every case makes communicators of its own.
struct Bench {
  MpiSession& session;
  Gpu& gpu;

  std::unique_ptr<Communicator> world(bool deterministic = true) {
    auto host = session.world();
    host->set_checked(true);
    return make_nccl(std::move(host), gpu.stream(), {.deterministic = deterministic});
  }
};

std::vector<float> parts_of(int rank, std::int64_t n, std::uint64_t seed) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    x[static_cast<std::size_t>(i)] = part_of<float>(rank, i, seed);
  }
  return x;
}

// In ascending rank order, as often as it is asked, below and above the size at which all_reduce
// changes its steps, and where shares are uneven.
void same_bits(Bench& bench) {
  const auto world = bench.world();
  for (const std::int64_t n : {1'000, 131'072, 1'000'003, 4'194'304, 20'000'000}) {
    const auto mine = parts_of(world->rank(), n, 5);
    std::vector<float> expected = parts_of(0, n, 5);
    for (int p = 1; p < world->size(); ++p) {
      const auto part = parts_of(p, n, 5);
      for (std::size_t i = 0; i < part.size(); ++i) expected[i] += part[i];
    }
    const Tensor input = bench.gpu.upload(mine, DType::kF32);
    const Tensor x = bench.gpu.empty({n});
    for (int i = 0; i < (n > 10'000'000 ? 5 : 100); ++i) {
      dsv::transfer(input, x, bench.gpu.stream());
      world->all_reduce(x);
      const auto got = bench.gpu.download<float>(x);
      CONTRACT_EXPECT(std::memcmp(got.data(), expected.data(), 4 * got.size()) == 0,
                      "{} elements, call {}: bits differ from a sum in rank order", n, i);
    }
  }
}

// Many calls on several groups whose members overlap, without waiting in between.
void overlapping_groups(Bench& bench) {
  const auto world = bench.world();
  const int P = world->size(), me = world->rank();
  std::vector<std::unique_ptr<Communicator>> groups;
  for (int cp = 1; cp <= P; ++cp) {
    if (P % cp != 0) continue;
    dsv::comm::Mesh mesh = dsv::comm::make_mesh(world->split(0, 0), P / cp, cp);
    groups.push_back(std::move(mesh.world));
    groups.push_back(std::move(mesh.dp));
    groups.push_back(std::move(mesh.cp));
  }
  groups.push_back(world->split(0, -me));  // the same ranks, from the last to the first

  constexpr int kRounds = 20;
  constexpr std::int64_t kElements = 100'000;
  std::vector<Tensor> sums, sent, received;
  std::vector<std::int64_t> expected_sums;
  for (const auto& group : groups) {
    sums.push_back(bench.gpu.upload(std::vector<std::int64_t>(kElements, me + 1), DType::kI64));
    sent.push_back(bench.gpu.upload(std::vector<std::int32_t>(kElements, me), DType::kI32));
    received.push_back(bench.gpu.empty({kElements}, DType::kI32));
    std::int64_t members = 0;
    for (const std::string& r : group->all_gather_bytes(std::to_string(me))) {
      members += std::stoi(r) + 1;
    }
    for (int round = 1; round < kRounds; ++round) members *= group->size();  // wraps for no P ≤ 8
    expected_sums.push_back(members);
  }
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t g = 0; g < groups.size(); ++g) {
      Communicator& group = *groups[g];
      group.all_reduce(sums[g]);
      const int next = (group.rank() + 1) % group.size();
      const int previous = (group.rank() + group.size() - 1) % group.size();
      Counts to(static_cast<std::size_t>(group.size()), 0), from = to;
      to[static_cast<std::size_t>(next)] = from[static_cast<std::size_t>(previous)] = kElements;
      group.all_to_all_v(sent[g], to, received[g], from);
      std::swap(sent[g], received[g]);
    }
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    Communicator& group = *groups[g];
    for (const std::int64_t x : bench.gpu.download<std::int64_t>(sums[g])) {
      CONTRACT_EXPECT(x == expected_sums[g], "group {}: sum {}, expected {}", group.name(), x,
                      expected_sums[g]);
    }
    // After kRounds steps around the ring, the data of the rank that many places before.
    const auto ranks = group.all_gather_bytes(std::to_string(me));
    const int source = ((group.rank() - kRounds) % group.size() + group.size()) % group.size();
    const int expected = std::stoi(ranks[static_cast<std::size_t>(source)]);
    for (const std::int32_t x : bench.gpu.download<std::int32_t>(sent[g])) {
      CONTRACT_EXPECT(x == expected, "group {}: data of rank {}, expected {}", group.name(), x,
                      expected);
    }
  }
}

// NCCL's own sums: right to rounding, and the same on all ranks. A NaN still wins a minimum.
void fast_sums(Bench& bench) {
  const auto world = bench.world(false);
  const int P = world->size(), me = world->rank();
  for (const std::int64_t n : {0, 1, 1'000, 1'000'003, 8'000'000}) {
    const Tensor x = bench.gpu.upload(parts_of(me, n, 6), DType::kF32);
    world->all_reduce(x);
    const auto got = bench.gpu.download<float>(x);
    for (std::int64_t i = me; i < n; i += P) {
      double sum = 0, size = 0;
      for (int p = 0; p < P; ++p) {
        const double part = part_of<float>(p, i, 6);
        sum += part;
        size += std::abs(part);
      }
      CONTRACT_EXPECT(std::abs(got[static_cast<std::size_t>(i)] - sum) <= 1e-6 * size,
                      "element {} of {}: expected {}, got {}", i, n, sum,
                      got[static_cast<std::size_t>(i)]);
    }
    expect_same_on_all_ranks(*world, got.data(), 4 * n, "all_reduce");
  }
  for (const bool even : {true, false}) {
    Counts counts;
    for (int p = 0; p < P; ++p) counts.push_back(even ? 100'000 : 1000 * p);
    const std::int64_t own = counts[static_cast<std::size_t>(me)];
    const Tensor in = bench.gpu.upload(parts_of(me, sum(counts), 7), DType::kF32);
    const Tensor out = bench.gpu.empty({own});
    world->reduce_scatter_v(in, out, counts);
    const auto got = bench.gpu.download<float>(out);
    std::int64_t begin = 0;
    for (int p = 0; p < me; ++p) begin += counts[static_cast<std::size_t>(p)];
    for (std::int64_t i = 0; i < own; ++i) {
      double sum = 0, size = 0;
      for (int p = 0; p < P; ++p) {
        const double part = part_of<float>(p, begin + i, 7);
        sum += part;
        size += std::abs(part);
      }
      CONTRACT_EXPECT(std::abs(got[static_cast<std::size_t>(i)] - sum) <= 1e-6 * size,
                      "element {}: expected {}, got {}", i, sum, got[static_cast<std::size_t>(i)]);
    }
  }
  std::vector<float> values = {1, static_cast<float>(me), 3};
  if (me == P - 1) values[0] = std::numeric_limits<float>::quiet_NaN();
  const Tensor x = bench.gpu.upload(values, DType::kF32);
  world->all_reduce(x, ReduceOp::kMin);
  const auto got = bench.gpu.download<float>(x);
  CONTRACT_EXPECT(std::isnan(got[0]) && got[1] == 0 && got[2] == 3, "minimum {}, {}, {}", got[0],
                  got[1], got[2]);
}

// Calls come back before the work is done, and the log says what the device is still at.
void enqueued(Bench& bench) {
  const auto world = bench.world();
  const std::int64_t n = 64 << 20;
  const Tensor x =
      bench.gpu.upload(std::vector<float>(static_cast<std::size_t>(n), 1), DType::kF32);
  bench.gpu.wait();
  const double before = world->stats().seconds;
  dsv::StreamTimer timer(bench.gpu.stream());
  timer.start();
  for (int i = 0; i < 5; ++i) world->all_reduce(x, ReduceOp::kMax);
  const dsv::comm::LastOp op = world->last_op();
  CONTRACT_EXPECT(op.queued && !op.running && std::string(op.op) == "all_reduce", "{}",
                  to_string(op));
  const double enqueue = world->stats().seconds - before;
  const double device = timer.stop();
  dsv::log_info("[contract] 5 all_reduce of 256 MiB: {:.2f} ms to enqueue, {:.2f} ms on the device",
                1e3 * enqueue, 1e3 * device);
  if (world->size() > 1) CONTRACT_EXPECT(enqueue < device, "{} s, {} s", enqueue, device);
  for (const float v : bench.gpu.download<float>(x)) CONTRACT_EXPECT(v == 1, "{}", v);
  world->throw_if_failed();
}

// Two ranks on the first GPU: refused on all ranks, before NCCL is asked.
void one_gpu_for_two(Bench& bench) {
  if (bench.session.local_size() == 1) return;
  Gpu first(0);
  const std::string text = expect_error(dsv::ExitCode::kConfig,
                                        [&] { make_nccl(bench.session.world(), first.stream()); });
  CONTRACT_EXPECT(text.find("ranks 0 and 1 use the same GPU, cuda:0 of host ") != std::string::npos,
                  "{}", text);
  Gpu own(bench.session.local_rank());  // makes it current again
}

struct GpuCase {
  const char* name;
  void (*run)(Bench&);
};
constexpr GpuCase kCases[] = {{"same bits", same_bits},
                              {"overlapping groups", overlapping_groups},
                              {"fast sums", fast_sums},
                              {"enqueued", enqueued},
                              {"one GPU for two", one_gpu_for_two}};

}  // namespace

int main(int argc, char** argv) {
  MpiSession session(&argc, &argv);
  const auto host = session.world();
  dsv::configure_logging(dsv::LogLevel::kDebug, host->rank(), host->size(), false);
  if (!have_gpus(*host, session.local_size())) return 77;

  Gpu gpu(session.local_rank());
  Bench bench{session, gpu};
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  int num_run = 0;
  const auto run = [&](const char* name, const std::function<void()>& body) {
    if (!wanted.empty() && std::count(wanted.begin(), wanted.end(), name) == 0) return;
    try {
      body();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "rank %d of %d, case %s: %s\n", host->rank(), host->size(), name,
                   e.what());
      session.abort(1);
    }
    ++num_run;
  };
  {
    const HostedMemory memory{
        .allocate = [&](std::int64_t n) { return gpu.empty({n}, DType::kU8); },
        .copy = [&](const Tensor& from, const Tensor& to) { gpu.copy(from, to); }};
    HostedCommunicator world(bench.world(), memory);
    CONTRACT_EXPECT(std::string(world.backend_name()) == "nccl", "{}", world.backend_name());
    for (const Case& c : cases()) run(c.name, [&] { c.run(world); });
  }
  for (const GpuCase& c : kCases) run(c.name, [&] { c.run(bench); });
  dsv::log_info("[contract] {} cases passed on {} ranks (nccl)", num_run, host->size());
  return num_run > 0 ? 0 : 2;
}
