// dsv bench: measured speed beside what this machine can do at most, in one run.
#include <CLI/CLI.hpp>

#include "bench_compute.h"
#include "bench_elementwise.h"
#include "bench_select.h"
#include "bench_step.h"
#include "commands.h"

namespace dsv::cli {

void add_bench_command(CLI::App& app, Invocation& invocation) {
  CLI::App* bench = app.add_subcommand("bench", "Measure kernels and steps on this machine");
  bench->require_subcommand(1);
  bench->footer("Example:\n  dsv bench attention --tokens 4096 --head-dim 128");
  add_bench_linear(*bench);
  add_bench_attention(*bench);
  add_bench_elementwise(*bench);
  add_bench_select(*bench);
  add_bench_step(*bench, invocation);
}

}  // namespace dsv::cli
