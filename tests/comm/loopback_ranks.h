// Runs a function on every rank of a loopback world, one thread each, as main() would: a rank that
// fails aborts, so its peers end too.
#pragma once

#include <exception>
#include <functional>
#include <thread>

#include "dsv/comm/communicator.h"

namespace contract {

// What each rank threw: empty for none.
inline std::vector<std::string> run_ranks(
    int size, const std::function<void(dsv::comm::Communicator&)>& body) {
  auto ranks = dsv::comm::make_loopback(size);
  std::vector<std::string> errors(ranks.size());
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    threads.emplace_back([&, r] {
      try {
        body(*ranks[r]);
      } catch (const std::exception& e) {
        errors[r] = e.what();
        try {
          ranks[r]->abort(1);
        } catch (const std::exception&) {
        }
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return errors;
}

}  // namespace contract
