// The communicator contract as code: the same cases run on every backend, on any number of ranks.
// Each rank calls run(comm) on a thread or process of its own; a violated expectation throws, so no
// test framework is needed on the ranks.
#pragma once

#include "comm/contract_groups.h"

namespace contract {

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