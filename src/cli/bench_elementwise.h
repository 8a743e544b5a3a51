// dsv bench elementwise.
#pragma once

namespace CLI {
class App;
}

namespace dsv::cli {

void add_bench_elementwise(CLI::App& bench);

}  // namespace dsv::cli
