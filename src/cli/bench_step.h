// dsv bench step.
#pragma once

namespace CLI {
class App;
}

namespace dsv::cli {

struct Invocation;
void add_bench_step(CLI::App& bench, Invocation& invocation);

}  // namespace dsv::cli
