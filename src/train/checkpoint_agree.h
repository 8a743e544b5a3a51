// Decisions that all ranks take together: an error on one rank becomes the same error on every
// rank, so that none of them waits in a collective for one that has thrown.
#pragma once

#include <functional>
#include <string>

#include "dsv/base/error.h"
#include "dsv/comm/communicator.h"

namespace dsv::train {

struct Verdict {
  ExitCode code = ExitCode::kOk;
  std::string message;

  bool ok() const { return code == ExitCode::kOk; }
  void throw_if_failed() const {
    if (!ok()) throw Error(code, message);
  }
};

// Runs `work`; what it throws becomes the verdict.
Verdict attempt(const std::function<void()>& work);

// Collective: ok when all ranks are, else the lowest failing rank's verdict, with its rank in front
// where there are several.
Verdict agree(comm::Communicator& comm, const Verdict& mine);
// Collective: root's verdict.
Verdict share(comm::Communicator& comm, const Verdict& mine, int root);

}  // namespace dsv::train
