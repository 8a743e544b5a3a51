// The contract of reductions: bit for bit what a loop in ascending rank order gives.
#pragma once

#include "comm/contract_support.h"

namespace contract {

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

}  // namespace contract
