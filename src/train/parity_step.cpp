#include "dsv/train/parity_step.h"

#include "dsv/data/host_tensor.h"
#include "dsv/data/safetensors_writer.h"
#include "dsv/model/dit.h"
#include "dsv/train/device_copy.h"
#include "dsv/train/weights.h"

namespace dsv::train {
namespace {

Tensor read_f32(const data::SafetensorsFile& file, const char* name, int num_dims) {
  const data::TensorInfo& info = file.at(name);
  if (info.dtype != DType::kF32 || static_cast<int>(info.dims.size()) != num_dims) {
    throw_error(ExitCode::kCorruptInput, "[step] {}: '{}': expected F32 with {} dims, got {} {}",
                file.path(), name, num_dims, info.dtype_name, info.shape());
  }
  return file.read(name);
}

// 1 where a row holds text: any nonzero value, or row 0, so that an empty text keeps one row.
Tensor text_mask(const Tensor& text) {
  const std::int64_t batch = text.dim(0), rows = text.dim(1), width = text.dim(2);
  const Tensor mask = data::host_tensor({batch, rows});
  for (std::int64_t r = 0; r < batch * rows; ++r) {
    const float* row = text.f32() + r * width;
    bool any = r % rows == 0;
    for (std::int64_t c = 0; c < width && !any; ++c) any = row[c] != 0;
    mask.f32()[r] = any ? 1.0f : 0.0f;
  }
  return mask;
}

}  // namespace

double parity_step(Runtime& runtime, const model::DitConfig& config,
                   const std::string& weights_path, const std::string& batch_path,
                   const std::string& out_path, bool grads) {
  const auto weights = data::SafetensorsFile::open(weights_path);
  const auto batch = data::SafetensorsFile::open(batch_path);
  const Tensor latents = read_f32(batch, "hidden_states", 5);
  const Tensor timestep = read_f32(batch, "timestep", 1);
  const Tensor text = read_f32(batch, "encoder_hidden_states", 3);
  const Tensor target = read_f32(batch, "target", 5);

  autograd::Tape tape;
  const autograd::Context ctx = runtime.context(grads ? &tape : nullptr);
  model::Dit dit(config);
  autograd::ParamStore store;
  dit.declare(store);
  store.allocate(ctx, {.grad = grads});
  load_weights(ctx, store, weights);
  dit.bind(store);

  if (timestep.dim(0) != latents.dim(0) || text.dim(0) != latents.dim(0) ||
      text.dim(2) != config.text_dim || target.dim(0) != latents.dim(0) ||
      target.dim(1) > config.out_channels || target.dim(2) != latents.dim(2) ||
      target.dim(3) != latents.dim(3) || target.dim(4) != latents.dim(4)) {
    throw_error(
        ExitCode::kCorruptInput,
        "[step] {}: hidden_states {}, timestep {}, encoder_hidden_states {}, and target {} do not "
        "fit each other and a model with text_dim {} and {} output channels",
        batch_path, latents.shape(), timestep.shape(), text.shape(), target.shape(),
        config.text_dim, config.out_channels);
  }
  const autograd::Variable output =
      dit.forward(ctx, {.latents = to_device(ctx, latents),
                        .timesteps = to_device(ctx, timestep),
                        .text = to_device(ctx, text),
                        .text_mask = to_device(ctx, text_mask(text))});
  const std::int64_t B = latents.dim(0);
  const Tensor losses = to_host(ctx, autograd::mse_loss(ctx, output, to_device(ctx, target),
                                                        Tensor(), 1.0f / static_cast<float>(B)));
  double loss = 0;
  for (std::int64_t b = 0; b < B; ++b) loss += losses.f32()[b] / static_cast<double>(B);
  tape.backward(ctx);

  data::SafetensorsWriter writer;
  const Tensor loss_tensor = data::host_tensor({});
  loss_tensor.f32()[0] = static_cast<float>(loss);
  writer.add("output", to_host(ctx, output.value()));
  writer.add("loss", loss_tensor);
  if (grads) {
    for (const autograd::ParamUnit& unit : store.units()) {
      const Tensor host = to_host(ctx, unit.grad);
      for (const autograd::ParamEntry& entry : unit.entries) {
        writer.add("grad." + entry.spec.name,
                   host.slice(0, entry.begin, entry.end).reshape(entry.spec.shape));
      }
    }
  }
  writer.write(out_path);
  return loss;
}

}  // namespace dsv::train
