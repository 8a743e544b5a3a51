// dsv inspect: what a run, checkpoint, shard set, or safetensors file holds, and whether it is
// whole.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "commands.h"
#include "dsv/base/error.h"
#include "dsv/train/inspect.h"

namespace dsv::cli {
namespace {

struct Options {
  std::string path;
  bool verify = false;
  bool json = false;
};

}  // namespace

void add_inspect_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect", "What a run, checkpoint, shard set or safetensors file holds");
  command
      ->add_option("PATH", options->path,
                   "A run, its checkpoints, one checkpoint, a shard set, or a .safetensors file")
      ->required();
  command->add_flag("--verify", options->verify, "Read every byte and compare every CRC");
  command->add_flag("--json", options->json, "Print JSON, all of it, for programs");
  command->footer(
      "Exit code 10 when something is damaged.\n"
      "Examples:\n  dsv inspect runs/first\n"
      "  dsv inspect runs/first/checkpoints/step_1000 --verify");
  command->callback([options, &invocation] {
    const Json found = train::inspect(options->path, options->verify);
    const std::string text = options->json ? found.dump(1) + '\n' : train::inspection_text(found);
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (!found.at("valid").as_bool()) {
      invocation.exit_code = static_cast<int>(ExitCode::kCorruptInput);
    }
  });
}

}  // namespace dsv::cli
