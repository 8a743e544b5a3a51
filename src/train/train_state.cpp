#include "dsv/train/train_state.h"

#include <array>

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

}  // namespace

TrainState::TrainState(const autograd::Context& ctx, const Config& config)
    : TrainState(ctx, config, {.grad = true, .optimizer = true, .ema = config.optim.ema}) {}

TrainState::TrainState(const autograd::Context& ctx, const Config& config,
                       const autograd::ParamStore::Allocation& what)
    : dit_(config.model) {
  dit_.declare(params_);
  params_.allocate(ctx, what);
  params_.initialize(ctx, config.run.seed);
  dit_.bind(params_);
}

std::vector<StatePiece> TrainState::pieces(const comm::Mesh& mesh) const {
  std::vector<StatePiece> out;
  for (const autograd::ParamUnit& unit : params_.units()) {
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
  for (const autograd::ParamUnit& unit : params_.units()) {
    for (const Part& part : parts_of(unit)) {
      if (!part.flat.defined()) continue;
      for (const autograd::ParamEntry& entry : unit.entries) {
        reader.read(part.prefix + entry.spec.name, 0, entry.end - entry.begin,
                    part.flat.slice(0, entry.begin, entry.end));
      }
    }
  }
  params_.refresh_copies(ctx);
  step_ = reader.meta().step;
}

void TrainState::restore_weights(const autograd::Context& ctx, CheckpointReader& reader, bool ema) {
  for (const autograd::ParamUnit& unit : params_.units()) {
    for (const autograd::ParamEntry& entry : unit.entries) {
      reader.read((ema ? "ema." : "weight.") + entry.spec.name, 0, entry.end - entry.begin,
                  unit.master.slice(0, entry.begin, entry.end));
    }
  }
  params_.refresh_copies(ctx);
  step_ = reader.meta().step;
}

std::uint32_t TrainState::hash(const autograd::Context& ctx) const {
  std::uint32_t crc = 0;
  for (const autograd::ParamUnit& unit : params_.units()) {
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
