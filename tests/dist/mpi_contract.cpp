// The contract suite on MPI processes: mpirun -n N mpi_contract [case…]. Exit code 0 when all ranks
// passed all cases.
#include <algorithm>
#include <cstdio>

#include "comm/contract.h"
#include "dsv/base/log.h"

int main(int argc, char** argv) {
  dsv::comm::MpiSession session(&argc, &argv);
  const auto world = session.world();
  world->set_checked(true);
  dsv::configure_logging(dsv::LogLevel::kInfo, world->rank(), world->size(), false);
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  int num_run = 0;
  for (const contract::Case& c : contract::cases()) {
    if (!wanted.empty() && std::count(wanted.begin(), wanted.end(), c.name) == 0) continue;
    try {
      c.run(*world);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "rank %d of %d (%s), case %s: %s\n", world->rank(), world->size(),
                   world->backend_name(), c.name, e.what());
      session.abort(1);
    }
    ++num_run;
  }
  dsv::log_info("[contract] {} cases passed on {} ranks ({})", num_run, world->size(),
                world->backend_name());
  return num_run > 0 ? 0 : 2;
}
