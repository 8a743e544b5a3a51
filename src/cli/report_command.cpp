// dsv report: a page that shows a run.
#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"
#include "dsv/base/log.h"
#include "dsv/data/atomic_file.h"
#include "dsv/train/report.h"

namespace dsv::cli {

void add_report_command(CLI::App& app, Invocation&) {
  struct Options {
    std::string run, out;
  };
  auto o = std::make_shared<Options>();
  CLI::App* report = app.add_subcommand("report", "One page with a run's curves, sparsity, times");
  report->add_option("RUN", o->run, "runs/NAME; it may still be training")->required();
  report->add_option("-o,--out", o->out, "The page to write (default: RUN/report.html)");
  report->footer("Example:\n  dsv report runs/quickstart -o report.html");
  report->callback([o] {
    const std::string out = o->out.empty() ? o->run + "/report.html" : o->out;
    data::write_file_atomic(out, train::run_report(o->run));
    log_info("[report] wrote {}", out);
  });
}

}  // namespace dsv::cli
