#include "dsv/autograd/tape.h"

namespace dsv::autograd {

void Tape::backward(const Context& ctx) {
  while (!closures_.empty()) {
    // Taken out first, so that what it holds is freed as soon as it has run.
    const Closure closure = std::move(closures_.back());
    closures_.pop_back();
    closure(ctx);
  }
}

Tensor SavedTensors::take() {
  DSV_CHECK(!tensors_.empty(), "[checkpoint] the recompute asks for more tensors than were saved");
  Tensor front = std::move(tensors_.front());
  tensors_.pop_front();
  return front;
}

Variable checkpoint(const Context& ctx, const std::vector<Variable>& inputs, Region region,
                    bool keep_optional) {
  if (ctx.tape == nullptr) return region(ctx, inputs);

  auto saved = std::make_shared<SavedTensors>(keep_optional);
  Context forward = ctx;
  forward.tape = nullptr;
  forward.pass = Pass::kForward;
  forward.saved = saved.get();
  const Variable result = region(forward, inputs);
  Variable output(result.value(), true);

  ctx.tape->record([inputs, output, region = std::move(region), saved](const Context& c) {
    Tensor dy = output.take_grad();
    if (!dy.defined()) return;
    std::vector<Variable> leaves;
    for (const Variable& input : inputs) {
      leaves.push_back(input ? Variable(input.value(), input.needs_grad()) : Variable());
    }
    Tape inner;
    Context recompute = c;
    recompute.tape = &inner;
    recompute.pass = Pass::kRecompute;
    recompute.saved = saved.get();
    {
      const Variable again = region(recompute, leaves);
      again.add_grad(c, std::move(dy));
    }
    DSV_CHECK(saved->empty(),
              "[checkpoint] the recompute took fewer tensors than were saved");
    recompute.saved = nullptr;
    // Gradients that the inputs already have go through the region, so that sums keep their order.
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].needs_grad() && inputs[i].has_grad()) {
        leaves[i].add_grad(c, inputs[i].take_grad());
      }
    }
    inner.backward(recompute);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].needs_grad() && leaves[i].has_grad()) {
        inputs[i].add_grad(c, leaves[i].take_grad());
      }
    }
  });
  return output;
}

}  // namespace dsv::autograd
