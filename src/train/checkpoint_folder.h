// The folder that a writer saves to, made ready by all ranks before the first step.
#pragma once

#include <string>

#include "checkpoint_files.h"
#include "dsv/comm/communicator.h"

namespace dsv::train {

// Collective: what CheckpointWriter's constructor promises. Rank 0 makes and locks the folder and
// leaves a token there; every rank must see it and write beside it; then what died saves left is
// removed. Returns the lock, which holds until it is closed, on rank 0. Throws on all ranks.
OpenFile prepare_checkpoint_folder(const std::string& dir, comm::Communicator& comm);

}  // namespace dsv::train
