// dsv bench select: which blocks of keys each group of queries attends to, from low-rank queries
// and keys: time, logits a second, realised density, memory.
#include "bench_select.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <numeric>

#include "bench_device.h"
#include "dsv/base/check_math.h"
#include "dsv/base/json.h"
#include "dsv/tensor/cuda_device.h"
#include "dsv/tensor/transfer.h"

namespace dsv::cli {
namespace {

struct Options {
  DeviceOption device;
  std::int64_t tokens = 8192, heads = 16, rank = 16, group = 64, granularity = 16, batch = 1;
  int unit = 1, repeat = 15;
  double density = 0.1, mass = 0;  // mass > 0: by mass, without a cap
  double spread = 2;               // standard deviation of a query's logits
  bool json = false;
};

Tensor on_device(BenchDevice& device, const Tensor& host) {
  const Tensor out = device.empty(host.shape(), host.dtype());
  transfer(host, out, device.stream());
  synchronize(device.stream());
  return out;
}

template <typename T>
Tensor host_values(std::vector<T>& from, DType dtype) {
  return Tensor(from.data(), dtype, {static_cast<std::int64_t>(from.size())});
}

// 0, step, 2 step, …, total.
Tensor starts(BenchDevice& device, std::int64_t total, std::int64_t step) {
  std::vector<std::int32_t> start;
  for (std::int64_t at = 0; at < total; at += step) start.push_back(static_cast<std::int32_t>(at));
  start.push_back(static_cast<std::int32_t>(total));
  return on_device(device, host_values(start, DType::kI32));
}

Tensor per_head(BenchDevice& device, std::int64_t H, float value) {
  std::vector<float> values(static_cast<std::size_t>(H), value);
  return on_device(device, host_values(values, DType::kF32));
}
Tensor per_head(BenchDevice& device, std::int64_t H, std::int32_t value) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(H), value);
  return on_device(device, host_values(values, DType::kI32));
}

// Bytes in use: of the GPU by anybody, else this process's high-water mark.
std::int64_t bytes_in_use(const BenchDevice& device) {
  if (device.on_cuda()) {
    const CudaDeviceInfo info = cuda_device_info(device.stream().device.index);
    return info.total_bytes - info.free_bytes;
  }
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

kernels::SelectBlocks arguments(const Options& o, BenchDevice& device) {
  const DType dtype = device.compute_dtype();
  const std::int64_t S = o.tokens, H = o.heads, N = ceil_div(S, o.granularity);
  // Columns of one projection, as in a model.
  const Tensor both = device.random({o.batch, S, 2, H, o.rank}, dtype);
  kernels::SelectBlocks args{.q_lr = both.select(2, 0), .k_lr = both.select(2, 1), .unit = o.unit};
  if (o.granularity > 1) args.block_start = starts(device, S, o.granularity);
  args.group_start = starts(device, S, o.group);
  const std::int64_t G = args.group_start.num_elements() - 1;
  args.slope = per_head(device, H, 1.0f);
  args.mass = per_head(device, H, o.mass > 0 ? static_cast<float>(o.mass) : 2.0f);
  const auto k = static_cast<std::int32_t>(std::lround(o.density * static_cast<double>(S)));
  args.min_keys = per_head(device, H, o.mass > 0 ? std::int32_t{0} : k);
  args.max_keys = per_head(device, H, o.mass > 0 ? static_cast<std::int32_t>(S) : k);
  args.bits = device.empty({o.batch, H, G, ceil_div(N, 32)}, DType::kU32);
  args.num_keys = device.empty({o.batch, H, G}, DType::kI32);
  args.covered = device.empty({o.batch, H, G}, DType::kF32);
  // The mean of `group` independent queries is shorter by the root of their number.
  args.scale = static_cast<float>(
      o.spread * std::sqrt(static_cast<double>(o.group) / static_cast<double>(o.rank)));
  return args;
}

void bench_select(const Options& o) {
  BenchDevice device(o.device);
  const kernels::SelectBlocks args = arguments(o, device);
  const auto run = [&] { device.kernels().select_blocks(args, device.stream()); };
  const std::int64_t before = bytes_in_use(device);
  run();
  synchronize(device.stream());
  const std::int64_t memory = bytes_in_use(device) - before;
  std::vector<double> seconds;
  for (int i = 0; i < o.repeat; ++i) seconds.push_back(device.seconds(run));
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];

  std::vector<std::int32_t> keys(static_cast<std::size_t>(args.num_keys.num_elements()));
  const Tensor host_keys(keys.data(), DType::kI32, args.num_keys.shape());
  transfer(args.num_keys, host_keys, device.stream());
  synchronize(device.stream());
  const double rows = static_cast<double>(keys.size()), S = static_cast<double>(o.tokens);
  const double density = std::accumulate(keys.begin(), keys.end(), 0.0) / rows / S;
  const double logits = rows * S;
  if (o.json) {
    Json json = Json::object();
    json.set("device", device.describe());
    json.set("median_ms", median * 1e3);
    json.set("best_ms", seconds.front() * 1e3);
    json.set("glogits_per_s", logits / median / 1e9);
    json.set("density", density);
    json.set("workspace_bytes", memory);
    std::printf("%s\n", json.dump(2).c_str());
    return;
  }
  std::printf("%s",
              format("{}; S={} H={} r={}, groups of {}, blocks of {}, unit {}\n"
                     "{:.2f} ms (best {:.2f}), {:.2f} G logits/s, density {:.4f}, {:.1f} MiB of "
                     "workspace (all groups x blocks in f32: {:.1f})\n",
                     device.describe(), o.tokens, o.heads, o.rank, o.group, o.granularity, o.unit,
                     median * 1e3, seconds.front() * 1e3, logits / median / 1e9, density,
                     static_cast<double>(memory) / (1 << 20),
                     rows * S / static_cast<double>(o.granularity) * 4 / (1 << 20))
                  .c_str());
}

}  // namespace

void add_bench_select(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("select", "Selection of blocks of keys from low-rank queries and keys");
  const auto count = [&](const char* name, std::int64_t& value, const char* what) {
    command->add_option(name, value, what)->capture_default_str()->check(CLI::PositiveNumber);
  };
  count("--tokens", o->tokens, "Queries, and as many keys");
  count("--heads", o->heads, "Heads");
  count("--rank", o->rank, "Channels of a low-rank head, at most 256");
  count("--group", o->group, "Queries of a group, at most 128");
  count("--granularity", o->granularity, "Keys of a block, at most 16; 1: single keys");
  count("--batch", o->batch, "Samples");
  command->add_option("--unit", o->unit, "Blocks taken together")
      ->capture_default_str()
      ->check(CLI::IsMember({1, 4}));
  CLI::Option* density =
      command->add_option("--density", o->density, "Share of the keys that each group takes")
          ->capture_default_str()
          ->check(CLI::Range(0.0, 1.0));
  command->add_option("--mass", o->mass, "Take this share of the predicted mass instead")
      ->check(CLI::Range(0.0, 1.0))
      ->excludes(density);
  command->add_option("--spread", o->spread, "Standard deviation of a group's logits")
      ->capture_default_str();
  add_device_option(command, &o->device, "auto");
  command->add_option("--repeat", o->repeat, "Measured calls; their median is printed")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", o->json, "Print JSON");
  command->footer("Example:\n  dsv bench select --tokens 65536 --group 128 --mass 0.9");
  command->callback([o] { bench_select(*o); });
}

}  // namespace dsv::cli
