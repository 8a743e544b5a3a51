#include "dsv/autograd/param_store.h"

#include <cmath>

namespace dsv::autograd {
namespace {

void copy(const Context& ctx, const Tensor& from, const Tensor& to) {
  ctx.kernels.axpby({.x = from, .y = to, .a = 1, .b = 0}, ctx.stream);
}

}  // namespace

void ParamStore::add_unit(std::string name, const std::vector<ParamSpec>& specs) {
  ParamUnit unit{.name = std::move(name)};
  for (const ParamSpec& spec : specs) {
    const std::int64_t begin = unit.num_elements;
    unit.num_elements += spec.shape.num_elements();
    DSV_CHECK(index_.emplace(spec.name, std::pair{units_.size(), unit.entries.size()}).second,
              "[params] '{}' is declared twice", spec.name);
    unit.entries.push_back({spec, begin, unit.num_elements});
  }
  units_.push_back(std::move(unit));
}

void ParamStore::allocate(const Context& ctx, const Allocation& what) {
  for (ParamUnit& unit : units_) {
    const auto make = [&](bool wanted) {
      if (!wanted) return Tensor();
      Tensor t = ctx.arena.empty({unit.num_elements}, DType::kF32);
      ctx.kernels.fill({.y = t, .value = 0}, ctx.stream);
      return t;
    };
    unit.master = make(true);
    unit.grad = make(what.grad);
    unit.m = make(what.optimizer);
    unit.v = make(what.optimizer);
    unit.ema = make(what.ema);
    if (ctx.compute_dtype != DType::kF32) {
      unit.copy = ctx.arena.empty({unit.num_elements}, ctx.compute_dtype);
    }
  }
}

void ParamStore::initialize(const Context& ctx, std::uint64_t seed) {
  for (const ParamUnit& unit : units_) {
    for (const ParamEntry& entry : unit.entries) {
      const ParamSpec& spec = entry.spec;
      const Tensor target = unit.master.slice(0, entry.begin, entry.end);
      kernels::RandomFill fill{.y = target,
                               .key = {.seed = seed,
                                       .purpose = RngPurpose::kInit,
                                       .sample = fnv1a(spec.name.data(), spec.name.size())}};
      switch (spec.init) {
        case Init::kZeros:
          ctx.kernels.fill({.y = target, .value = 0}, ctx.stream);
          continue;
        case Init::kOnes:
          ctx.kernels.fill({.y = target, .value = 1}, ctx.stream);
          continue;
        case Init::kXavierUniform: {
          const double fan_out = static_cast<double>(spec.shape[0]);
          const double fan_in = static_cast<double>(spec.shape.num_elements()) / fan_out;
          const double bound = std::sqrt(6.0 / (fan_in + fan_out));
          fill.kind = kernels::RandomKind::kUniform;
          fill.mean = static_cast<float>(-bound);
          fill.std = static_cast<float>(2 * bound);
          break;
        }
        case Init::kNormal:
          fill.std = static_cast<float>(spec.init_std);
          break;
      }
      ctx.kernels.random_fill(fill, ctx.stream);
    }
    if (unit.ema.defined()) copy(ctx, unit.master, unit.ema);
  }
  refresh_copies(ctx);
}

void ParamStore::refresh_copies(const Context& ctx) {
  for (const ParamUnit& unit : units_) {
    if (unit.copy.defined()) ctx.kernels.cast({.x = unit.master, .y = unit.copy}, ctx.stream);
  }
}

void ParamStore::zero_grad(const Context& ctx) {
  for (const ParamUnit& unit : units_) {
    if (unit.grad.defined()) ctx.kernels.fill({.y = unit.grad, .value = 0}, ctx.stream);
  }
}

const ParamEntry* ParamStore::find(std::string_view name, const ParamUnit** unit) const {
  const auto it = index_.find(std::string(name));
  if (it == index_.end()) return nullptr;
  if (unit != nullptr) *unit = &units_[it->second.first];
  return &units_[it->second.first].entries[it->second.second];
}

Param ParamStore::view(const ParamUnit& unit, std::int64_t begin, std::int64_t end,
                       const Shape& shape) const {
  const auto cut = [&](const Tensor& flat) {
    return flat.defined() ? flat.slice(0, begin, end).reshape(shape) : Tensor();
  };
  Param p;
  p.master = cut(unit.master);
  p.value = unit.copy.defined() ? cut(unit.copy) : p.master;
  p.grad = cut(unit.grad);
  return p;
}

Param ParamStore::get(std::string_view name) const {
  const ParamUnit* unit = nullptr;
  const ParamEntry* entry = find(name, &unit);
  DSV_CHECK(entry != nullptr, "[params] there is no parameter '{}'", name);
  return view(*unit, entry->begin, entry->end, entry->spec.shape);
}

Param ParamStore::fused(const std::vector<std::string>& names) const {
  DSV_CHECK(!names.empty(), "[params] fused needs names");
  const ParamUnit* unit = nullptr;
  const ParamEntry* first = find(names.front(), &unit);
  DSV_CHECK(first != nullptr, "[params] there is no parameter '{}'", names.front());
  Shape shape = first->spec.shape;
  std::int64_t end = first->end;
  for (std::size_t i = 1; i < names.size(); ++i) {
    const ParamUnit* other = nullptr;
    const ParamEntry* next = find(names[i], &other);
    DSV_CHECK(next != nullptr && other == unit && next->begin == end,
              "[params] '{}' does not follow '{}': they cannot be fused", names[i], names[i - 1]);
    shape[0] += next->spec.shape[0];
    end = next->end;
  }
  return view(*unit, first->begin, end, shape);
}

std::int64_t ParamStore::num_params() const {
  std::int64_t n = 0;
  for (const ParamUnit& unit : units_) n += unit.num_elements;
  return n;
}

void ParamStore::swap_ema(const Context& ctx) {
  for (const ParamUnit& unit : units_) {
    DSV_CHECK(unit.ema.defined(), "[params] swap_ema: this store keeps no EMA");
    const Tensor spare = ctx.arena.like(unit.master);
    copy(ctx, unit.master, spare);
    copy(ctx, unit.ema, unit.master);
    copy(ctx, spare, unit.ema);
  }
  refresh_copies(ctx);
}

}  // namespace dsv::autograd
