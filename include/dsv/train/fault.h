// Fault injection: named points in the code where a test makes a rank die, stall, or see an error.
// Inert unless the environment sets DSV_FAULT="point:action@rank,step", several separated by ';'.
#pragma once

#include <cstdint>
#include <string_view>

namespace dsv::train {

// What the caller is asked to pretend. Death and sleep happen inside fault_point.
enum class FaultAction { kNone, kEnospc, kEio, kShortWrite, kNan };

// Grammar of a fault: point ':' action '@' rank ',' step
//   point   ckpt_open | ckpt_write | ckpt_fsync | ckpt_manifest | ckpt_rename | ckpt_commit (the
//           stages of a save, in order), step (begin of a training step), grad (before clipping)
//   action  kill9 | sleep (for ever) | sleep=MS | enospc | eio | shortwrite | nan
//   rank, step   a number, or * for any
// `step` is the training step, or the step that the checkpoint holds. Safe from any thread; a point
// costs one load of a flag when no fault is set. Throws Error(kConfig) when DSV_FAULT is malformed.
FaultAction fault_point(std::string_view point, int rank, std::int64_t step);

// Replaces what DSV_FAULT says ("" removes all faults). Throws Error(kConfig) when malformed.
void set_faults(std::string_view spec);

// Reads DSV_FAULT once, so that a mistake in it is an error at the start, and says loudly what it
// holds.
void read_faults_from_environment();

}  // namespace dsv::train
