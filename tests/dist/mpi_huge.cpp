// Messages beyond the range of an int, on two or more ranks: 2.3 GB per rank. Skipped (77) where
// memory is short.
#include <cstdio>
#include <fstream>

#include "comm/contract.h"
#include "dsv/base/log.h"

namespace {

using namespace dsv::comm;
using contract::Counts;
using dsv::DType;
using dsv::Tensor;

constexpr std::int64_t kBytes = 2'300'000'004;  // above 2^31, a multiple of 4
constexpr std::int64_t kStride = 4093;          // one byte in so many is written and compared

std::int64_t available_bytes() {
  std::ifstream in("/proc/meminfo");
  std::string word;
  std::int64_t kib = 0;
  while (in >> word) {
    if (word == "MemAvailable:" && in >> kib) return kib << 10;
  }
  return 0;
}

// Bytes [begin, end) of x carry the pattern of `seed`.
void put(std::uint8_t* x, std::int64_t begin, std::int64_t end, std::uint64_t seed) {
  for (std::int64_t i = begin; i < end; i += kStride) x[i] = contract::pattern(seed, i - begin);
  x[end - 1] = contract::pattern(seed, end - 1 - begin);
}
void check(const std::uint8_t* x, std::int64_t begin, std::int64_t end, std::uint64_t seed,
           const char* what) {
  for (std::int64_t i = begin; i < end - 1; i += kStride) {
    CONTRACT_EXPECT(x[i] == contract::pattern(seed, i - begin), "{}: byte {}", what, i);
  }
  CONTRACT_EXPECT(x[end - 1] == contract::pattern(seed, end - 1 - begin), "{}: last byte", what);
}

void run(Communicator& comm) {
  const int P = comm.size(), me = comm.rank();
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(kBytes));
  std::uint8_t* x = bytes.data();
  const Tensor all(x, DType::kU8, {kBytes});

  Counts counts(static_cast<std::size_t>(P), 1000);
  counts[0] = 1'100'000'000;  // more than one piece, and uneven
  counts[static_cast<std::size_t>(P - 1)] = kBytes - counts[0] - 1000 * (P - 2);
  std::vector<std::int64_t> begin = {0};
  for (const std::int64_t c : counts) begin.push_back(begin.back() + c);
  const auto lo = [&](int p) { return begin[static_cast<std::size_t>(p)]; };
  put(x, lo(me), lo(me + 1), static_cast<std::uint64_t>(me));
  comm.all_gather_v(all.slice(0, lo(me), lo(me + 1)), all, counts);
  for (int p = 0; p < P; ++p)
    check(x, lo(p), lo(p + 1), static_cast<std::uint64_t>(p), "all_gather_v");

  if (me == P - 1) put(x, 0, kBytes, 77);
  comm.broadcast(all, P - 1);
  check(x, 0, kBytes, 77, "broadcast");

  // To the next rank, from the one before, within one buffer.
  const std::int64_t n = 1'120'000'001;
  Counts send(static_cast<std::size_t>(P), 0), receive = send;
  send[static_cast<std::size_t>((me + 1) % P)] = n;
  receive[static_cast<std::size_t>((me + P - 1) % P)] = n;
  put(x, 0, n, 100 + static_cast<std::uint64_t>(me));
  comm.all_to_all_v(all.slice(0, 0, n), send, all.slice(0, n, 2 * n), receive);
  check(x, n, 2 * n, 100 + static_cast<std::uint64_t>((me + P - 1) % P), "all_to_all_v");

  float* f = reinterpret_cast<float*>(x);
  const std::int64_t m = kBytes / 4;
  for (std::int64_t i = 0; i < m; ++i) f[i] = static_cast<float>((i % 1000) * (me + 1));
  comm.all_reduce(Tensor(f, DType::kF32, {m}));
  for (std::int64_t i = 0; i < m; ++i) {
    CONTRACT_EXPECT(f[i] == static_cast<float>((i % 1000) * P * (P + 1) / 2),
                    "all_reduce: element {}", i);
  }
}

}  // namespace

int main(int argc, char** argv) {
  MpiSession session(&argc, &argv);
  const auto world = session.world();
  world->set_checked(true);
  const bool enough = available_bytes() > (kBytes + (std::int64_t{1} << 30)) * world->size();
  if (world->all_reduce(std::int64_t{enough}, ReduceOp::kMin) == 0) {
    if (world->rank() == 0) std::printf("SKIPPED: too little memory for 2.3 GB per rank\n");
    return 77;
  }
  try {
    run(*world);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d of %d: %s\n", world->rank(), world->size(), e.what());
    session.abort(1);
  }
  return 0;
}
