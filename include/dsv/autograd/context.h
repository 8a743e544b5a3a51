// Context: everything an op needs, by reference; one per rank. There are no globals.
#pragma once

#include "dsv/base/trace.h"
#include "dsv/comm/mesh.h"
#include "dsv/kernels/kernel_table.h"
#include "dsv/tensor/arena.h"

namespace dsv::autograd {

class Tape;
class SavedTensors;

// A checkpointed region runs twice: kForward computes and keeps only what it names, kRecompute
// computes the rest again for the backward pass.
enum class Pass { kForward, kRecompute };

struct Context {
  const kernels::KernelTable& kernels;
  Arena& arena;
  Stream stream;
  const comm::Mesh& mesh;
  Tracer& tracer;
  DType compute_dtype = DType::kF32;  // of activations and GEMM operands
  Tape* tape = nullptr;               // null: nothing is recorded (evaluation, sampling)
  Pass pass = Pass::kForward;
  SavedTensors* saved = nullptr;  // of the checkpointed region that is running, if one is

  // Runs fn once per micro-batch: in the forward pass, never in a recompute. For statistics,
  // profiling, and whatever else an op does beside computing its value.
  template <typename Fn>
  void side_effect(const Fn& fn) const {
    if (pass == Pass::kForward) fn();
  }
};

}  // namespace dsv::autograd
