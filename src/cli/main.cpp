// dsv: trains video Diffusion Transformers. Only here does the process end.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "commands.h"
#include "dsv/base/error.h"
#include "dsv/base/log.h"
#include "dsv/train/progress.h"

int main(int argc, char** argv) {
  dsv::train::secure_standard_streams();
  CLI::App app{"dsv trains video Diffusion Transformers with dynamic attention sparsity"};
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "Help of every command");
  app.set_version_flag("--version", DSV_VERSION);
  dsv::cli::Invocation invocation{argc, argv};
  dsv::cli::add_train_command(app, invocation);
  dsv::cli::add_sample_command(app, invocation);
  dsv::cli::add_data_command(app, invocation);
  dsv::cli::add_step_command(app, invocation);
  dsv::cli::add_weights_commands(app, invocation);
  dsv::cli::add_bench_command(app, invocation);
  dsv::cli::add_profile_command(app, invocation);
  dsv::cli::add_report_command(app, invocation);
  dsv::cli::add_inspect_command(app, invocation);
  try {
    app.parse(argc, argv);
    return invocation.exit_code;
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : static_cast<int>(dsv::ExitCode::kConfig);
  } catch (const dsv::Error& e) {
    dsv::log_error("{}", e.what());
    return static_cast<int>(e.code());
  } catch (const std::exception& e) {
    dsv::log_error("[dsv] {}", e.what());
    return static_cast<int>(dsv::ExitCode::kInternal);
  }
}
