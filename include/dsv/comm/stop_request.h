// Stop requests: a signal on any rank makes all ranks stop after the same step.
#pragma once

#include "dsv/comm/communicator.h"

namespace dsv::comm {

// From now on SIGTERM and SIGUSR1 ask this process to stop instead of ending it; SIGPIPE is
// ignored. Under Open MPI's launcher also SIGCONT from the parent: mpirun answers SIGTERM and
// SIGINT with SIGCONT to the ranks one second before it sends SIGTERM and two before it kills them
// (unless it forwards job control, where SIGCONT means to continue). Further signals change
// nothing. Call before threads start, after MPI is initialised; calling again is harmless.
void install_stop_handlers();

// This process only; safe anywhere.
bool stop_requested();

// Collective: true on all ranks when any rank was asked. Call at step boundaries.
bool stop_requested_anywhere(Communicator& world);

// Asks this process as a signal would, and takes the request back.
void request_stop();
void clear_stop_request();

}  // namespace dsv::comm
