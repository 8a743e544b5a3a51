#include <atomic>
#include <chrono>

#include "contract.h"
#include "loopback_ranks.h"
#include "support/catch.h"

using dsv::comm::Communicator;

TEST_CASE("loopback keeps the contract", "[comm][loopback]") {
  const int size = GENERATE(1, 2, 3, 4, 8);
  for (const contract::Case& c : contract::cases()) {
    const auto errors = contract::run_ranks(size, c.run);
    for (int r = 0; r < size; ++r) {
      INFO(c.name << " on rank " << r << " of " << size);
      CHECK(errors[static_cast<std::size_t>(r)] == "");
    }
  }
}

TEST_CASE("loopback: an abort ends peers in any group with the reason", "[comm][loopback]") {
  const auto start = std::chrono::steady_clock::now();
  const auto errors = contract::run_ranks(4, [](Communicator& comm) {
    const auto half = comm.split(comm.rank() / 2, 0);
    if (comm.rank() == 3) comm.abort(20);
    if (comm.rank() == 2) comm.barrier();  // waits for the aborted rank
    for (;;)
      half->all_reduce(1.0, dsv::comm::ReduceOp::kSum);  // ranks 0 and 1 wait for nobody else
  });
  for (const std::string& e : errors) {
    CHECK_THAT(e, Contains("rank 3 of group world aborted with exit code 20"));
  }
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}

TEST_CASE("loopback: a rank that leaves is an error to those who wait for it", "[comm][loopback]") {
  auto ranks = dsv::comm::make_loopback(3);
  std::atomic<int> num_told{0};
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      try {
        ranks[r]->barrier();
      } catch (const dsv::Error& e) {
        num_told += e.code() == dsv::ExitCode::kHang &&
                    std::string(e.what()).find("rank 2 left") != std::string::npos;
      }
    });
  }
  ranks[2].reset();
  for (std::thread& t : threads) t.join();
  CHECK(num_told == 2);
}

TEST_CASE("loopback: even unchecked, sizes that differ are an error", "[comm][loopback]") {
  const auto errors = contract::run_ranks(2, [](Communicator& comm) {
    comm.set_checked(false);
    contract::Buffer data({comm.rank() == 0 ? 5000 : 6000}, dsv::DType::kU8);
    std::memset(data.bytes(), 1, static_cast<std::size_t>(data.num_bytes()));
    comm.broadcast(data, 0);
  });
  CHECK_THAT(errors[1], Contains("rank 1 expects 6000 bytes from rank 0, which sends 5000"));
}
