// TrainState: everything that a step changes: parameters, moments, EMA, and the count of steps.
// What is in here is in the checkpoint; nothing else may influence the next step.
#pragma once

#include <functional>
#include <vector>

#include "dsv/autograd/param_store.h"
#include "dsv/model/dit.h"
#include "dsv/train/checkpoint.h"
#include "dsv/train/checkpoint_reader.h"
#include "dsv/sparsity/controller.h"
#include "dsv/train/config.h"

namespace dsv::train {

// What attention needs to know of a model.
sparsity::AttentionShape attention_shape(const model::DitConfig& model);

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
  // What self-attention attends to, and the parameters of its predictors: trained beside the model,
  // by losses and a rate of their own. Empty but for attention.policy dsv.
  sparsity::Controller& attention() { return attention_; }
  const sparsity::Controller& attention() const { return attention_; }
  autograd::ParamStore& predictors() { return predictors_; }
  std::int64_t step() const { return step_; }  // optimizer steps done
  void advance() { ++step_; }

  // This rank's share of the state as logical arrays weight.NAME, m.NAME, v.NAME, ema.NAME: each
  // unit's flat range is split evenly over the dp ranks, which all hold it.
  std::vector<StatePiece> pieces(const comm::Mesh& mesh) const;
  // What of the state is no array: joins the checkpoint's `extra`.
  void describe(Json& extra) const;
  // Reads the whole state; throws Error naming an array that is missing or has another size.
  void restore(const autograd::Context& ctx, CheckpointReader& reader);

  // Reads the weights, or the EMA in their place, and leaves everything else.
  void restore_weights(const autograd::Context& ctx, CheckpointReader& reader, bool ema);

  // CRC-32C of all state in a fixed order: equal states, equal hashes.
  std::uint32_t hash(const autograd::Context& ctx) const;

 private:
  // Of the model, then of the predictors.
  std::vector<std::reference_wrapper<const autograd::ParamUnit>> units() const;
  void restore_attention(CheckpointReader& reader);

  model::Dit dit_;
  sparsity::Controller attention_;
  autograd::ParamStore params_, predictors_;
  std::int64_t step_ = 0;
};

}  // namespace dsv::train
