// A model that trains in milliseconds on fixed samples, on any number of ranks, from and to
// checkpoints: what the tests of whole training steps run.
#pragma once

#include <thread>

#include "data/temp_dir.h"
#include "dsv/data/host_tensor.h"
#include "dsv/train/checkpoint_writer.h"
#include "dsv/train/train_step.h"
#include "support/catch.h"

namespace dsv::train {

inline Config tiny_config() {
  Config c;
  c.run.device = DeviceChoice::kCpu;
  c.run.steps = 40;
  c.run.seed = 11;
  c.model.num_layers = 2;
  c.model.num_heads = 2;
  c.model.head_dim = 12;
  c.model.ffn_dim = 40;
  c.model.in_channels = c.model.out_channels = 6;
  c.model.text_dim = 8;
  c.model.text_len = 4;
  c.model.freq_dim = 16;
  c.optim.lr = 3e-3;
  c.optim.warmup_steps = 5;
  c.optim.schedule = optim::Schedule::kCosine;
  c.diffusion.cfg_dropout = 0.3;
  return c;
}

// Latents of the first bucket's frames, height, and width where the configuration lists one.
inline Shape latent_shape(const Config& config, std::int64_t count) {
  const std::int64_t C = config.model.in_channels;
  if (config.data.buckets.empty()) return {count, C, 2, 4, 4};
  const data::Bucket& b = config.data.buckets.front();
  return {count, C, b.frames, b.height, b.width};
}

// Four samples a step, the same whoever asks; rank r of n takes slots [4r/n, 4(r+1)/n), in
// micro-batches.
class Source {
 public:
  Source(const Config& config, const comm::Mesh& mesh, std::int64_t start, std::int64_t micro)
      : config_(config), step_(start), micro_size_(micro) {
    const std::int64_t rank = mesh.dp->rank(), size = mesh.dp->size();
    begin_ = kBatch * rank / size;
    end_ = kBatch * (rank + 1) / size;
  }
  data::LoaderBatch operator()() {
    const std::int64_t n = end_ - begin_;
    data::LoaderBatch b{.step = step_,
                        .micro = micro_,
                        .num_micro = ceil_div(n, micro_size_),
                        .global_batch = kBatch,
                        .height = 32,
                        .width = 32,
                        .frames = 4};
    const std::int64_t from = begin_ + micro_ * micro_size_;
    const std::int64_t count = std::min(micro_size_, end_ - from);
    if (n > 0) {
      b.latent = data::host_tensor(latent_shape(config_, count));
      b.text = data::host_tensor({count, config_.model.text_len, config_.model.text_dim});
      b.text_mask = data::host_tensor({count, config_.model.text_len});
      for (std::int64_t i = 0; i < count; ++i) {
        const std::uint64_t id = static_cast<std::uint64_t>((step_ * kBatch + from + i) % 7);
        fill(b.latent.select(0, i), id);
        fill(b.text.select(0, i), 100 + id);
        std::fill_n(b.text_mask.select(0, i).f32(), config_.model.text_len, 1.0f);
        b.sample_ids.push_back(id);
        b.epochs.push_back((step_ * kBatch + from + i) / 7);
      }
    }
    if (++micro_ >= b.num_micro) {
      micro_ = 0;
      ++step_;
    }
    return b;
  }

 private:
  static constexpr std::int64_t kBatch = 4;
  static void fill(const Tensor& t, std::uint64_t id) {
    const PhiloxStream stream({.purpose = RngPurpose::kTest, .sample = id});
    for (std::int64_t i = 0; i < t.num_elements(); ++i) {
      t.f32()[i] =
          static_cast<float>(2 * philox_uniform(stream.word(static_cast<std::uint64_t>(i))) - 1);
    }
  }
  const Config& config_;
  std::int64_t step_, begin_ = 0, end_ = 0, micro_size_, micro_ = 0;
};

struct Curve {
  std::vector<double> loss, grad_norm;
  std::uint32_t hash = 0;
  sparsity::SparsityState sparsity;
};

inline Tensor null_text(const Config& config) {
  const Tensor t = data::host_tensor({1, config.model.text_dim});
  std::fill_n(t.f32(), t.num_elements(), 0.0f);
  return t;
}

// Steps [from, to) on one rank, resuming from and leaving a checkpoint where folders are given.
inline Curve run_rank(const Config& config, std::unique_ptr<comm::Communicator> world,
                      std::int64_t to, const std::string& from_dir, const std::string& to_dir,
                      std::int64_t micro, int threads) {
  Runtime runtime({.device = config.run.device,
                   .compute = config.precision.compute,
                   .determinism = config.run.determinism,
                   .place = {.num_threads = threads}},
                  std::move(world));
  TrainState state(runtime.context(), config);
  comm::Communicator& comm = *runtime.mesh().world;
  if (!from_dir.empty()) {
    auto reader = CheckpointReader::open_newest_valid(
        from_dir, {.required = true, .stream = runtime.stream()}, comm);
    state.restore(runtime.context(), *reader);
  }
  Source source(config, runtime.mesh(), state.step(), micro);
  const Tensor null = null_text(config);
  Curve curve;
  while (state.step() < to) {
    const StepResult r = train_step(runtime, state, config, std::ref(source), null);
    curve.loss.push_back(r.loss);
    curve.grad_norm.push_back(r.grad.norm);
  }
  if (!to_dir.empty()) {
    CheckpointWriter writer(to_dir, {.stream = runtime.stream()}, comm);
    CheckpointMeta meta{.step = state.step(), .run_id = "test"};
    state.describe(meta.extra);
    writer.save(meta, state.pieces(runtime.mesh()));
    writer.drain();
    DSV_CHECK(writer.stats().num_failed == 0, "[test] the checkpoint was not saved");
  }
  curve.hash = state.hash(runtime.context());
  curve.sparsity = state.attention().state();
  return curve;
}

inline Curve run(const Config& config, int ranks, std::int64_t to, const std::string& from_dir = {},
                 const std::string& to_dir = {}, std::int64_t micro = 1, int threads = 1) {
  auto comms = comm::make_loopback(ranks);
  std::vector<Curve> curves(static_cast<std::size_t>(ranks));
  std::vector<std::thread> workers;
  for (std::size_t r = 0; r < curves.size(); ++r) {
    workers.emplace_back([&, r] {
      curves[r] = run_rank(config, std::move(comms[r]), to, from_dir, to_dir, micro, threads);
    });
  }
  for (auto& w : workers) w.join();
  for (const Curve& c : curves) {
    CHECK(c.loss == curves[0].loss);
    CHECK(c.hash == curves[0].hash);
  }
  return curves[0];
}

}  // namespace dsv::train
