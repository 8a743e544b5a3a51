// dsv bench linear | attention.
#pragma once

namespace CLI {
class App;
}

namespace dsv::cli {

void add_bench_linear(CLI::App& bench);
void add_bench_attention(CLI::App& bench);

}  // namespace dsv::cli
