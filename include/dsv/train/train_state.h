// TrainState: everything that a step changes: parameters, moments, EMA, and the count of steps.
// What is in here is in the checkpoint; nothing else may influence the next step.
#pragma once

#include <vector>

#include "dsv/autograd/param_store.h"
#include "dsv/model/dit.h"
#include "dsv/train/checkpoint.h"
#include "dsv/train/checkpoint_reader.h"
#include "dsv/train/config.h"

namespace dsv::train {

class TrainState {
 public:
  // Builds the model and fills it by run.seed. For training: gradients, moments, and EMA as config says.
  TrainState(const autograd::Context& ctx, const Config& config);
  // With what is asked for only: sampling needs weights alone.
  TrainState(const autograd::Context& ctx, const Config& config,
             const autograd::ParamStore::Allocation& what);
  TrainState(const TrainState&) = delete;
  TrainState& operator=(const TrainState&) = delete;

  model::Dit& dit() { return dit_; }
  autograd::ParamStore& params() { return params_; }
  std::int64_t step() const { return step_; }  // optimizer steps done
  void advance() { ++step_; }

  // This rank's share of the state as logical arrays weight.NAME, m.NAME, v.NAME, ema.NAME: each
  // unit's flat range is split evenly over the dp ranks, which all hold it.
  std::vector<StatePiece> pieces(const comm::Mesh& mesh) const;
  // Reads the whole state; throws Error naming an array that is missing or has another size.
  void restore(const autograd::Context& ctx, CheckpointReader& reader);

  // Reads the weights, or the EMA in their place, and leaves everything else.
  void restore_weights(const autograd::Context& ctx, CheckpointReader& reader, bool ema);

  // CRC-32C of all state in a fixed order: equal states, equal hashes.
  std::uint32_t hash(const autograd::Context& ctx) const;

 private:
  model::Dit dit_;
  autograd::ParamStore params_;
  std::int64_t step_ = 0;
};

}  // namespace dsv::train
