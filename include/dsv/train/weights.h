// Model weights in and out of safetensors files, by name; and diffusers' folder layout around them.
#pragma once

#include <string>

#include "dsv/autograd/param_store.h"
#include "dsv/base/json.h"
#include "dsv/data/safetensors.h"
#include "dsv/model/dit_config.h"

namespace dsv::train {

// Copies every parameter from the file to the masters (f32, bf16, f16, f64 are converted; shapes
// must agree) and refreshes the compute copies. A missing, surplus, or misshapen tensor throws
// Error(kCorruptInput) that names it: nothing is left at its initial value silently.
void load_weights(const autograd::Context& ctx, autograd::ParamStore& store,
                  const data::SafetensorsFile& file);

// Writes the masters, or the EMA, as f32 in the order of the units. metadata "config" holds the
// diffusers config.json of the model.
void save_weights(const autograd::Context& ctx, const autograd::ParamStore& store, bool ema,
                  const model::DitConfig& config, const std::string& path);

// The model that a weights file or diffusers folder describes.
model::DitConfig config_of_weights(const data::SafetensorsFile& file);

// `dsv import`: DIR/config.json + DIR/diffusion_pytorch_model*.safetensors (sharded by an index or
// not) to one file that holds the same names, dtypes, and bytes; returns the number of tensors.
std::int64_t import_diffusers(const std::string& dir, const std::string& out_file);
// `dsv export`: the way back.
std::int64_t export_diffusers(const std::string& file, const std::string& out_dir);

}  // namespace dsv::train
