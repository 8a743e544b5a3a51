// dsv bench elementwise: the kernels that memory bounds, in GB/s and as a share of the copy rate
// measured between them.
#include "bench_elementwise.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>

#include "bench_device.h"
#include "dsv/base/check_math.h"
#include "dsv/base/json.h"
#include "dsv/tensor/cuda_device.h"
#include "dsv/tensor/transfer.h"

namespace dsv::cli {
namespace {

using kernels::Activation;

struct Options {
  std::int64_t tokens = 8192, channels = 1024;
  DeviceOption device;
  int repeat = 20;
  std::string kernel;  // part of a name; empty: all
  bool json = false;
};

// One kernel on the shared buffers: what it reads and writes, once each.
struct Case {
  std::string name;
  std::int64_t num_bytes;
  std::function<void()> run;
  double best_s = 1e30;
};

// Activations' worth of numbers, viewed in every shape that the cases need: buffers_ in the compute
// dtype, wide_ in f32 (the same ones where the two are the same).
class Cases {
 public:
  Cases(const Options& o, BenchDevice& device)
      : device_(device), S_(o.tokens), C_(o.channels), a_(size_of(device.compute_dtype())) {
    for (Tensor& t : buffers_) t = device.random({S_ * C_}, device.compute_dtype());
    for (std::size_t i = 0; i < std::size(wide_); ++i) {
      wide_[i] = a_ == 4 ? buffers_[i] : device.random({S_ * C_}, DType::kF32);
    }
    for (Tensor& t : rows_) t = device.random({C_}, DType::kF32);
    for (Tensor& t : columns_) {
      t = device.empty({S_}, DType::kF32);
      table_.fill({.y = t, .value = 1}, stream_);
    }
    add_copies();
    add_norms();
    add_activations();
    add_moves();
    add_training();
  }
  std::vector<Case>& list() { return list_; }

 private:
  // A kernel that moves `activations` arrays of the compute dtype and `wide` ones of f32.
  void add(const std::string& name, double activations, double wide, std::function<void()> run) {
    const auto bytes =
        (activations * static_cast<double>(a_) + wide * 4) * static_cast<double>(S_ * C_);
    list_.push_back({name, static_cast<std::int64_t>(bytes), std::move(run)});
  }
  void add(const std::string& name, double activations, std::function<void()> run) {
    add(name, activations, 0, std::move(run));
  }
  Tensor activation(int i) const { return buffers_[i].reshape({1, S_, C_}); }
  Tensor matrix(int i) const { return buffers_[i].reshape({S_, C_}); }
  Tensor row(int i) const { return rows_[i].reshape({1, C_}); }
  Tensor column(int i) const { return columns_[i].reshape({1, S_}); }

  // What the others are compared with: the library's copy and a plain loop, whichever is faster.
  void add_copies() {
    add("copy (library)", 2, [this] { library_copy(buffers_[0], buffers_[1]); });
    add("copy (kernel)", 2,
        [this] { table_.axpby({.x = buffers_[0], .y = buffers_[1], .a = 1, .b = 0}, stream_); });
  }

  // memcpy, a share per thread; the driver's copy on a GPU.
  void library_copy(const Tensor& from, const Tensor& to) const {
    if (device_.on_cuda()) return transfer(from, to, stream_);
    const float* source = from.f32();
    float* target = to.f32();
#pragma omp parallel for num_threads(stream_.num_threads) schedule(static)
    for (int t = 0; t < stream_.num_threads; ++t) {
      const std::int64_t n = stream_.num_threads;
      std::copy(source + S_ * C_ * t / n, source + S_ * C_ * (t + 1) / n, target + S_ * C_ * t / n);
    }
  }

  void add_norms() {
    add("layer_norm_forward", 2, [this] {
      table_.layer_norm_forward({.x = activation(0),
                                 .scale = row(0),
                                 .shift = row(1),
                                 .y = activation(1),
                                 .mean = column(0),
                                 .rstd = column(1)},
                                stream_);
    });
    add("layer_norm_backward", 3, [this] {
      table_.layer_norm_backward({.x = activation(0),
                                  .scale = row(0),
                                  .mean = column(0),
                                  .rstd = column(1),
                                  .dy = activation(1),
                                  .dx = activation(2),
                                  .dscale = row(2),
                                  .dshift = row(3)},
                                 stream_);
    });
    add("rms_norm_forward", 2, [this] {
      table_.rms_norm_forward(
          {.x = matrix(0), .weight = rows_[0], .y = matrix(1), .rstd = columns_[0]}, stream_);
    });
    add("rms_norm_backward", 3, [this] {
      table_.rms_norm_backward({.x = matrix(0),
                                .weight = rows_[0],
                                .rstd = columns_[0],
                                .dy = matrix(1),
                                .dx = matrix(2),
                                .dweight = rows_[1]},
                               stream_);
    });
    add("gated_residual_forward", 3, [this] {
      table_.gated_residual_forward(
          {.x = activation(0), .h = activation(1), .gate = row(0), .y = activation(2)}, stream_);
    });
    add("gated_residual_backward", 3, [this] {
      table_.gated_residual_backward({.h = activation(0),
                                      .gate = row(0),
                                      .dy = activation(1),
                                      .dh = activation(2),
                                      .dgate = row(1)},
                                     stream_);
    });
  }

  void add_activations() {
    const std::pair<const char*, Activation> kinds[] = {{"gelu_tanh", Activation::kGeluTanh},
                                                        {"gelu_erf", Activation::kGeluErf},
                                                        {"silu", Activation::kSilu}};
    for (const auto& [name, kind] : kinds) {
      add(std::string(name) + "_forward", 2, [this, kind = kind] {
        table_.activation_forward({.x = buffers_[0], .y = buffers_[1], .kind = kind}, stream_);
      });
      add(std::string(name) + "_backward", 3, [this, kind = kind] {
        table_.activation_backward(
            {.x = buffers_[0], .dy = buffers_[1], .dx = buffers_[2], .kind = kind}, stream_);
      });
    }
    const auto half = [this](int i) {
      return buffers_[i].slice(0, 0, S_ * C_ / 2).reshape({S_, C_ / 2});
    };
    add("geglu_forward", 1.5,
        [this, half] { table_.geglu_forward({.x = matrix(0), .y = half(1)}, stream_); });
    add("geglu_backward", 2.5, [this, half] {
      table_.geglu_backward({.x = matrix(0), .dy = half(1), .dx = matrix(2)}, stream_);
    });
    add("rope", 2, [this] {
      const Tensor cos = wide_[2].slice(0, 0, S_ * 32).reshape({S_, 32}),
                   sin = wide_[3].slice(0, 0, S_ * 32).reshape({S_, 32});
      table_.rope({.x = buffers_[0].reshape({1, S_, C_ / 64, 64}),
                   .y = buffers_[1].reshape({1, S_, C_ / 64, 64}),
                   .cos = cos,
                   .sin = sin},
                  stream_);
    });
  }

  void add_moves() {
    // Runs of 8 rows from places far apart: what a nested-cube order asks for.
    std::vector<std::int32_t> order(static_cast<std::size_t>(S_));
    for (std::int64_t i = 0; i < S_; ++i) {
      order[static_cast<std::size_t>(i)] =
          static_cast<std::int32_t>(i % 8 + 8 * (i / 8 % (S_ / 32) * 4 + i / 8 / (S_ / 32)));
    }
    order_ = device_.empty({S_}, DType::kI32);
    transfer(Tensor(order.data(), DType::kI32, {S_}), order_, stream_);
    synchronize(stream_);
    // Latents of 480p: 16 channels, as many 60 x 104 frames as fit, patches of 1 x 2 x 2.
    const std::int64_t frame = 16 * 60 * 104, T = S_ * C_ / frame;
    const auto video = [=, this](int i) {
      return wide_[i].slice(0, 0, T * frame).reshape({1, 16, T, 60, 104});
    };
    const auto tokens = [=, this](int i) {
      return buffers_[i].slice(0, 0, T * frame).reshape({1, T * 30 * 52, 64});
    };
    const double share = static_cast<double>(T * frame) / static_cast<double>(S_ * C_);
    for (const bool channels_last : {false, true}) {
      if (T == 0) break;
      const std::string suffix = channels_last ? " (channels last)" : "";
      add("patchify" + suffix, share, share, [=, this] {
        table_.patchify({.video = video(0), .tokens = tokens(1), .channels_last = channels_last},
                        stream_);
      });
      add("unpatchify" + suffix, share, share, [=, this] {
        table_.unpatchify({.video = video(1), .tokens = tokens(0), .channels_last = channels_last},
                          stream_);
      });
    }
    add("broadcast_add_forward", 2, 1, [this] {
      table_.broadcast_add_forward(
          {.x = buffers_[0].reshape({1, -1}), .row = wide_[1], .y = buffers_[2].reshape({1, -1})},
          stream_);
    });
    add("broadcast_add_backward", 1, 1, [this] {
      table_.broadcast_add_backward(
          {.dy = buffers_[0].reshape({2, -1}), .drow = wide_[1].slice(0, 0, S_ * C_ / 2)}, stream_);
    });
    add("gather_rows", 2, [this] {
      table_.gather_rows({.x = activation(0), .index = order_, .y = activation(2)}, stream_);
    });
    add("fill", 1, [this] { table_.fill({.y = buffers_[5], .value = 1}, stream_); });
    add("axpby (b = 0)", 2,
        [this] { table_.axpby({.x = buffers_[0], .y = buffers_[5], .a = 2}, stream_); });
    add("axpby", 3,
        [this] { table_.axpby({.x = buffers_[0], .y = buffers_[5], .a = 1, .b = 0.5f}, stream_); });
    const Tensor bf16(buffers_[4].raw(), DType::kBF16, {S_ * C_}, buffers_[4].device(),
                      buffers_[4].owner());
    add("cast (f32 to bf16)", 0, 1.5,
        [=, this] { table_.cast({.x = wide_[0], .y = bf16}, stream_); });
    add("cast (bf16 to f32)", 0, 1.5,
        [=, this] { table_.cast({.x = bf16, .y = wide_[5]}, stream_); });
  }

  void add_training() {
    for (const bool normal : {false, true}) {
      add(normal ? "random_fill (normal)" : "random_fill (uniform)", 0, 1, [this, normal] {
        table_.random_fill(
            {.y = wide_[5],
             .kind = normal ? kernels::RandomKind::kNormal : kernels::RandomKind::kUniform},
            stream_);
      });
    }
    sums_ = device_.empty({2}, DType::kF64);
    loss_ = device_.empty({1}, DType::kF32);
    const auto sample = [this](int i) { return wide_[i].reshape({1, -1}); };
    add("sum_squares", 0, 1,
        [this] { table_.sum_squares({.x = wide_[0], .out = sums_}, stream_); });
    add("mse_loss_forward", 0, 2, [=, this] {
      table_.mse_loss_forward({.pred = sample(0), .target = sample(1), .loss = loss_}, stream_);
    });
    add("mse_loss_backward", 0, 3, [=, this] {
      table_.mse_loss_backward({.pred = sample(0), .target = sample(1), .dpred = sample(2)},
                               stream_);
    });
    add("flow_mix", 0, 4, [=, this] {
      table_.flow_mix({.x0 = sample(0),
                       .noise = sample(1),
                       .sigma = columns_[0].slice(0, 0, 1),
                       .x_t = sample(2),
                       .target = sample(3)},
                      stream_);
    });
    for (const bool ema : {false, true}) {
      // The compute copy is one more array where the compute dtype is not f32.
      const bool copies = a_ != 4;
      add(ema ? "adamw (with EMA)" : "adamw", copies ? 1 : 0, ema ? 9 : 7, [this, ema, copies] {
        table_.adamw({.param = wide_[1],
                      .grad = wide_[0],
                      .m = wide_[2],
                      .v = wide_[5],
                      .ema = ema ? wide_[3] : Tensor(),
                      .copy = copies ? buffers_[0] : Tensor(),
                      .segments = segments_,
                      .lr = 1e-6,
                      .ema_decay = 0.999},
                     stream_);
      });
    }
  }

  BenchDevice& device_;
  const kernels::KernelTable& table_ = device_.kernels();
  const Stream& stream_ = device_.stream();
  std::int64_t S_, C_, a_;  // a_: bytes of an activation's element
  Tensor buffers_[6], wide_[6], rows_[4], columns_[2], sums_, loss_, order_;
  std::vector<kernels::AdamWSegment> segments_{{0, S_* C_, 0.01f}};
  std::vector<Case> list_;
};

void report(const std::vector<Case>& cases, const Options& o, const BenchDevice& device) {
  const auto gbytes = [](const Case& c) {
    return 1e-9 * static_cast<double>(c.num_bytes) / c.best_s;
  };
  const double copy = std::max(gbytes(cases[0]), gbytes(cases[1]));
  const double mib =
      static_cast<double>(o.tokens * o.channels * size_of(device.compute_dtype())) / (1 << 20);
  if (o.json) {
    Json json = Json::object();
    json.set("device", device.describe());
    json.set("mib", mib);
    json.set("copy_gbytes", copy);
    Json list = Json::object();
    for (const Case& c : cases) {
      Json entry = Json::object();
      entry.set("ms", c.best_s * 1e3);
      entry.set("gbytes", gbytes(c));
      entry.set("share_of_copy", gbytes(c) / copy);
      list.set(c.name, entry);
    }
    json.set("kernels", list);
    std::printf("%s\n", json.dump(2).c_str());
    return;
  }
  std::printf("%s", format("copy {:.1f} GB/s; activations of {:.1f} MiB, {}\n", copy, mib,
                           device.describe())
                        .c_str());
  std::printf("%s",
              format("{:<28} {:>9} {:>9} {:>10}\n", "kernel", "ms", "GB/s", "% of copy").c_str());
  for (const Case& c : cases) {
    std::printf("%s", format("{:<28} {:>9.3f} {:>9.1f} {:>10.0f}\n", c.name, c.best_s * 1e3,
                             gbytes(c), 100 * gbytes(c) / copy)
                          .c_str());
  }
}

}  // namespace

void add_bench_elementwise(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "elementwise", "Memory-bound kernels: GB/s, and the share of the copy rate");
  command->add_option("--tokens", o->tokens, "Rows of an activation, a multiple of 32")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--channels", o->channels, "Columns of an activation, a multiple of 64")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--kernel", o->kernel, "Only kernels whose name contains this");
  command->add_option("--repeat", o->repeat, "Rounds; the best of each kernel counts")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  add_device_option(command, &o->device, "auto");
  command->add_flag("--json", o->json, "Print JSON");
  command->footer("Example:\n  dsv bench elementwise --tokens 16384 --channels 384");
  command->callback([o] {
    if (o->tokens % 32 != 0 || o->channels % 64 != 0) {
      throw_error(
          ExitCode::kConfig,
          "[bench] expected --tokens a multiple of 32 and --channels one of 64, got {} and {}",
          o->tokens, o->channels);
    }
    checked_mul(o->tokens, o->channels);
    BenchDevice device(o->device);
    Cases all(*o, device);
    std::vector<Case>& cases = all.list();
    std::erase_if(cases, [&](const Case& c) {
      return c.name.find("copy") != 0 && c.name.find(o->kernel) == std::string::npos;
    });
    if (cases.size() == 2) {
      throw_error(ExitCode::kConfig, "[bench] no kernel is called like '{}'", o->kernel);
    }
    // In turns, so that a neighbour's burst falls on all alike.
    for (int round = 0; round < o->repeat; ++round) {
      for (Case& c : cases) c.best_s = std::min(c.best_s, device.seconds(c.run));
    }
    report(cases, *o, device);
  });
}

}  // namespace dsv::cli
