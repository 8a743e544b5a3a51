// dsv bench step.
#pragma once

namespace CLI {
class App;
}

namespace dsv::cli {

void add_bench_step(CLI::App& bench);

}  // namespace dsv::cli
