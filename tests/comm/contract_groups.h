// The contract of split and of the mesh made of it.
#pragma once

#include "comm/contract_moves.h"
#include "comm/contract_reductions.h"
#include "dsv/comm/mesh.h"

namespace contract {

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

}  // namespace contract
