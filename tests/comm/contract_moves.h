// The contract of collectives that move bytes: every byte arrives, none is written behind, counters
// are exact.
#pragma once

#include "comm/contract_support.h"

namespace contract {

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

}  // namespace contract
