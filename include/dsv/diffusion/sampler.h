// Generation: Euler steps of the flow's ODE from noise to latents, with classifier-free guidance.
#pragma once

#include <functional>

#include "dsv/diffusion/flow_matching.h"
#include "dsv/model/dit.h"

namespace dsv::diffusion {

struct SampleRequest {
  Shape latents;                         // [B, C, T, H, W]
  Tensor text, text_mask;                // [B, L, text_dim], [B, L] on the device
  Tensor null_text, null_mask;           // of the unconditional branch, same shapes
  std::vector<std::uint64_t> noise_ids;  // B: which noise each clip starts from
  std::uint64_t seed = 0;
  int num_steps = 20;
  double cfg_scale = 5.0;  // 1: no guidance, one model call per step
  double shift = 1.0;
  sparsity::Controller* attention = nullptr;  // as DitInputs
};

// v = v_null + cfg_scale * (v_text - v_null);  x += (sigma_{i+1} - sigma_i) * v.   Returns latents
// f32. on_step(i, n) is called after each step.
Tensor sample_euler(const autograd::Context& ctx, model::Dit& dit, const SampleRequest& request,
                    const std::function<void(int, int)>& on_step = {});

}  // namespace dsv::diffusion
