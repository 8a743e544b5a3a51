#include <functional>

#include "dsv/base/error.h"
#include "dsv/model/dit_config.h"
#include "support/catch.h"

using namespace dsv;
using namespace dsv::model;

namespace {

std::string refusal(const DitConfig& config) {
  try {
    validate(config);
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kConfig);
    return e.what();
  }
  return "";
}

std::string refusal(const char* name, const std::function<void(DitConfig&)>& edit) {
  DitConfig config = preset(name);
  edit(config);
  return refusal(config);
}

// Parameters by the tensor table of either family: linear layers, norms, tables, embeddings.
std::int64_t num_parameters(const DitConfig& c) {
  const std::int64_t C = c.width(), F = c.ffn_dim;
  const std::int64_t patch = c.patch_size[0] * c.patch_size[1] * c.patch_size[2];
  const bool wan = c.family == Family::kWan;
  const std::int64_t attention = 4 * C * C + (wan ? 4 * C + 2 * C : C);
  const std::int64_t rows = c.ffn == FeedForward::kGeglu ? 2 * F : F;
  const std::int64_t ffn = rows * C + rows + F * C + C;
  const std::int64_t norms = wan ? 2 * C : 4 * C;
  const std::int64_t block = 6 * C + 2 * attention + norms + ffn;
  const std::int64_t time = c.freq_dim * C + C + C * C + C + 6 * C * C + 6 * C;
  const std::int64_t text = c.text_dim * C + C + C * C + C;
  const std::int64_t head = 2 * C + c.out_channels * patch * (C + 1);
  return c.in_channels * patch * C + C + time + text + c.num_layers * block + head;
}

}  // namespace

TEST_CASE("every preset is valid and names itself", "[presets]") {
  CHECK(preset_names() == std::vector<std::string>{"tiny-cpu", "dsv-0.8b", "dsv-2.7b", "dsv-30b",
                                                   "wan-1.3b", "wan-14b"});
  for (const std::string& name : preset_names()) {
    CAPTURE(name);
    CHECK(preset(name).preset == name);
    CHECK(refusal(preset(name)) == "");
  }
}

// The counts of Wan2.1 are those of its published weights; the paper's are rounded in its table,
// and its 30B gives no feed-forward width: 4 * C gives 25.7e9.
TEST_CASE("presets have the published sizes", "[presets]") {
  CHECK(num_parameters(preset("wan-1.3b")) == 1'418'996'800);
  CHECK(num_parameters(preset("wan-14b")) == 14'288'491'584);
  const auto tenths_of_a_billion = [](const char* name) {
    return (num_parameters(preset(name)) + 50'000'000) / 100'000'000;
  };
  CHECK(tenths_of_a_billion("dsv-0.8b") == 8);
  CHECK(tenths_of_a_billion("dsv-2.7b") == 27);
  CHECK(tenths_of_a_billion("dsv-30b") == 257);
  CHECK(num_parameters(preset("tiny-cpu")) < 3'000'000);
}

TEST_CASE("an unknown preset names the nearest one", "[presets]") {
  CHECK_THROWS_WITH(preset("wan-1.3B"), Contains("expected tiny-cpu, dsv-0.8b") &&
                                            Contains("got 'wan-1.3B'; did you mean wan-1.3b?"));
  CHECK_THROWS_WITH(preset("gigantic"), !Contains("did you mean"));
}

TEST_CASE("what cannot be built is refused by field", "[presets]") {
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.num_layers = 0; }),
             Contains("model.num_layers: expected 1 … 1024, got 0"));
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.head_dim = 33; }),
             Contains("model.head_dim: expected an even"));
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.head_dim = 258; }), Contains("model.head_dim"));
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.num_heads = INT64_MAX; }),
             Contains("model.num_heads"));
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.in_channels = 16; }),
             Contains("model.out_channels: expected 16 (equal to model.in_channels without "
                      "learn_sigma), got 96"));
  CHECK_THAT(refusal("dsv-0.8b", [](auto& c) { c.learn_sigma = false; }),
             Contains("model.out_channels: expected 4"));
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.patch_size[1] = 0; }),
             Contains("model.patch_size"));
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.freq_dim = 7; }), Contains("model.freq_dim"));
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.eps = 0; }), Contains("model.eps"));
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.eps = std::numeric_limits<float>::quiet_NaN(); }),
             Contains("model.eps"));
  CHECK_THAT(refusal("tiny-cpu", [](auto& c) { c.preset = "nothing"; }), Contains("model.preset"));
  CHECK_THAT(refusal("dsv-0.8b", [](auto& c) { c.qk_norm = true; }), Contains("model.qk_norm"));
  CHECK_THAT(refusal("dsv-0.8b", [](auto& c) { c.cross_attn_norm = true; }),
             Contains("model.cross_attn_norm"));
  CHECK_THAT(refusal("dsv-0.8b", [](auto& c) { c.patch_size[0] = 2; }),
             Contains("model.patch_size"));
  CHECK_THAT(refusal("dsv-0.8b", [](auto& c) { c.num_heads = 1, c.head_dim = 2; }),
             Contains("multiple of 4"));
  CHECK_THAT(refusal("dsv-0.8b", [](auto& c) { c.pos_interpolation_scale = 0; }),
             Contains("model.pos_interpolation_scale"));
}
