// Tape: gradient closures in the order of the forward pass, run backwards; and activation
// checkpointing.
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "dsv/autograd/variable.h"

namespace dsv::autograd {

class Tape {
 public:
  // A closure reads the gradient of its op's output and adds to those of its inputs. It owns the
  // tensors it needs; they are released as soon as it has run.
  using Closure = std::function<void(const Context&)>;

  void record(Closure closure) { closures_.push_back(std::move(closure)); }
  // Runs and drops all closures, last first. Gradients of outputs must have been set.
  void backward(const Context& ctx);
  std::size_t size() const { return closures_.size(); }
  void clear() { closures_.clear(); }

 private:
  std::vector<Closure> closures_;
};

// What a checkpointed region keeps beside its inputs. Ops put tensors in the forward pass and take
// them in the same order in the recompute, in place of computing them. Some must be kept, since
// computing them again could give something else; those that only cost time are kept where the
// region keeps_optional().
class SavedTensors {
 public:
  explicit SavedTensors(bool keeps_optional) : keeps_optional_(keeps_optional) {}
  bool keeps_optional() const { return keeps_optional_; }
  void put(Tensor tensor) { tensors_.push_back(std::move(tensor)); }
  Tensor take();
  bool empty() const { return tensors_.empty(); }

 private:
  std::deque<Tensor> tensors_;
  bool keeps_optional_;
};

// A region of the graph: a function of variables, pure but for side_effect and parameter gradients.
using Region = std::function<Variable(const Context&, const std::vector<Variable>& inputs)>;

// Runs region(inputs) without recording, keeping its inputs and what its ops put into
// Context::saved, of the optional tensors only if keep_optional; the backward pass runs it again with Pass::kRecompute and differentiates
// that run. Gradients are bitwise those of the recorded region. With ctx.tape null it just runs.
Variable checkpoint(const Context& ctx, const std::vector<Variable>& inputs, Region region,
                    bool keep_optional);

}  // namespace dsv::autograd
