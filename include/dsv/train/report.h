// `dsv report`: one page that shows a run, with everything in it: curves, sparsity by block, head,
// and step, where the time goes, samples.
#pragma once

#include <string>

namespace dsv::train {

// Self-contained HTML of the run folder: no scripts, no links to other files. Throws Error(kIo)
// where there is no metrics.jsonl.
std::string run_report(const std::string& run_dir);

}  // namespace dsv::train
