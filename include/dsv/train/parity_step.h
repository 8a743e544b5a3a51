// `dsv step`: one forward and backward pass on given tensors, everything out as safetensors, so
// that any framework can be compared with this engine.
#pragma once

#include <string>

#include "dsv/model/dit_config.h"
#include "dsv/train/runtime.h"

namespace dsv::train {

// BATCH holds hidden_states [B,C,T,H,W], timestep [B] (0…1000), encoder_hidden_states
// [B,L,text_dim], and target [B,C,T,H,W] (f32). OUT gets output [B,C_out,T,H,W], loss (mean squared
// error over all elements of target), and with `grads` grad.NAME for every weight. Returns the
// loss. Text rows are masked (dsv family) where they are all zero, but for row 0.
double parity_step(Runtime& runtime, const model::DitConfig& config,
                   const std::string& weights_path, const std::string& batch_path,
                   const std::string& out_path, bool grads);

}  // namespace dsv::train
