#include <cmath>

#include "dsv/model/diffusers_config.h"
#include "dsv/model/dit.h"
#include "dsv/model/flops.h"
#include "support/catch.h"
#include "support/engine.h"

using namespace dsv;
using namespace dsv::model;

namespace {

std::int64_t count(const DitConfig& config) {
  autograd::ParamStore store;
  Dit(config).declare(store);
  return store.num_params();
}

}  // namespace

TEST_CASE("model: presets have the parameter counts of their papers", "[model]") {
  CHECK(count(preset("wan-1.3b")) == 1'418'996'800);
  CHECK(count(preset("wan-14b")) == 14'288'491'584);
  CHECK(count(preset("dsv-0.8b")) == Approx(0.8e9).epsilon(0.1));
  CHECK(count(preset("dsv-2.7b")) == Approx(2.73e9).epsilon(0.01));
  CHECK(count(preset("dsv-30b")) == Approx(25.6e9).epsilon(0.01));
  autograd::ParamStore wan;
  Dit(preset("wan-1.3b")).declare(wan);
  std::size_t tensors = 0;
  for (const auto& unit : wan.units()) tensors += unit.entries.size();
  CHECK(tensors == 825);
}

TEST_CASE("model: diffusers' config.json comes back as it was", "[model]") {
  for (const std::string& name : preset_names()) {
    INFO(name);
    const Json json = config_to_diffusers(preset(name));
    const Json again = config_to_diffusers(config_from_diffusers(json));
    CHECK(json == again);
  }
  Json odd = config_to_diffusers(preset("wan-1.3b"));
  odd.set("image_dim", 1280);
  CHECK_THROWS_WITH(config_from_diffusers(odd), Contains("image_dim"));
  odd.set("image_dim", nullptr);
  odd.set("new_switch", true);
  CHECK_THROWS_WITH(config_from_diffusers(odd), Contains("new_switch"));
}

TEST_CASE("rope: pairs are split t, h, w and follow the tokens' own coordinates", "[rope]") {
  testing::Engine engine;
  const auto ctx = engine.context();
  const auto positions = raster_positions(2, 3, 4);
  const auto tables = rope_tables(ctx, positions, 128);  // 22, 21, 21 pairs
  const std::int64_t s = 1 * 12 + 2 * 4 + 3;             // t = 1, h = 2, w = 3
  const float* cos = tables.cos.f32() + s * 64;
  CHECK(cos[0] == Approx(std::cos(1.0)));
  CHECK(cos[22] == Approx(std::cos(2.0)));
  CHECK(cos[43] == Approx(std::cos(3.0)));
  CHECK(cos[44] == Approx(std::cos(3.0 * std::pow(10000.0, -2.0 / 42))));
  const auto one = rope_tables(ctx, {positions[static_cast<std::size_t>(s)]}, 128);
  CHECK(std::equal(cos, cos + 64, one.cos.f32()));
}

TEST_CASE("flops: a wan-1.3b step at 32,760 tokens costs what the arithmetic says", "[flops]") {
  const Flops flops = model_flops(preset("wan-1.3b"), 32'760);
  // 30 blocks: attention 4 S^2 C; linears 2 S (6 C^2 + 2 C F) + text.
  CHECK(flops.self_attention == Approx(30 * 4.0 * 32'760 * 32'760 * 1536));
  CHECK(flops.self_attention / flops.forward() == Approx(0.70).epsilon(0.02));
}

TEST_CASE("model: latents that do not fit are refused with the fix", "[model]") {
  const Dit dit(preset("tiny-cpu"));
  CHECK_THROWS_WITH(dit.geometry({1, 3, 8, 16, 16}), Contains("model.in_channels"));
  CHECK_THROWS_WITH(dit.geometry({1, 96, 8, 15, 16}), Contains("multiples of the patch"));
}
