// dsv bench select.
#pragma once

namespace CLI {
class App;
}

namespace dsv::cli {

void add_bench_select(CLI::App& bench);

}  // namespace dsv::cli
