// The communicator contract as code: the same cases run on every backend, on any number of ranks.
// Each rank calls run(comm) on a thread or process of its own; a violated expectation throws, so no
// test framework is needed on the ranks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>

#include "dsv/base/crc32c.h"
#include "dsv/comm/communicator.h"
#include "dsv/comm/mesh.h"

namespace contract {

using dsv::DType;
using dsv::Shape;
using dsv::Tensor;
using dsv::comm::Communicator;
using dsv::comm::ReduceOp;
using Counts = std::vector<std::int64_t>;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

#define CONTRACT_EXPECT(condition, ...)                                                    \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      throw contract::Failure(dsv::format("contract.h:{}: `{}`: ", __LINE__, #condition) + \
                              dsv::format(__VA_ARGS__));                                   \
    }                                                                                      \
  } while (false)

// Host memory with guard bytes behind it, filled with garbage first: reads of what was never
// written and writes past the end show.
class Buffer {
 public:
  Buffer(const Shape& shape, DType dtype)
      : num_bytes_(shape.num_elements() * dsv::size_of(dtype)),
        bytes_(std::make_shared<std::vector<std::uint8_t>>(
            static_cast<std::size_t>(num_bytes_ + kGuard), 0xcc)),
        tensor_(bytes_->data(), dtype, shape, {}, bytes_) {}
  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }  // NOLINT: a buffer is passed as its tensor
  std::uint8_t* bytes() { return bytes_->data(); }
  std::int64_t num_bytes() const { return num_bytes_; }
  void check_guard() const {
    for (std::int64_t i = 0; i < kGuard; ++i) {
      CONTRACT_EXPECT((*bytes_)[static_cast<std::size_t>(num_bytes_ + i)] == 0xcc,
                      "byte {} behind a buffer of {} bytes was written", i, num_bytes_);
    }
  }

 private:
  static constexpr std::int64_t kGuard = 64;
  std::int64_t num_bytes_;
  std::shared_ptr<std::vector<std::uint8_t>> bytes_;
  Tensor tensor_;
};

inline std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
inline std::uint8_t pattern(std::uint64_t seed, std::int64_t i) {
  const std::uint64_t x =
      (seed * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(i)) * 0xd1342543de82ef95u;
  return static_cast<std::uint8_t>(x >> 56);
}
// Magnitudes from 2^-12 to 2^12 and both signs: sums depend on their order.
inline double value(int rank, std::int64_t i, std::uint64_t seed) {
  const std::uint64_t bits =
      mix((seed + static_cast<std::uint64_t>(rank) * 7919u) * 0x9e3779b97f4a7c15u +
          static_cast<std::uint64_t>(i));
  const std::uint64_t exponent = 1023 - 12 + bits % 25;
  return __builtin_bit_cast(double, (bits & 0x800fffffffffffffu) | (exponent << 52));
}

inline std::int64_t sum(const Counts& counts) {
  std::int64_t n = 0;
  for (const std::int64_t c : counts) n += c;
  return n;
}

// Runs `call`, which must throw Error(code); returns the message.
inline std::string expect_error(dsv::ExitCode code, const std::function<void()>& call) {
  try {
    call();
  } catch (const dsv::Error& e) {
    CONTRACT_EXPECT(e.code() == code, "expected exit code {}, got {}: {}", static_cast<int>(code),
                    static_cast<int>(e.code()), e.what());
    return e.what();
  }
  CONTRACT_EXPECT(false, "expected an error with exit code {}, got none", static_cast<int>(code));
  return {};
}

inline void expect_same_on_all_ranks(Communicator& comm, const void* data, std::int64_t num_bytes,
                                     const char* what) {
  const std::uint32_t crc = dsv::crc32c(data, static_cast<std::size_t>(num_bytes));
  const std::vector<std::string> all = comm.all_gather_bytes(std::to_string(crc));
  for (const std::string& other : all) {
    CONTRACT_EXPECT(other == all[0], "{}: ranks hold different bits", what);
  }
}

// ---- moves ------------------------------------------------------------------------------------

constexpr DType kAllDTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF64,
                                DType::kI64, DType::kI32,  DType::kU32, DType::kU8};

// Rank p's part holds pattern(seed + p).
inline void check_all_gather(Communicator& comm, const Counts& counts, std::int64_t width,
                             DType dtype, bool in_place, std::uint64_t seed) {
  const std::int64_t row_bytes = width * dsv::size_of(dtype);
  const std::int64_t own_rows = counts[static_cast<std::size_t>(comm.rank())];
  Buffer out({sum(counts), width}, dtype);
  Buffer apart({own_rows, width}, dtype);
  std::int64_t begin = 0;
  for (int p = 0; p < comm.rank(); ++p) begin += counts[static_cast<std::size_t>(p)];
  const Tensor in = in_place ? out.tensor().slice(0, begin, begin + own_rows) : apart.tensor();
  auto* bytes = static_cast<std::uint8_t*>(in.raw());
  for (std::int64_t i = 0; i < in.num_bytes(); ++i) {
    bytes[i] = pattern(seed + static_cast<std::uint64_t>(comm.rank()), i);
  }
  const auto before = comm.stats();
  comm.all_gather_v(in, out, counts);
  const auto after = comm.stats();
  const std::uint8_t* got = out.bytes();
  for (int p = 0; p < comm.size(); ++p) {
    for (std::int64_t i = 0; i < counts[static_cast<std::size_t>(p)] * row_bytes; ++i, ++got) {
      CONTRACT_EXPECT(*got == pattern(seed + static_cast<std::uint64_t>(p), i),
                      "byte {} of rank {}'s part", i, p);
    }
  }
  out.check_guard();
  CONTRACT_EXPECT(after.bytes_sent - before.bytes_sent == (comm.size() - 1) * own_rows * row_bytes,
                  "sent");
  CONTRACT_EXPECT(
      after.bytes_received - before.bytes_received == (sum(counts) - own_rows) * row_bytes,
      "received");
  CONTRACT_EXPECT(after.num_calls - before.num_calls == 1, "calls");
}

// rows(p, q): what p sends to q, filled with pattern(seed + p·size + q).
inline void check_all_to_all(Communicator& comm, const std::function<std::int64_t(int, int)>& rows,
                             std::int64_t width, DType dtype, std::uint64_t seed) {
  const int me = comm.rank(), n = comm.size();
  const std::int64_t row_bytes = width * dsv::size_of(dtype);
  Counts send, receive;
  for (int p = 0; p < n; ++p) {
    send.push_back(rows(me, p));
    receive.push_back(rows(p, me));
  }
  const auto seed_of = [&](int from, int to) {
    return seed + static_cast<std::uint64_t>(from * n + to);
  };
  Buffer in({sum(send), width}, dtype), out({sum(receive), width}, dtype);
  std::uint8_t* put = in.bytes();
  for (int p = 0; p < n; ++p) {
    for (std::int64_t i = 0; i < rows(me, p) * row_bytes; ++i) *put++ = pattern(seed_of(me, p), i);
  }
  const auto before = comm.stats();
  comm.all_to_all_v(in, send, out, receive);
  const auto after = comm.stats();
  const std::uint8_t* got = out.bytes();
  for (int p = 0; p < n; ++p) {
    for (std::int64_t i = 0; i < rows(p, me) * row_bytes; ++i, ++got) {
      CONTRACT_EXPECT(*got == pattern(seed_of(p, me), i), "byte {} from rank {}", i, p);
    }
  }
  out.check_guard();
  CONTRACT_EXPECT(after.bytes_sent - before.bytes_sent == (sum(send) - rows(me, me)) * row_bytes,
                  "sent");
  CONTRACT_EXPECT(
      after.bytes_received - before.bytes_received == (sum(receive) - rows(me, me)) * row_bytes,
      "received");
}

inline void check_broadcast(Communicator& comm, std::int64_t n, DType dtype, int root,
                            std::uint64_t seed) {
  Buffer data({n}, dtype);
  if (comm.rank() == root) {
    for (std::int64_t i = 0; i < data.num_bytes(); ++i) data.bytes()[i] = pattern(seed, i);
  }
  const auto before = comm.stats();
  comm.broadcast(data, root);
  const auto after = comm.stats();
  for (std::int64_t i = 0; i < data.num_bytes(); ++i) {
    CONTRACT_EXPECT(data.bytes()[i] == pattern(seed, i), "byte {} from root {}", i, root);
  }
  data.check_guard();
  const bool is_root = comm.rank() == root;
  CONTRACT_EXPECT(
      after.bytes_sent - before.bytes_sent == (is_root ? (comm.size() - 1) * data.num_bytes() : 0),
      "sent");
  CONTRACT_EXPECT(after.bytes_received - before.bytes_received == (is_root ? 0 : data.num_bytes()),
                  "received");
}

inline void moves(Communicator& comm) {
  const int n = comm.size();
  std::uint64_t seed = 1;
  for (const DType dtype : kAllDTypes) {
    for (const bool in_place : {false, true}) {
      Counts even, uneven, last_only, none;
      for (int p = 0; p < n; ++p) {
        even.push_back(5);
        uneven.push_back((p * 7 + 3) % 5);  // zero on some ranks
        last_only.push_back(p == n - 1 ? 3 : 0);
        none.push_back(0);
      }
      for (const Counts& counts : {even, uneven, last_only, none}) {
        check_all_gather(comm, counts, 3, dtype, in_place, seed += 100);
      }
    }
    check_all_to_all(
        comm, [](int, int) { return 2; }, 3, dtype, seed += 100);
    check_all_to_all(
        comm, [](int p, int q) { return (p * 3 + q * 5) % 4; }, 5, dtype, seed += 100);
    check_all_to_all(
        comm, [](int p, int q) { return p == 0 ? q + 1 : 0; }, 1, dtype, seed += 100);
    check_all_to_all(
        comm, [](int p, int q) { return p == q ? 4 : 0; }, 2, dtype, seed += 100);
    check_all_to_all(
        comm, [](int, int) { return 0; }, 2, dtype, seed += 100);
    for (int root = 0; root < n; ++root) {
      for (const std::int64_t size : {0, 1, 1000})
        check_broadcast(comm, size, dtype, root, seed += 100);
    }
  }
  // Rows of no bytes.
  check_all_gather(comm, Counts(static_cast<std::size_t>(n), 2), 0, DType::kF32, false, 1);
}

// ---- reductions -------------------------------------------------------------------------------

template <typename T>
T combine(ReduceOp op, T a, T b) {
  if (op == ReduceOp::kMin) return std::min(a, b);
  if (op == ReduceOp::kMax) return std::max(a, b);
  return static_cast<T>(a + b);
}

// part(0) ∘ part(1) ∘ … in ascending rank order.
template <typename T, typename Part>
T reduce_by_hand(int num_ranks, ReduceOp op, const Part& part) {
  T out = part(0);
  for (int p = 1; p < num_ranks; ++p) out = combine<T>(op, out, part(p));
  return out;
}

template <typename T>
T part_of(int rank, std::int64_t i, std::uint64_t seed) {
  return static_cast<T>(std::is_unsigned_v<T> ? std::abs(value(rank, i, seed))
                                              : value(rank, i, seed));
}

// Bit for bit what a loop in ascending rank order gives; the ranks share the work of checking.
// Returns how many sums a descending loop would have got differently.
template <typename T>
std::int64_t check_all_reduce(Communicator& comm, std::int64_t n, DType dtype, ReduceOp op,
                              std::uint64_t seed) {
  const std::int64_t P = comm.size(), r = comm.rank();
  Buffer data({n}, dtype);
  T* x = reinterpret_cast<T*>(data.bytes());
  for (std::int64_t i = 0; i < n; ++i) x[i] = part_of<T>(comm.rank(), i, seed);
  const auto before = comm.stats();
  comm.all_reduce(data.tensor(), op);
  const auto after = comm.stats();
  std::int64_t num_order_dependent = 0;
  for (std::int64_t i = r; i < n; i += P) {
    const auto part = [&](int p) { return part_of<T>(p, i, seed); };
    const T up = reduce_by_hand<T>(comm.size(), op, part);
    const T down =
        reduce_by_hand<T>(comm.size(), op, [&](int p) { return part(comm.size() - 1 - p); });
    num_order_dependent += up != down;
    CONTRACT_EXPECT(std::memcmp(&x[i], &up, sizeof(T)) == 0,
                    "element {} of {}: expected {}, got {}", i, n, up, x[i]);
  }
  data.check_guard();
  expect_same_on_all_ranks(comm, x, data.num_bytes(), "all_reduce");
  const std::int64_t own = (n / P + (r < n % P ? 1 : 0)) * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t moved = data.num_bytes() - own + (P - 1) * own;
  CONTRACT_EXPECT(after.bytes_sent - before.bytes_sent == moved, "sent");
  CONTRACT_EXPECT(after.bytes_received - before.bytes_received == moved, "received");
  return num_order_dependent;
}

template <typename T>
void check_reduce_scatter(Communicator& comm, const Counts& counts, std::int64_t width, DType dtype,
                          std::uint64_t seed) {
  Buffer in({sum(counts), width}, dtype);
  const std::int64_t own = counts[static_cast<std::size_t>(comm.rank())];
  Buffer out({own, width}, dtype);
  T* x = reinterpret_cast<T*>(in.bytes());
  for (std::int64_t i = 0; i < sum(counts) * width; ++i) x[i] = part_of<T>(comm.rank(), i, seed);
  std::int64_t begin = 0;
  for (int p = 0; p < comm.rank(); ++p) begin += counts[static_cast<std::size_t>(p)] * width;
  const auto before = comm.stats();
  comm.reduce_scatter_v(in, out, counts);
  const auto after = comm.stats();
  const T* y = reinterpret_cast<const T*>(out.bytes());
  for (std::int64_t i = 0; i < own * width; ++i) {
    const T expected = reduce_by_hand<T>(comm.size(), ReduceOp::kSum,
                                         [&](int p) { return part_of<T>(p, begin + i, seed); });
    CONTRACT_EXPECT(std::memcmp(&y[i], &expected, sizeof(T)) == 0,
                    "element {}: expected {}, got {}", i, expected, y[i]);
  }
  out.check_guard();
  for (std::int64_t i = 0; i < sum(counts) * width; ++i) {
    CONTRACT_EXPECT(x[i] == part_of<T>(comm.rank(), i, seed), "input element {} was changed", i);
  }
  CONTRACT_EXPECT(after.bytes_sent - before.bytes_sent == in.num_bytes() - out.num_bytes(), "sent");
  CONTRACT_EXPECT(
      after.bytes_received - before.bytes_received == (comm.size() - 1) * out.num_bytes(),
      "received");
}

inline void reductions(Communicator& comm) {
  const int P = comm.size();
  std::uint64_t seed = 7;
  std::int64_t num_order_dependent = 0;
  for (const std::int64_t n : {0, 1, 2, 3, 5, 1000, 1024, 1025, 4097, 20000}) {
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax}) {
      num_order_dependent += check_all_reduce<float>(comm, n, DType::kF32, op, ++seed);
      num_order_dependent += check_all_reduce<double>(comm, n, DType::kF64, op, ++seed);
      check_all_reduce<std::int32_t>(comm, n, DType::kI32, op, ++seed);
      check_all_reduce<std::int64_t>(comm, n, DType::kI64, op, ++seed);
      check_all_reduce<std::uint32_t>(comm, n, DType::kU32, op, ++seed);
    }
  }
  // Otherwise this case would also pass on a backend that sums in any order.
  CONTRACT_EXPECT((num_order_dependent > 0) == (P > 2), "{} sums depend on order",
                  num_order_dependent);

  Counts even, uneven, first_only, none;
  for (int p = 0; p < P; ++p) {
    even.push_back(4);
    uneven.push_back((p * 5 + 2) % 4);
    first_only.push_back(p == 0 ? 9 : 0);
    none.push_back(0);
  }
  for (const Counts& counts : {even, uneven, first_only, none}) {
    for (const std::int64_t width : {1, 3, 1000}) {
      check_reduce_scatter<float>(comm, counts, width, DType::kF32, ++seed);
      check_reduce_scatter<double>(comm, counts, width, DType::kF64, ++seed);
      check_reduce_scatter<std::int64_t>(comm, counts, width, DType::kI64, ++seed);
    }
  }

  // NaN on the last rank reaches every rank, in a minimum too.
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax}) {
    Buffer data({3}, DType::kF32);
    for (int i = 0; i < 3; ++i) data.tensor().f32()[i] = static_cast<float>(comm.rank() + i);
    if (comm.rank() == P - 1) data.tensor().f32()[1] = std::numeric_limits<float>::quiet_NaN();
    comm.all_reduce(data.tensor(), op);
    CONTRACT_EXPECT(std::isnan(data.tensor().f32()[1]), "NaN was lost");
    CONTRACT_EXPECT(!std::isnan(data.tensor().f32()[0]) && !std::isnan(data.tensor().f32()[2]),
                    "NaN spread");
  }
}

inline void scalars(Communicator& comm) {
  const int P = comm.size();
  const auto part = [](int p) { return value(p, 11, 5); };
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax}) {
    const double got = comm.all_reduce(part(comm.rank()), op);
    const double expected = reduce_by_hand<double>(P, op, part);
    CONTRACT_EXPECT(std::memcmp(&got, &expected, sizeof(double)) == 0, "expected {}, got {}",
                    expected, got);
  }
  const std::int64_t big = (std::int64_t{1} << 60) + comm.rank();
  CONTRACT_EXPECT(comm.all_reduce(big, ReduceOp::kMax) == (std::int64_t{1} << 60) + P - 1,
                  "i64 maximum");
  CONTRACT_EXPECT(comm.all_reduce(std::int64_t{comm.rank()}, ReduceOp::kSum) == P * (P - 1) / 2,
                  "i64 sum");
  // A tensor of no dims is one element.
  Buffer scalar(Shape{}, DType::kF64);
  *scalar.tensor().f64() = part(comm.rank());
  comm.all_reduce(scalar.tensor());
  CONTRACT_EXPECT(*scalar.tensor().f64() == reduce_by_hand<double>(P, ReduceOp::kSum, part),
                  "0-dim sum");
}

inline void messages(Communicator& comm) {
  const auto message = [](int p, std::int64_t size) {
    std::string s(static_cast<std::size_t>(size), '\0');
    for (std::size_t i = 0; i < s.size(); ++i)
      s[i] =
          static_cast<char>(pattern(static_cast<std::uint64_t>(p), static_cast<std::int64_t>(i)));
    return s;
  };
  // Around the size that still travels in one exchange, and one long message among empty ones.
  const std::function<std::int64_t(int)> sizes[] = {
      [](int) { return 0; },
      [](int) { return 56; },
      [](int) { return 57; },
      [](int p) { return p; },
      [](int p) { return 50 + 3 * p; },
      [](int p) { return p == 0 ? 100000 : 0; },
  };
  for (const auto& size : sizes) {
    const auto before = comm.stats();
    const std::vector<std::string> all =
        comm.all_gather_bytes(message(comm.rank(), size(comm.rank())));
    const auto after = comm.stats();
    CONTRACT_EXPECT(static_cast<int>(all.size()) == comm.size(), "{} messages", all.size());
    std::int64_t received = 0;
    for (int p = 0; p < comm.size(); ++p) {
      CONTRACT_EXPECT(all[static_cast<std::size_t>(p)] == message(p, size(p)), "message of rank {}",
                      p);
      if (p != comm.rank()) received += size(p);
    }
    CONTRACT_EXPECT(after.bytes_sent - before.bytes_sent == (comm.size() - 1) * size(comm.rank()),
                    "sent");
    CONTRACT_EXPECT(after.bytes_received - before.bytes_received == received, "received");
  }
  for (int root = 0; root < comm.size(); ++root) {
    CONTRACT_EXPECT(comm.broadcast_bytes(message(comm.rank(), 1000), root) == message(root, 1000),
                    "root {}", root);
  }
}

// ---- groups -----------------------------------------------------------------------------------

inline void expect_members(Communicator& group, int world_rank, const std::vector<int>& expected) {
  const std::vector<std::string> all = group.all_gather_bytes(std::to_string(world_rank));
  CONTRACT_EXPECT(all.size() == expected.size(), "group of {}, expected {}", all.size(),
                  expected.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    CONTRACT_EXPECT(all[i] == std::to_string(expected[i]), "member {} is rank {}", i, all[i]);
  }
  CONTRACT_EXPECT(expected[static_cast<std::size_t>(group.rank())] == world_rank, "rank {}",
                  group.rank());
}

inline void groups(Communicator& comm) {
  const int P = comm.size(), me = comm.rank();
  const auto ranks_where = [&](const std::function<bool(int)>& in) {
    std::vector<int> out;
    for (int p = 0; p < P; ++p)
      if (in(p)) out.push_back(p);
    return out;
  };
  {  // interleaved, uneven when P is odd; then halves of it
    const auto parity = comm.split(me % 2, me);
    CONTRACT_EXPECT(parity->checked() == comm.checked(), "checked is inherited");
    expect_members(*parity, me, ranks_where([&](int p) { return p % 2 == me % 2; }));
    check_all_reduce<float>(*parity, 3000, DType::kF32, ReduceOp::kSum, 3);
    const int half = parity->rank() * 2 / parity->size();
    const auto quarter = parity->split(half, 0);
    CONTRACT_EXPECT(quarter->size() >= 1 && quarter->size() <= parity->size(), "nested size");
    check_all_to_all(
        *quarter, [](int p, int q) { return p + 2 * q; }, 3, DType::kF32, 9);
    // All three at once, in the order that every rank follows.
    comm.barrier();
    CONTRACT_EXPECT(quarter->all_reduce(std::int64_t{1}, ReduceOp::kSum) == quarter->size(),
                    "nested");
    CONTRACT_EXPECT(comm.all_reduce(std::int64_t{1}, ReduceOp::kSum) == P, "world");
  }
  {  // rank 0 alone, the others together, in reverse
    const auto rest = comm.split(me == 0 ? 0 : 1, -me);
    std::vector<int> expected = ranks_where([&](int p) { return (p == 0) == (me == 0); });
    std::reverse(expected.begin(), expected.end());
    expect_members(*rest, me, expected);
    check_broadcast(*rest, 77, DType::kBF16, rest->size() - 1, 4);
  }
  {  // the same colours again make new groups; equal keys keep rank order
    const auto a = comm.split(0, 5);
    const auto b = comm.split(0, 5);
    expect_members(*a, me, ranks_where([](int) { return true; }));
    expect_members(*b, me, ranks_where([](int) { return true; }));
    const auto single = comm.split(me, 0);
    CONTRACT_EXPECT(single->size() == 1 && single->rank() == 0, "group of one");
    check_all_reduce<double>(*single, 10, DType::kF64, ReduceOp::kSum, 8);
  }
  expect_error(dsv::ExitCode::kInternal, [&] { comm.split(-1, 0); });
  comm.barrier();
}

inline void mesh_axes(Communicator& comm) {
  for (int cp = 1; cp <= comm.size(); ++cp) {
    if (comm.size() % cp != 0) {
      expect_error(dsv::ExitCode::kConfig,
                   [&] { dsv::comm::make_mesh(comm.split(0, 0), comm.size() / cp, cp); });
      continue;
    }
    const int me = comm.rank();
    const dsv::comm::Mesh mesh = dsv::comm::make_mesh(comm.split(0, 0), comm.size() / cp, cp);
    std::vector<int> cp_ranks, dp_ranks;
    for (int p = 0; p < comm.size(); ++p) {
      if (p / cp == me / cp) cp_ranks.push_back(p);
      if (p % cp == me % cp) dp_ranks.push_back(p);
    }
    expect_members(*mesh.cp, me, cp_ranks);
    expect_members(*mesh.dp, me, dp_ranks);
    CONTRACT_EXPECT(mesh.cp->name() == "cp" && mesh.dp->name() == "dp", "names");
  }
}

// ---- size, repetition, disagreement -------------------------------------------------------------

inline void large(Communicator& comm) {
  const int P = comm.size();
  check_all_reduce<float>(comm, 2'400'013, DType::kF32, ReduceOp::kSum,
                          21);  // 9.6 MB, not divisible
  check_all_reduce<double>(comm, 300'001, DType::kF64, ReduceOp::kSum, 22);
  Counts counts;
  for (int p = 0; p < P; ++p) counts.push_back(p == 0 ? 3001 : 1500 + p);  // 9.2 MB and more
  check_all_gather(comm, counts, 768, DType::kF32, false, 23);
  check_reduce_scatter<float>(comm, counts, 768, DType::kF32, 24);
  check_all_to_all(
      comm, [](int p, int q) { return p == 0 ? 3000 + q : 100; }, 3072, DType::kU8, 25);
  check_broadcast(comm, 9'000'001, DType::kU8, P - 1, 26);
}

// A few hundred calls of random kinds and sizes, twice: the same bits.
inline void repeated(Communicator& comm) {
  for (std::uint64_t i = 0; i < 120; ++i) {
    const std::uint64_t choice = mix(i);
    const auto n = static_cast<std::int64_t>(mix(choice) % 600);
    switch (choice % 5) {
      case 0:
        check_all_reduce<float>(comm, n * 7, DType::kF32, ReduceOp::kSum, i);
        break;
      case 1:
        check_broadcast(comm, n, DType::kF32, static_cast<int>(i) % comm.size(), i);
        break;
      case 2:
        check_all_to_all(
            comm, [&](int p, int q) { return (n + p * 11 + q) % 17; }, 4, DType::kBF16, i);
        break;
      case 3:
        check_all_gather(comm, Counts(static_cast<std::size_t>(comm.size()), n % 50), 3,
                         DType::kF32, i % 2 == 0, i);
        break;
      default:
        comm.barrier();
    }
  }
  Buffer first({50'000}, DType::kF32), second({50'000}, DType::kF32);
  for (Buffer* b : {&first, &second}) {
    for (std::int64_t i = 0; i < 50'000; ++i)
      b->tensor().f32()[i] = part_of<float>(comm.rank(), i, 99);
    comm.all_reduce(b->tensor());
  }
  CONTRACT_EXPECT(
      std::memcmp(first.bytes(), second.bytes(), static_cast<std::size_t>(first.num_bytes())) == 0,
      "two calls, two results");
}

inline void wrong_arguments(Communicator& comm) {
  const auto n = static_cast<std::size_t>(comm.size());
  const auto refused = [&](const std::function<void()>& call) {
    expect_error(dsv::ExitCode::kInternal, call);
  };
  Buffer bf16({4, 2}, DType::kBF16), f32({4, 2}, DType::kF32);
  refused([&] { comm.all_reduce(bf16.tensor()); });
  refused([&] { comm.all_reduce(f32.tensor().slice(1, 0, 1)); });
  refused([&] { comm.all_reduce(Tensor()); });
  refused([&] { comm.broadcast(f32, comm.size()); });
  refused([&] { comm.all_gather_v(f32, f32, Counts(n + 1, 1)); });
  refused([&] { comm.all_gather_v(f32.tensor().slice(0, 0, 1), f32, Counts(n, 5)); });
  refused([&] { comm.all_to_all_v(f32, Counts(n, -1), f32, Counts(n, 0)); });
  Buffer in({static_cast<std::int64_t>(n), 2}, DType::kF32);
  refused([&] { comm.all_to_all_v(in, Counts(n, 1), in, Counts(n, 1)); });  // overlap
  Buffer wide({static_cast<std::int64_t>(n), 3}, DType::kF32);
  refused([&] { comm.all_to_all_v(in, Counts(n, 1), wide, Counts(n, 1)); });
  comm.barrier();
}

// Each disagreement is an error on all ranks that names both, and the group goes on working.
inline void disagreements(Communicator& comm) {
  CONTRACT_EXPECT(comm.checked(), "this case needs headers");
  if (comm.size() == 1) return;
  const int last = comm.size() - 1;
  const bool odd_one = comm.rank() == last;
  const auto named = [&](const std::string& text, std::initializer_list<std::string> words) {
    for (const std::string& word : words) {
      CONTRACT_EXPECT(text.find(word) != std::string::npos, "expected '{}' in '{}'", word, text);
    }
    comm.barrier();
  };
  const auto refused = [&](const std::function<void()>& call) {
    return expect_error(dsv::ExitCode::kHang, call);
  };
  const std::string rank = dsv::format("rank {} called ", last);
  Buffer a({8}, DType::kF32), b({9}, DType::kF32), c({8}, DType::kI32), d({8}, DType::kF64);
  for (Buffer* buffer : {&a, &b, &c, &d}) {
    std::memset(buffer->bytes(), comm.rank() + 1, static_cast<std::size_t>(buffer->num_bytes()));
  }
  named(refused([&] { odd_one ? comm.barrier() : comm.all_reduce(a.tensor()); }),
        {"rank 0 called all_reduce (call", "sum, F32, 8 rows of 4 bytes", rank + "barrier (call"});
  named(refused([&] { comm.all_reduce(odd_one ? b.tensor() : a.tensor()); }),
        {"8 rows", "9 rows", rank});
  named(refused([&] { comm.all_reduce(odd_one ? c.tensor() : a.tensor()); }), {"F32", "I32", rank});
  named(refused([&] { comm.all_reduce(odd_one ? d.tensor() : a.tensor()); }), {"F32", "F64", rank});
  named(refused([&] { comm.all_reduce(a.tensor(), odd_one ? ReduceOp::kMax : ReduceOp::kSum); }),
        {"sum", "max", rank});
  named(refused([&] { comm.broadcast(a, odd_one ? last : 0); }),
        {"root 0", dsv::format("root {}", last), rank});
  named(refused([&] { odd_one ? (void)comm.all_gather_bytes("x") : (void)comm.split(0, 0); }),
        {"rank 0 called split", rank + "all_gather_bytes"});
  for (std::int64_t i = 0; i < a.num_bytes(); ++i) {
    CONTRACT_EXPECT(a.bytes()[i] == comm.rank() + 1, "a refused call moved data");
  }
  {  // counts differ, totals agree
    Counts counts(static_cast<std::size_t>(comm.size()), 2);
    if (odd_one) {
      counts[0] = 1;
      counts[static_cast<std::size_t>(last)] = 3;
    }
    Buffer in({counts[static_cast<std::size_t>(comm.rank())], 2}, DType::kF32),
        out({2 * comm.size(), 2}, DType::kF32);
    named(refused([&] { comm.all_gather_v(in, out, counts); }), {"all_gather_v", "counts", rank});
    Buffer all({2 * comm.size(), 2}, DType::kF32),
        part({counts[static_cast<std::size_t>(comm.rank())], 2}, DType::kF32);
    named(refused([&] { comm.reduce_scatter_v(all, part, counts); }),
          {"reduce_scatter_v", "counts", rank});
  }
  {  // rank `last` expects one row more from rank 0 than that sends
    Counts send(static_cast<std::size_t>(comm.size()), 1), receive = send;
    if (odd_one) receive[0] = 2;
    Buffer in({sum(send), 2}, DType::kF32), out({sum(receive), 2}, DType::kF32);
    named(refused([&] { comm.all_to_all_v(in, send, out, receive); }),
          {"all_to_all_v", dsv::format("rank 0 sends 1 rows to rank {}, which expects 2", last)});
  }
  {  // rank `last` skips a call and goes on to its next one
    named(refused([&] { odd_one ? comm.broadcast(a, 0) : comm.barrier(); }),
          {"rank 0 called barrier", rank + "broadcast"});
  }
}

inline void last_op_is_told(Communicator& comm) {
  Buffer a({8}, DType::kF32);
  std::memset(a.bytes(), 0, 32);
  comm.all_reduce(a.tensor());
  const dsv::comm::LastOp op = comm.last_op();
  CONTRACT_EXPECT(std::string(op.op) == "all_reduce" && op.bytes == 32 && op.seq > 0 && !op.running,
                  "{}", to_string(op));
  const auto group = comm.split(0, 0);
  group->set_name("cp");
  group->barrier();
  const dsv::comm::LastOp next = comm.last_op();  // the world tells what its groups did
  CONTRACT_EXPECT(std::string(next.op) == "barrier" && next.group == "cp" && next.seq == 1, "{}",
                  to_string(next));
}

struct Case {
  const char* name;
  void (*run)(Communicator&);
};

inline const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"moves", moves},
      {"reductions", reductions},
      {"scalars", scalars},
      {"messages", messages},
      {"groups", groups},
      {"mesh axes", mesh_axes},
      {"large", large},
      {"repeated", repeated},
      {"wrong arguments", wrong_arguments},
      {"disagreements", disagreements},
      {"last op", last_op_is_told},
  };
  return all;
}

}  // namespace contract
