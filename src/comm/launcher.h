// Who started this process, read from the environment only, and what a container needs before MPI
// starts.
#pragma once

#include <functional>
#include <string>

namespace dsv::comm {

struct Launcher {
  bool found = false;
  std::string name;         // "Open MPI", "PMI", "Slurm with PMIx"
  int announced_ranks = 0;  // 0: it does not say
  int local_ranks = 1;      // as announced; 1 when it does not say
  int local_rank = 0;
};

using GetEnv = std::function<const char*(const char*)>;

// Throws Error(kEnvironment) when a launcher started several copies without a way for them to find
// each other: each would believe to be alone.
Launcher find_launcher(const GetEnv& get_env);

// Sets or names what MPI needs in a container: see docs/distributed.md.
void prepare_environment(const Launcher& launcher);

}  // namespace dsv::comm
