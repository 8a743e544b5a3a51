// dsv bench linear | attention: useful GFLOP/s, and the share of the device's peak.
#include "bench_compute.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>

#include "bench_device.h"
#include "bench_selection.h"
#include "dsv/base/json.h"

namespace dsv::cli {
namespace {

struct Common {
  DeviceOption device;
  int repeat = 7;
  bool json = false;
};

struct Case {
  std::string name;
  double flops = 0;  // useful ones; 0: only the time counts
  std::function<void()> run;
  int dense = -1;  // the case of dense attention that this one is compared with
  std::vector<double> seconds;

  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
  double best() const { return *std::min_element(seconds.begin(), seconds.end()); }
};

void add_common(CLI::App* command, const std::shared_ptr<Common>& common) {
  add_device_option(command, &common->device, "auto");
  command->add_option("--repeat", common->repeat, "Rounds; medians are printed")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", common->json, "Print JSON");
}

// All cases once a round, the peak in each round too, so that a neighbour's burst hits all alike.
void measure_and_print(std::vector<Case>& cases, const Common& common, BenchDevice& device) {
  double peak = 0;
  for (int round = -1; round < common.repeat; ++round) {
    peak = std::max(peak, device.peak_gflops());
    for (Case& c : cases) {
      const double seconds = device.seconds(c.run);
      if (round >= 0) c.seconds.push_back(seconds);
    }
  }
  Json rows = Json::array();
  if (!common.json) {
    std::printf(
        "%s", format("{}; {} peak: {:.1f} GFLOP/s\n"
                     "{:<56} {:>10} {:>10} {:>10} {:>8} {:>8} {:>8}\n",
                     device.describe(), device.on_cuda() ? "the datasheet's" : "measured FMA", peak,
                     "", "median ms", "best ms", "GFLOP/s", "of peak", "at best", "x dense")
                  .c_str());
  }
  for (const Case& c : cases) {
    const double median = c.flops / c.median() / 1e9, best = c.flops / c.best() / 1e9;
    const double times_dense =
        c.dense >= 0 ? cases[static_cast<std::size_t>(c.dense)].median() / c.median() : 0;
    if (common.json) {
      Json row = Json::object();
      row.set("name", c.name);
      row.set("median_ms", c.median() * 1e3);
      row.set("best_ms", c.best() * 1e3);
      row.set("gflops", median);
      row.set("share_of_peak", median / peak);
      if (c.dense >= 0) row.set("times_dense", times_dense);
      rows.push_back(std::move(row));
      continue;
    }
    std::string line =
        format("{:<56} {:>10.2f} {:>10.2f}", c.name, c.median() * 1e3, c.best() * 1e3);
    if (c.flops > 0) {
      line += format(" {:>10.1f} {:>7.1f}% {:>7.1f}%", median, 100 * median / peak,
                     100 * best / peak);
    }
    if (c.dense >= 0) line += format(" {:>8.2f}", times_dense);
    std::printf("%s\n", line.c_str());
  }
  if (common.json) {
    Json out = Json::object();
    out.set("device", device.describe());
    out.set("peak_gflops", peak);
    out.set("cases", std::move(rows));
    std::printf("%s\n", out.dump(2).c_str());
  }
}

struct LinearOptions : Common {
  std::vector<std::int64_t> rows{512, 4096}, in{384, 1536}, out{384, 1536};
};

void bench_linear(const LinearOptions& o) {
  BenchDevice device(o.device);
  const Stream stream = device.stream();
  const kernels::KernelTable& table = device.kernels();
  const DType dtype = device.compute_dtype();
  std::vector<Case> cases;
  for (const std::int64_t M : o.rows) {
    for (const std::int64_t K : o.in) {
      for (const std::int64_t N : o.out) {
        const Tensor x = device.random({M, K}, dtype), w = device.random({N, K}, dtype);
        const Tensor y = device.random({M, N}, dtype), b = device.random({N}, dtype);
        const Tensor dx = device.empty({M, K}, dtype), pre = device.empty({M, N}, dtype);
        const Tensor dw = device.random({N, K}, DType::kF32), db = device.random({N}, DType::kF32);
        const double flops =
            2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
        const std::string shape = format(" {}x{} -> {}", M, K, N);
        cases.push_back({"linear forward" + shape, flops, [=, &table] {
                           table.linear_forward({.x = x, .weight = w, .bias = b, .y = y}, stream);
                         }});
        cases.push_back({"linear + gelu forward" + shape, flops, [=, &table] {
                           table.linear_forward({.x = x,
                                                 .weight = w,
                                                 .bias = b,
                                                 .y = y,
                                                 .activation = kernels::Activation::kGeluTanh,
                                                 .pre_activation = pre},
                                                stream);
                         }});
        cases.push_back({"linear dx" + shape, flops, [=, &table] {
                           table.linear_backward({.x = x, .weight = w, .dy = y, .dx = dx}, stream);
                         }});
        cases.push_back({"linear dweight" + shape, flops, [=, &table] {
                           table.linear_backward({.x = x, .weight = w, .dy = y, .dweight = dw},
                                                 stream);
                         }});
        cases.push_back({"linear dweight, dbias" + shape, flops, [=, &table] {
                           table.linear_backward(
                               {.x = x, .weight = w, .dy = y, .dweight = dw, .dbias = db}, stream);
                         }});
      }
    }
  }
  measure_and_print(cases, o, device);
}

struct AttentionOptions : Common {
  std::vector<std::int64_t> tokens{4096}, head_dim{64, 128};
  std::int64_t heads = 4, batch = 1;
  SelectionOptions selection;
};

void bench_attention(const AttentionOptions& o) {
  BenchDevice device(o.device);
  const Stream stream = device.stream();
  const kernels::KernelTable& table = device.kernels();
  const DType dtype = device.compute_dtype();
  std::vector<Case> cases;
  for (const std::int64_t S : o.tokens) {
    for (const std::int64_t D : o.head_dim) {
      const Shape shape{o.batch, S, o.heads, D};
      const Tensor q = device.random(shape, dtype), k = device.random(shape, dtype);
      const Tensor v = device.random(shape, dtype), d_o = device.random(shape, dtype);
      const Tensor out = device.empty(shape, dtype);
      const Tensor lse = device.empty({o.batch, o.heads, S}, DType::kF32);
      const Tensor dq = device.empty(shape, dtype), dk = device.empty(shape, dtype);
      const Tensor dv = device.empty(shape, dtype);
      const Tensor delta = device.empty({o.batch, o.heads, S}, DType::kF32);
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
      if (o.selection.density == 0) continue;
      const Selection chosen = random_selection(o.selection, o.batch, o.heads, S, device);
      const double sparse_flops = 4.0 * static_cast<double>(D) * chosen.num_pairs;
      const std::string choice = format("{} b={} G={} at {:.2f} %", name, o.selection.granularity,
                                        o.selection.group, 100 * sparse_flops / flops);
      const int dense = static_cast<int>(cases.size()) - 2;
      const auto rows = [](const Tensor& t) { return t.reshape({-1, t.dim(2), t.dim(3)}); };
      cases.push_back({"bit_transpose" + choice, 0, [=, &table] {
                         table.bit_transpose(
                             {.in = rows(chosen.bits), .out = rows(chosen.by_block)}, stream);
                       }});
      cases.push_back({"sparse forward" + choice, sparse_flops,
                       [=, &table] {
                         table.sparse_attention_forward({.q = q,
                                                         .k = k,
                                                         .v = v,
                                                         .bits = chosen.bits,
                                                         .block_start = chosen.block_start,
                                                         .group_start = chosen.group_start,
                                                         .o = out,
                                                         .lse = lse,
                                                         .scale = scale},
                                                        stream);
                       },
                       dense});
      cases.push_back({"sparse backward" + choice, 2.5 * sparse_flops,
                       [=, &table] {
                         table.sparse_attention_backward({.q = q,
                                                          .k = k,
                                                          .v = v,
                                                          .bits = chosen.bits,
                                                          .by_block = chosen.by_block,
                                                          .block_start = chosen.block_start,
                                                          .group_start = chosen.group_start,
                                                          .o = out,
                                                          .lse = lse,
                                                          .d_o = d_o,
                                                          .dq = dq,
                                                          .dk = dk,
                                                          .dv = dv,
                                                          .delta = delta,
                                                          .scale = scale},
                                                         stream);
                       },
                       dense + 1});
    }
  }
  measure_and_print(cases, o, device);
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
  CLI::App* command = bench.add_subcommand("attention", "Dense and sparse attention, both passes");
  command->add_option("--tokens", o->tokens, "Sequence lengths")->capture_default_str();
  command->add_option("--head-dim", o->head_dim, "Head dims")->capture_default_str();
  command->add_option("--heads", o->heads, "Heads")->capture_default_str();
  command->add_option("--batch", o->batch, "Samples")->capture_default_str();
  command
      ->add_option("--density", o->selection.density,
                   "Sparse attention too: each group to its own keys and random others, this share")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--granularity", o->selection.granularity, "Keys that are selected together")
      ->capture_default_str()
      ->check(CLI::IsMember({1, 16, 64}));
  command->add_option("--group", o->selection.group, "Queries that share a selection")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, kernels::kMaxGroupQueries));
  add_common(command, o);
  command->footer(
      "Useful FLOPs: forward 4 D per (selected) query and key, backward 2.5 times that.\n"
      "Example:\n  dsv bench attention --tokens 4096 16384 --head-dim 64 128 --heads 4\n"
      "  dsv bench attention --tokens 8192 --density 0.1 --granularity 16 --group 64");
  command->callback([o] { bench_attention(*o); });
}

}  // namespace dsv::cli
