// Variable: a value in the graph and, once the backward pass has reached it, its gradient.
#pragma once

#include <memory>

#include "dsv/autograd/context.h"

namespace dsv::autograd {

// Copies share one node. A default Variable is undefined: an optional input that is absent.
class Variable {
 public:
  Variable() = default;
  explicit Variable(Tensor value, bool needs_grad = false);

  bool defined() const { return node_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Tensor& value() const { return node_->value; }
  const Shape& shape() const { return node_->value.shape(); }
  std::int64_t dim(int i) const { return node_->value.dim(i); }
  bool needs_grad() const { return node_ != nullptr && node_->needs_grad; }
  bool has_grad() const { return node_->grad.defined(); }
  const Tensor& grad() const { return node_->grad; }
  bool same_as(const Variable& other) const { return node_ == other.node_; }

  // Hands over dy, which nobody else will read or write: the first gradient is kept as it is,
  // further ones are added to it in place.
  void add_grad(const Context& ctx, Tensor dy) const;
  // The place to write a gradient to: fresh (accumulate = false) or the present one, to be added
  // to.
  struct GradSlot {
    Tensor tensor;
    bool accumulate = false;
  };
  GradSlot grad_slot(const Context& ctx) const;
  // The gradient, zero-filled if there is none yet: for ops that add to parts of it.
  Tensor grad_or_zeros(const Context& ctx) const;
  // Takes the gradient out; undefined if the backward pass never reached this variable.
  Tensor take_grad() const;

 private:
  struct Node {
    Tensor value;
    Tensor grad;
    bool needs_grad = false;
  };
  std::shared_ptr<Node> node_;
};

}  // namespace dsv::autograd
