// The engine against PyTorch in float64 (tools/golden): outputs, losses, every gradient, ten AdamW
// steps.
#include <cmath>
#include <filesystem>

#include "dsv/data/atomic_file.h"
#include "dsv/data/safetensors.h"
#include "dsv/model/diffusers_config.h"
#include "dsv/model/dit.h"
#include "dsv/optim/optimizer.h"
#include "dsv/tensor/transfer.h"
#include "dsv/train/weights.h"
#include "kernels/support/hosted_table.h"
#include "support/catch.h"
#include "support/engine.h"

using namespace dsv;
namespace fs = std::filesystem;

namespace {

// Rounding of f32 through two blocks. PyTorch's own f32 (with exact angles) is 4e-7 from float64 in
// the output and 1.5e-6 in a gradient; the smallest deliberate mistake in the graph moves one
// by 1.4e-5.
constexpr double kOutputTolerance = 2e-6;
constexpr double kGradTolerance = 5e-6;
// Of a tensor's change over ten AdamW steps, in the 2-norm: f32 rounding makes 7e-5 (Adam divides
// by the gradient's own size), the smallest mistake tried in the optimizer 2.9e-3.
constexpr double kUpdateTolerance = 5e-4;

fs::path fixtures() {
  return fs::path(DSV_SOURCE_DIR) / "tests/golden/fixtures";
}

std::vector<std::string> cases() {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(fixtures())) {
    if (entry.is_directory()) out.push_back(entry.path().filename().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

// Largest difference relative to the largest expected magnitude.
double relative_error(const Tensor& got, const Tensor& expected) {
  REQUIRE(got.num_elements() == expected.num_elements());
  double difference = 0, largest = 0;
  for (std::int64_t i = 0; i < got.num_elements(); ++i) {
    const double e = expected.f32()[i];
    difference = std::max(difference, std::fabs(got.f32()[i] - e));
    if (std::isnan(got.f32()[i])) return INFINITY;
    largest = std::max(largest, std::fabs(e));
  }
  return difference / std::max(largest, 1e-30);
}

struct Golden {
  explicit Golden(const std::string& name, testing::Engine& engine,
                  model::Checkpointing checkpointing)
      : dir(fixtures() / name), batch(open("batch")), expect(open("expect")) {
    const auto json = data::read_file((dir / "config.json").string(), 1 << 20);
    model::DitConfig config = model::config_from_diffusers(parse_json(json, name));
    config.checkpointing = checkpointing;
    const autograd::Context ctx = engine.context();
    dit = std::make_unique<model::Dit>(config);
    dit->declare(store);
    store.allocate(ctx, {.grad = true, .optimizer = true});
    train::load_weights(ctx, store, open("weights"));
    dit->bind(store);
    const Tensor text = batch.read("encoder_hidden_states");
    const Tensor mask = engine.arena.empty({text.dim(0), text.dim(1)});
    for (std::int64_t r = 0; r < mask.num_elements(); ++r) {
      bool any = r % text.dim(1) == 0;
      for (std::int64_t c = 0; c < text.dim(2); ++c)
        any = any || text.f32()[r * text.dim(2) + c] != 0;
      mask.f32()[r] = any ? 1.0f : 0.0f;
    }
    inputs = {.latents = batch.read("hidden_states"),
              .timesteps = batch.read("timestep"),
              .text = text,
              .text_mask = mask};
    target = batch.read("target");
  }
  data::SafetensorsFile open(const std::string& stem) const {
    return data::SafetensorsFile::open((dir / (stem + ".safetensors")).string());
  }
  // Leaves gradients in the store; returns the loss.
  double step(testing::Engine& engine, Tensor* output = nullptr) {
    autograd::Tape tape;
    const autograd::Context ctx = engine.context(&tape);
    store.zero_grad(ctx);
    const autograd::Variable y = dit->forward(ctx, inputs);
    const auto B = static_cast<double>(target.dim(0));
    const Tensor losses = autograd::mse_loss(ctx, y, target, Tensor(), static_cast<float>(1 / B));
    if (output != nullptr) *output = y.value();
    tape.backward(ctx);
    double loss = 0;
    for (std::int64_t b = 0; b < target.dim(0); ++b) loss += losses.f32()[b] / B;
    return loss;
  }

  fs::path dir;
  data::SafetensorsFile batch, expect;
  std::unique_ptr<model::Dit> dit;
  autograd::ParamStore store;
  model::DitInputs inputs;
  Tensor target;
};

struct Table {
  const char* name;
  const kernels::KernelTable& kernels;
};
// The cuda table is in its parity mode here: everything is f32.
std::vector<Table> tables() {
  std::vector<Table> out{{"reference", kernels::reference_kernels()},
                         {"cpu", kernels::cpu_kernels()}};
  if (num_cuda_devices() > 0) out.push_back({"cuda", test::hosted_cuda_kernels()});
  return out;
}

}  // namespace

TEST_CASE("golden: output, loss, and every gradient equal PyTorch's", "[golden]") {
  const auto names = cases();
  REQUIRE(names.size() >= 5);
  for (const Table& table : tables()) {
    for (const std::string& name : names) {
      INFO(name << " with " << table.name << " kernels");
      testing::Engine engine(table.kernels);
      Golden golden(name, engine, model::Checkpointing::kNone);
      Tensor output;
      const double loss = golden.step(engine, &output);
      CHECK(relative_error(output, golden.expect.read("output")) < kOutputTolerance);
      CHECK(loss == Approx(golden.expect.read("loss").f64()[0]).epsilon(1e-6));
      for (const autograd::ParamUnit& unit : golden.store.units()) {
        for (const autograd::ParamEntry& entry : unit.entries) {
          INFO(entry.spec.name);
          const Tensor expected = golden.expect.read("grad." + entry.spec.name);
          CHECK(relative_error(golden.store.get(entry.spec.name).grad, expected) < kGradTolerance);
        }
      }
    }
  }
}

TEST_CASE("golden: checkpointing changes no bit of any gradient", "[golden]") {
  for (const std::string& name : cases()) {
    std::vector<std::vector<float>> grads;
    for (const auto mode : {model::Checkpointing::kNone, model::Checkpointing::kBlock,
                            model::Checkpointing::kKeepAttention, model::Checkpointing::kAuto}) {
      testing::Engine engine(kernels::cpu_kernels());
      Golden golden(name, engine, mode);
      golden.step(engine);
      std::vector<float> all;
      for (const autograd::ParamUnit& unit : golden.store.units()) {
        const auto part = testing::to_vector(unit.grad);
        all.insert(all.end(), part.begin(), part.end());
      }
      grads.push_back(std::move(all));
    }
    INFO(name);
    // Not as vectors: a failure would print them whole.
    CHECK((grads[1] == grads[0]));
    CHECK((grads[2] == grads[0]));
    CHECK((grads[3] == grads[0]));
  }
}

TEST_CASE("golden: ten AdamW steps follow PyTorch's", "[golden]") {
  const optim::OptimConfig config{.lr = 1e-3, .weight_decay = 0.01, .grad_clip = 1.0};
  for (const std::string& name : cases()) {
    INFO(name);
    testing::Engine engine(kernels::cpu_kernels());
    Golden golden(name, engine, model::Checkpointing::kNone);
    const Tensor losses = golden.expect.read("adamw.loss"),
                 norms = golden.expect.read("adamw.grad_norm");
    const autograd::Context ctx = engine.context();
    for (int i = 0; i < 10; ++i) {
      const double loss = golden.step(engine);
      const optim::GradNorm grad = optim::gradient_norm(ctx, golden.store);
      CHECK(grad.num_nonfinite == 0);
      CHECK(loss == Approx(losses.f64()[i]).epsilon(2e-6));
      CHECK(grad.norm == Approx(norms.f64()[i]).epsilon(2e-5));
      optim::adamw_step(ctx, golden.store, config, config.lr,
                        optim::clip_scale(grad.norm, config.grad_clip), i + 1);
    }
    const data::SafetensorsFile initial = golden.open("weights");
    for (const autograd::ParamUnit& unit : golden.store.units()) {
      for (const autograd::ParamEntry& entry : unit.entries) {
        INFO(entry.spec.name);
        const Tensor got = golden.store.get(entry.spec.name).master;
        const Tensor expected = golden.expect.read("final." + entry.spec.name);
        const Tensor before = initial.read(entry.spec.name);
        double error = 0, change = 0;
        for (std::int64_t i = 0; i < got.num_elements(); ++i) {
          error += std::pow(got.f32()[i] - expected.f32()[i], 2);
          change += std::pow(expected.f32()[i] - before.f32()[i], 2);
        }
        CHECK(std::sqrt(error) <= kUpdateTolerance * std::sqrt(change));
      }
    }
  }
}
