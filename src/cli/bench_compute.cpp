// dsv bench linear | attention: useful GFLOP/s, and the share of the FMA peak measured between
// them.
#include "bench_compute.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>

#include "dsv/base/json.h"
#include "dsv/kernels/affinity.h"
#include "dsv/kernels/kernel_table.h"
#include "dsv/kernels/machine_peak.h"
#include "dsv/tensor/arena.h"

namespace dsv::cli {
namespace {

struct Common {
  int threads = 0, repeat = 7;
  bool json = false;
};

struct Case {
  std::string name;
  double flops = 0;  // useful ones
  std::function<void()> run;
  std::vector<double> seconds;

  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
  double best() const { return *std::min_element(seconds.begin(), seconds.end()); }
};

void add_common(CLI::App* command, const std::shared_ptr<Common>& common) {
  command->add_option("--threads", common->threads, "CPU threads, pinned (default: all cores)");
  command->add_option("--repeat", common->repeat, "Rounds; medians are printed")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", common->json, "Print JSON");
}

Tensor random(Arena& arena, const Stream& stream, const Shape& shape) {
  static std::uint64_t next = 0;
  const Tensor t = arena.empty(shape);
  kernels::cpu_kernels().random_fill({.y = t, .key = {.sample = next++}}, stream);
  return t;
}

// All cases once a round, the peak in each round too, so that a neighbour's burst hits all alike.
void measure_and_print(std::vector<Case>& cases, const Common& common, int threads) {
  double peak = 0;
  for (int round = -1; round < common.repeat; ++round) {
    peak = std::max(peak, kernels::peak_fma_gflops(threads));
    for (Case& c : cases) {
      const auto start = std::chrono::steady_clock::now();
      c.run();
      const std::chrono::duration<double> d = std::chrono::steady_clock::now() - start;
      if (round >= 0) c.seconds.push_back(d.count());
    }
  }
  Json rows = Json::array();
  if (!common.json) {
    std::printf("%s", format("{} thread(s), {}; FMA peak measured in this run: {:.1f} GFLOP/s\n"
                             "{:<44} {:>10} {:>10} {:>10} {:>8} {:>8}\n",
                             threads, kernels::cpu_isa_name(), peak, "", "median ms", "best ms",
                             "GFLOP/s", "of peak", "at best")
                          .c_str());
  }
  for (const Case& c : cases) {
    const double median = c.flops / c.median() / 1e9, best = c.flops / c.best() / 1e9;
    if (common.json) {
      Json row = Json::object();
      row.set("name", c.name);
      row.set("median_ms", c.median() * 1e3);
      row.set("best_ms", c.best() * 1e3);
      row.set("gflops", median);
      row.set("share_of_peak", median / peak);
      rows.push_back(std::move(row));
      continue;
    }
    std::printf("%s", format("{:<44} {:>10.2f} {:>10.2f} {:>10.1f} {:>7.1f}% {:>7.1f}%\n", c.name,
                             c.median() * 1e3, c.best() * 1e3, median, 100 * median / peak,
                             100 * best / peak)
                          .c_str());
  }
  if (common.json) {
    Json out = Json::object();
    out.set("threads", threads);
    out.set("isa", kernels::cpu_isa_name());
    out.set("peak_gflops", peak);
    out.set("cases", std::move(rows));
    std::printf("%s\n", out.dump(2).c_str());
  }
}

struct LinearOptions : Common {
  std::vector<std::int64_t> rows{512, 4096}, in{384, 1536}, out{384, 1536};
};

void bench_linear(const LinearOptions& o) {
  const int threads = kernels::pin_all_cores(o.threads);
  const Stream stream{.num_threads = threads};
  const kernels::KernelTable& table = kernels::cpu_kernels();
  Arena arena;
  std::vector<Case> cases;
  for (const std::int64_t M : o.rows) {
    for (const std::int64_t K : o.in) {
      for (const std::int64_t N : o.out) {
        const Tensor x = random(arena, stream, {M, K}), w = random(arena, stream, {N, K});
        const Tensor y = random(arena, stream, {M, N}), b = random(arena, stream, {N});
        const Tensor dx = arena.like(x), dw = arena.like(w), db = arena.like(b);
        const double flops =
            2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
        const std::string shape = format(" {}x{} -> {}", M, K, N);
        cases.push_back({"linear forward" + shape, flops, [=, &table] {
                           table.linear_forward({.x = x, .weight = w, .bias = b, .y = y}, stream);
                         }});
        cases.push_back({"linear dx" + shape, flops, [=, &table] {
                           table.linear_backward({.x = x, .weight = w, .dy = y, .dx = dx}, stream);
                         }});
        cases.push_back({"linear dweight" + shape, flops, [=, &table] {
                           table.linear_backward(
                               {.x = x, .weight = w, .dy = y, .dweight = dw, .dbias = db}, stream);
                         }});
      }
    }
  }
  measure_and_print(cases, o, threads);
}

struct AttentionOptions : Common {
  std::vector<std::int64_t> tokens{4096}, head_dim{64, 128};
  std::int64_t heads = 4, batch = 1;
};

void bench_attention(const AttentionOptions& o) {
  const int threads = kernels::pin_all_cores(o.threads);
  const Stream stream{.num_threads = threads};
  const kernels::KernelTable& table = kernels::cpu_kernels();
  Arena arena;
  std::vector<Case> cases;
  for (const std::int64_t S : o.tokens) {
    for (const std::int64_t D : o.head_dim) {
      const Shape shape{o.batch, S, o.heads, D};
      const Tensor q = random(arena, stream, shape), k = random(arena, stream, shape);
      const Tensor v = random(arena, stream, shape), d_o = random(arena, stream, shape);
      const Tensor out = arena.empty(shape), lse = arena.empty({o.batch, o.heads, S});
      const Tensor dq = arena.empty(shape), dk = arena.empty(shape), dv = arena.empty(shape);
      const Tensor delta = arena.like(lse);
      const float scale = 1.0f / std::sqrt(static_cast<float>(D));
      const double flops =
          4.0 * static_cast<double>(o.batch * o.heads * D) * static_cast<double>(S * S);
      const std::string name = format(" S={} H={} D={}", S, o.heads, D);
      cases.push_back({"attention forward" + name, flops, [=, &table] {
                         table.attention_forward(
                             {.q = q, .k = k, .v = v, .o = out, .lse = lse, .scale = scale},
                             stream);
                       }});
      cases.push_back({"attention backward" + name, 2.5 * flops, [=, &table] {
                         table.attention_backward({.q = q,
                                                   .k = k,
                                                   .v = v,
                                                   .o = out,
                                                   .lse = lse,
                                                   .d_o = d_o,
                                                   .dq = dq,
                                                   .dk = dk,
                                                   .dv = dv,
                                                   .delta = delta,
                                                   .scale = scale},
                                                  stream);
                       }});
    }
  }
  measure_and_print(cases, o, threads);
}

}  // namespace

void add_bench_linear(CLI::App& bench) {
  auto o = std::make_shared<LinearOptions>();
  CLI::App* command = bench.add_subcommand("linear", "Matrix products of linear layers");
  command->add_option("--rows", o->rows, "Tokens")->capture_default_str();
  command->add_option("--in", o->in, "Input channels")->capture_default_str();
  command->add_option("--out", o->out, "Output channels")->capture_default_str();
  add_common(command, o);
  command->footer("Example:\n  dsv bench linear --rows 4096 --in 384 1536 --out 1536");
  command->callback([o] { bench_linear(*o); });
}

void add_bench_attention(CLI::App& bench) {
  auto o = std::make_shared<AttentionOptions>();
  CLI::App* command = bench.add_subcommand("attention", "Dense attention, forward and backward");
  command->add_option("--tokens", o->tokens, "Sequence lengths")->capture_default_str();
  command->add_option("--head-dim", o->head_dim, "Head dims")->capture_default_str();
  command->add_option("--heads", o->heads, "Heads")->capture_default_str();
  command->add_option("--batch", o->batch, "Samples")->capture_default_str();
  add_common(command, o);
  command->footer(
      "Useful FLOPs: forward 4 S^2 D per head, backward 2.5 times that.\n"
      "Example:\n  dsv bench attention --tokens 4096 16384 --head-dim 64 128 --heads 4");
  command->callback([o] { bench_attention(*o); });
}

}  // namespace dsv::cli
