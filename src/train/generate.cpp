#include "dsv/train/generate.h"

#include "dsv/data/dataset.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/contact_sheet.h"
#include "dsv/data/png_writer.h"
#include "dsv/data/video_writer.h"
#include "dsv/diffusion/sampler.h"
#include "dsv/train/device_copy.h"

namespace dsv::train {
namespace {

constexpr std::int64_t kSheetColumns = 8;

struct TextBatch {
  Tensor rows;  // [B, L, text_dim]
  Tensor mask;  // [B, L]
};

// Embeds prompts and pads them with zero rows to the model's text_len; "" is the null text.
TextBatch embed(const std::vector<std::string>& prompts, const data::TextSettings& settings,
                std::int64_t text_len) {
  const auto B = static_cast<std::int64_t>(prompts.size());
  TextBatch out{data::host_tensor({B, text_len, settings.dim}), data::host_tensor({B, text_len})};
  for (std::int64_t b = 0; b < B; ++b) {
    data::pad_text(data::hashed_text(prompts[static_cast<std::size_t>(b)], settings),
                   out.rows.select(0, b), out.mask.select(0, b));
  }
  return out;
}

}  // namespace

Json to_json(const Codec& codec) {
  Json text = Json::object();
  text.set("kind", codec.text_kind);
  text.set("dim", codec.text.dim);
  text.set("max_len", codec.text.max_len);
  Json json = Json::object();
  json.set("latents", data::to_json(codec.latents));
  json.set("text", std::move(text));
  return json;
}

Codec codec_from_json(const Json& json, const std::string& where) {
  const Json& text = json.at("text");
  return {.latents = data::latent_recipe_from_json(json.at("latents"), where),
          .text_kind = text.at("kind").as_string(),
          .text = {.dim = text.at("dim").as_int(), .max_len = text.at("max_len").as_int()}};
}

Generated generate(const autograd::Context& ctx, model::Dit& dit, const diffusion::FlowConfig& flow,
                   const Codec& codec, const GenerateRequest& request,
                   const std::function<void(int, int)>& on_step) {
  if (codec.text_kind != "hash") {
    throw_error(
        ExitCode::kConfig,
        "[sample] the training set's text encoder is '{}': prompts can only be embedded for "
        "hashed text",
        codec.text_kind);
  }
  const auto B = static_cast<std::int64_t>(request.prompts.size());
  const Shape clip =
      data::latent_shape(codec.latents.wavelet, request.frames, request.height, request.width);
  const Shape latents{B, clip[0], clip[1], clip[2], clip[3]};
  dit.geometry(latents);

  const std::int64_t text_len = dit.config().text_len;
  const TextBatch text = embed(request.prompts, codec.text, text_len);
  const TextBatch null =
      embed(std::vector<std::string>(request.prompts.size()), codec.text, text_len);
  diffusion::SampleRequest sampling{
      .latents = latents,
      .text = to_device(ctx, text.rows),
      .text_mask = to_device(ctx, text.mask),
      .null_text = to_device(ctx, null.rows),
      .null_mask = to_device(ctx, null.mask),
      .seed = request.seed,
      .num_steps = request.num_steps,
      .cfg_scale = request.cfg_scale,
      .shift = diffusion::shift_of(flow, {request.height, request.width, latents[2]}),
      .attention = request.attention};
  for (std::int64_t b = 0; b < B; ++b) sampling.noise_ids.push_back(static_cast<std::uint64_t>(b));

  Generated out;
  out.latents = to_host(ctx, diffusion::sample_euler(ctx, dit, sampling, on_step));
  for (std::int64_t b = 0; b < B; ++b) {
    out.clips.push_back(data::decode_clip(codec.latents, out.latents.select(0, b), request.frames));
  }
  return out;
}

std::vector<std::string> write_generated(const Generated& generated, const std::string& stem,
                                         double fps) {
  std::vector<std::string> paths;
  for (std::size_t i = 0; i < generated.clips.size(); ++i) {
    const std::string number = generated.clips.size() > 1 ? "_" + std::to_string(i) : "";
    paths.push_back(stem + number + ".mp4");
    data::write_video(paths.back(), generated.clips[i], {.fps = fps});
  }
  paths.push_back(stem + ".png");
  data::write_png(paths.back(), data::contact_sheet(generated.clips, kSheetColumns));
  return paths;
}

}  // namespace dsv::train
