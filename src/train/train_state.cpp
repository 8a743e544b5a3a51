#include "dsv/train/train_state.h"

#include <array>
#include <functional>

#include "dsv/base/crc32c.h"
#include "dsv/data/host_tensor.h"
#include "dsv/tensor/transfer.h"

namespace dsv::train {
namespace {

struct Part {
  const char* prefix;
  const Tensor& flat;
};

std::array<Part, 4> parts_of(const autograd::ParamUnit& unit) {
  return {Part{"weight.", unit.master}, Part{"m.", unit.m}, Part{"v.", unit.v},
          Part{"ema.", unit.ema}};
}

using Units = std::vector<std::reference_wrapper<const autograd::ParamUnit>>;
Units units_of(std::initializer_list<const autograd::ParamStore*> stores) {
  Units out;
  for (const autograd::ParamStore* store : stores) {
    out.insert(out.end(), store->units().begin(), store->units().end());
  }
  return out;
}

}  // namespace

sparsity::AttentionShape attention_shape(const model::DitConfig& model) {
  return {.num_layers = model.num_layers,
          .num_heads = model.num_heads,
          .head_dim = model.head_dim,
          .rotary = model.family == model::Family::kWan};
}

TrainState::TrainState(const autograd::Context& ctx, const Config& config)
    : TrainState(ctx, config, {.grad = true, .optimizer = true, .ema = config.optim.ema}) {}

TrainState::TrainState(const autograd::Context& ctx, const Config& config,
                       const autograd::ParamStore::Allocation& what)
    : dit_(config.model),
      attention_(config.attention, config.sparsity, attention_shape(config.model)) {
  dit_.declare(params_);
  params_.allocate(ctx, what);
  params_.initialize(ctx, config.run.seed);
  dit_.bind(params_);
  attention_.declare(predictors_);
  // No average of predictors: the one of the weights is used with them as they are.
  predictors_.allocate(ctx, {.grad = what.grad, .optimizer = what.optimizer});
  predictors_.initialize(ctx, config.run.seed);
  attention_.bind(predictors_);
}

std::vector<std::reference_wrapper<const autograd::ParamUnit>> TrainState::units() const {
  return units_of({&params_, &predictors_});
}

std::vector<StatePiece> TrainState::pieces(const comm::Mesh& mesh) const {
  std::vector<StatePiece> out;
  for (const autograd::ParamUnit& unit : units()) {
    const ElementRange mine = even_share(unit.num_elements, mesh.world->rank(), mesh.world->size());
    for (const Part& part : parts_of(unit)) {
      if (!part.flat.defined()) continue;
      for (const autograd::ParamEntry& entry : unit.entries) {
        const std::int64_t begin = std::max(entry.begin, mine.begin);
        const std::int64_t end = std::min(entry.end, mine.end);
        if (begin >= end) continue;
        out.push_back({.name = part.prefix + entry.spec.name,
                       .dtype = DType::kF32,
                       .total = entry.end - entry.begin,
                       .begin = begin - entry.begin,
                       .end = end - entry.begin,
                       .data = part.flat.slice(0, begin, end)});
      }
    }
  }
  return out;
}

void TrainState::restore(const autograd::Context& ctx, CheckpointReader& reader) {
  // A run that had no predictors yet goes on with new ones.
  const bool has_predictors = reader.meta().extra.find("sparsity") != nullptr;
  for (const autograd::ParamUnit& unit : has_predictors ? units() : units_of({&params_})) {
    for (const Part& part : parts_of(unit)) {
      if (!part.flat.defined()) continue;
      for (const autograd::ParamEntry& entry : unit.entries) {
        reader.read(part.prefix + entry.spec.name, 0, entry.end - entry.begin,
                    part.flat.slice(0, entry.begin, entry.end));
      }
    }
  }
  params_.refresh_copies(ctx);
  predictors_.refresh_copies(ctx);
  restore_attention(reader);
  step_ = reader.meta().step;
}

void TrainState::restore_attention(CheckpointReader& reader) {
  if (!attention_.learns()) return;
  const Json* stored = reader.meta().extra.find("sparsity");
  if (stored == nullptr) return;
  attention_.set_state(sparsity::sparsity_state_from_json(
      *stored, dit_.config().num_layers, dit_.config().num_heads, reader.path()));
  if (const Json* costs = reader.meta().extra.find("attention_costs")) {
    attention_.set_costs(costs::attention_costs_from_json(*costs, reader.path()));
  }
}

void TrainState::describe(Json& extra) const {
  if (!attention_.learns()) return;
  extra.set("sparsity", sparsity::to_json(attention_.state()));
  if (!attention_.costs().points.empty()) {
    extra.set("attention_costs", costs::to_json(attention_.costs()));
  }
}

void TrainState::restore_weights(const autograd::Context& ctx, CheckpointReader& reader, bool ema) {
  for (const autograd::ParamUnit& unit : params_.units()) {
    for (const autograd::ParamEntry& entry : unit.entries) {
      reader.read((ema ? "ema." : "weight.") + entry.spec.name, 0, entry.end - entry.begin,
                  unit.master.slice(0, entry.begin, entry.end));
    }
  }
  for (const autograd::ParamUnit& unit : predictors_.units()) {
    for (const autograd::ParamEntry& entry : unit.entries) {
      reader.read("weight." + entry.spec.name, 0, entry.end - entry.begin,
                  unit.master.slice(0, entry.begin, entry.end));
    }
  }
  predictors_.refresh_copies(ctx);
  restore_attention(reader);
  params_.refresh_copies(ctx);
  step_ = reader.meta().step;
}

std::uint32_t TrainState::hash(const autograd::Context& ctx) const {
  const std::string decisions = attention_.learns() ? to_json(attention_.state()).dump() : "";
  std::uint32_t crc = crc32c(decisions.data(), decisions.size(), 0);
  for (const autograd::ParamUnit& unit : units()) {
    for (const Part& part : parts_of(unit)) {
      if (!part.flat.defined()) continue;
      const Tensor host = data::host_tensor(part.flat.shape());
      transfer(part.flat, host, ctx.stream);
      crc = crc32c(host.raw(), static_cast<std::size_t>(host.num_bytes()), crc);
    }
  }
  return crc;
}

}  // namespace dsv::train
