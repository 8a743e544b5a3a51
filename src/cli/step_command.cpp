// dsv step: one forward/backward pass on given tensors, for parity with other frameworks.
#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"
#include "device_option.h"
#include "dsv/base/json.h"
#include "dsv/base/log.h"
#include "dsv/data/atomic_file.h"
#include "dsv/model/diffusers_config.h"
#include "dsv/train/config_io.h"
#include "dsv/train/parity_step.h"

namespace dsv::cli {
namespace {

struct Options {
  std::vector<std::string> configs, sets;
  std::string model_json, weights, batch, out;
  bool grads = false;
  DeviceOption device;
};

model::DitConfig model_of(const Options& options) {
  if (!options.model_json.empty()) {
    return model::config_from_diffusers(
        parse_json(data::read_file(options.model_json, 1 << 20), options.model_json));
  }
  if (options.configs.empty()) {
    throw_error(ExitCode::kConfig, "dsv step: expected CONFIG or --model-json config.json");
  }
  return train::load_config(options.configs, options.sets).model;
}

}  // namespace

void add_step_command(CLI::App& app, Invocation&) {
  auto options = std::make_shared<Options>();
  CLI::App* step = app.add_subcommand(
      "step", "One forward/backward pass on given tensors, everything out as safetensors");
  step->add_option("CONFIG", options->configs, "YAML files; later ones win");
  step->add_option("--set", options->sets, "Override a field: model.num_layers=2")
      ->allow_extra_args(false);
  step->add_option("--model-json", options->model_json,
                   "config.json of a diffusers model, in place of CONFIG");
  step->add_option("--weights", options->weights, "Weights, as `dsv import` writes them")
      ->required();
  step->add_option("--batch", options->batch,
                   "hidden_states, timestep, encoder_hidden_states, target (f32 safetensors)")
      ->required();
  step->add_option("-o,--out", options->out, "Where output, loss, and gradients go")->required();
  step->add_flag("--grads", options->grads, "Also write grad.NAME for every weight");
  add_device_option(step, &options->device, "f32");
  step->footer(
      "Example:\n  dsv import wan-1.3b-diffusers -o W.safetensors\n"
      "  dsv step --model-json wan-1.3b-diffusers/config.json --weights W.safetensors \\\n"
      "           --batch B.safetensors -o OUT.safetensors --grads");
  step->callback([options] {
    train::Runtime runtime(runtime_options(options->device), comm::make_self());
    const double loss = train::parity_step(runtime, model_of(*options), options->weights,
                                           options->batch, options->out, options->grads);
    log_info("[step] loss {:.8g}; wrote {}", loss, options->out);
  });
}

}  // namespace dsv::cli
