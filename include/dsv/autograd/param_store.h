// ParamStore: all parameters of a model as flat f32 ranges per unit (embedding, block, head).
// Optimizer, clipping, gradient exchange, and checkpoint see units and ranges; ops see named
// tensors.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dsv/autograd/context.h"

namespace dsv::autograd {

enum class Init { kZeros, kOnes, kXavierUniform, kNormal };

struct ParamSpec {
  std::string name;  // as diffusers names it
  Shape shape;
  Init init = Init::kXavierUniform;  // over (shape[0], product of the rest)
  double init_std = 0.02;            // of kNormal
  bool decay = true;                 // false for norms, biases, tables
};

// One parameter as ops use it. value has the compute dtype, master is f32 (the same bytes on the
// CPU). grad is f32 and added to; undefined where no gradient is wanted.
struct Param {
  Tensor value, master, grad;
  bool defined() const { return master.defined(); }
  // The copy with this dtype: linear layers follow their input.
  const Tensor& as(DType dtype) const { return dtype == DType::kF32 ? master : value; }
};

// Elements [begin, end) of a unit hold one parameter.
struct ParamEntry {
  ParamSpec spec;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

struct ParamUnit {
  std::string name;
  std::vector<ParamEntry> entries;
  std::int64_t num_elements = 0;
  Tensor master, grad, m, v, ema;  // flat (num_elements) f32; those not asked for stay undefined
  Tensor copy;                     // flat, compute dtype; undefined when compute is f32
};

class ParamStore {
 public:
  // Declares a unit; parameters lie in the order given, without gaps, so that neighbours can be
  // fused.
  void add_unit(std::string name, const std::vector<ParamSpec>& specs);

  struct Allocation {
    bool grad = false;
    bool optimizer = false;  // m and v
    bool ema = false;
  };
  // Gives bytes to all units: zeros everywhere, parameters uninitialised.
  void allocate(const Context& ctx, const Allocation& what);
  // Fills every parameter by its Init, keyed by (seed, name), so that it depends on nothing else,
  // and sets EMA and copy to it.
  void initialize(const Context& ctx, std::uint64_t seed);
  // After masters were changed from outside (loading): refreshes copy.
  void refresh_copies(const Context& ctx);
  void zero_grad(const Context& ctx);

  // Throws Error naming the parameter when there is none.
  Param get(std::string_view name) const;
  // Neighbouring parameters with equal trailing dims as one, stacked along dim 0 (fused QKV).
  Param fused(const std::vector<std::string>& names) const;

  std::vector<ParamUnit>& units() { return units_; }
  const std::vector<ParamUnit>& units() const { return units_; }
  const ParamEntry* find(std::string_view name, const ParamUnit** unit) const;
  std::int64_t num_params() const;

  // Ops read weights from here: master (training) or EMA (evaluation, sampling). Swaps the two in
  // place.
  void swap_ema(const Context& ctx);

 private:
  Param view(const ParamUnit& unit, std::int64_t begin, std::int64_t end, const Shape& shape) const;

  std::vector<ParamUnit> units_;
  std::unordered_map<std::string, std::pair<std::size_t, std::size_t>> index_;
};

}  // namespace dsv::autograd
