// The sub-commands of `dsv`: one file each. A command adds itself to the parser; its callback runs it,
// throws dsv::Error on failure, and may set an exit code other than 0 (75: stopped on request).
#pragma once

namespace CLI {
class App;
}

namespace dsv::cli {

struct Invocation {
  int argc = 0;
  char** argv = nullptr;
  int exit_code = 0;
};

void add_train_command(CLI::App& app, Invocation& invocation);
void add_sample_command(CLI::App& app, Invocation& invocation);
void add_data_command(CLI::App& app, Invocation& invocation);
void add_step_command(CLI::App& app, Invocation& invocation);
void add_weights_commands(CLI::App& app, Invocation& invocation);  // import, export
void add_bench_command(CLI::App& app, Invocation& invocation);
void add_profile_command(CLI::App& app, Invocation& invocation);
void add_report_command(CLI::App& app, Invocation& invocation);
void add_inspect_command(CLI::App& app, Invocation& invocation);

}  // namespace dsv::cli
