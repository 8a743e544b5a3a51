// dsv import | export: diffusers folders in and out, bytes unchanged.
#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"
#include "dsv/base/log.h"
#include "dsv/train/weights.h"

namespace dsv::cli {
namespace {

struct Options {
  std::string in, out;
};

}  // namespace

void add_weights_commands(CLI::App& app, Invocation&) {
  auto import_options = std::make_shared<Options>();
  CLI::App* import_command =
      app.add_subcommand("import", "Weights of a diffusers folder to one safetensors file");
  import_command->add_option("DIR", import_options->in, "Folder with config.json and safetensors")
      ->required();
  import_command->add_option("-o,--out", import_options->out, "The file to write")->required();
  import_command->footer("Example:\n  dsv import wan-1.3b-diffusers/transformer -o W.safetensors");
  import_command->callback([options = import_options] {
    const auto count = train::import_diffusers(options->in, options->out);
    log_info("[import] {} tensors to {}", count, options->out);
  });

  auto export_options = std::make_shared<Options>();
  CLI::App* export_command =
      app.add_subcommand("export", "A weights file to a folder that diffusers loads");
  export_command->add_option("FILE", export_options->in, "Weights of `dsv import` or `dsv train`")
      ->required();
  export_command->add_option("-o,--out", export_options->out, "The folder to write")->required();
  export_command->footer("Example:\n  dsv export W.safetensors -o my-model/transformer");
  export_command->callback([options = export_options] {
    const auto count = train::export_diffusers(options->in, options->out);
    log_info("[export] {} tensors to {}", count, options->out);
  });
}

}  // namespace dsv::cli
