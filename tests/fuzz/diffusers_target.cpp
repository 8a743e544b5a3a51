// model/diffusers_config: the config.json of weights from elsewhere.
#include <memory>

#include "dsv/model/diffusers_config.h"
#include "json_text.h"
#include "target.h"

namespace dsv::fuzz {
namespace {

using model::DitConfig;

Check parse(std::string_view input) {
  const auto config =
      std::make_shared<DitConfig>(model::config_from_diffusers(parse_json(input, "F")));
  return [config] {
    const Json json = model::config_to_diffusers(*config);
    try {
      promise(model::config_to_diffusers(model::config_from_diffusers(json)) == json,
              "its own text changes: {}", json.dump());
    } catch (const Error& error) {
      promise(false, "its own text is refused: {}\n{}", error.what(), json.dump());
    }
  };
}

std::string wan(const std::string& more = "") {
  return R"({"_class_name":"WanTransformer3DModel","patch_size":[1,2,2],"num_attention_heads":12,)"
         R"("attention_head_dim":128,"in_channels":16,"out_channels":16,"text_dim":4096,"freq_dim":256,)"
         R"("ffn_dim":8960,"num_layers":30,"cross_attn_norm":true,"qk_norm":"rms_norm_across_heads",)"
         R"("eps":1e-06,"rope_max_seq_len":1024,"image_dim":null,"added_kv_proj_dim":null)" +
         more + "}";
}

std::string dsv(const std::string& more = "") {
  return R"({"_class_name":"DsvTransformer3DModel","attention_head_dim":96,"num_attention_heads":12,)"
         R"("ffn":"geglu","learn_sigma":true,"pos_base_size":[32,32],"pos_interpolation_scale":1.0,)"
         R"("text_len":120,"in_channels":4,"num_layers":2)" +
         more + "}";
}

std::vector<Case> cases() {
  const auto bad = [](std::string name, std::string text, std::vector<std::string> fragments) {
    return Case{std::move(name), std::move(text), std::move(fragments), ExitCode::kConfig};
  };
  const std::string huge = "9223372036854775807";
  return {
      accepted("wan", wan()),
      accepted("dsv", dsv()),
      accepted("private keys", wan(R"(,"_diffusers_version":"0.33.0")")),
      {"not an object", "[]", {"expected object"}},
      {"no class", "{}", {"'_class_name' is missing"}},
      {"class a number", R"({"_class_name":1})", {"expected string, got integer"}},
      bad("other class", R"({"_class_name":"UNet"})", {"\"UNet\": expected WanTransformer3DModel"}),
      bad("escapes in the class", R"({"_class_name":"\u001b[2J"})",
          {"expected WanTransformer3DModel"}),
      bad("long class", "{\"_class_name\":\"" + repeat("x", 100'000) + "\"}", {"expected Wan"}),
      bad("unknown key", wan(R"(,"moe":8)"), {"'moe' = 8", "not known"}),
      bad("unknown key with an escape", wan(R"(,"\u001b[2J":8)"), {"not known"}),
      bad("unknown key with a long value", wan(",\"k\":\"" + repeat("x", 100'000) + "\""),
          {"'k' ="}),
      bad("image model", replaced(wan(), R"("image_dim":null)", R"("image_dim":1280)"),
          {"'image_dim' = 1280", "without it"}),
      bad("other norm", replaced(wan(), "rms_norm_across_heads", "layer_norm"), {"'qk_norm'"}),
      {"layers a text",
       replaced(wan(), "\"num_layers\":30", "\"num_layers\":\"30\""),
       {"expected 64-bit integer, got string"}},
      bad("no layers", replaced(wan(), "\"num_layers\":30", "\"num_layers\":0"), {"num_layers"}),
      bad("negative layers", replaced(wan(), "\"num_layers\":30", "\"num_layers\":-1"),
          {"num_layers"}),
      bad("huge heads",
          replaced(wan(), "\"num_attention_heads\":12", "\"num_attention_heads\":" + huge),
          {"num_heads"}),
      bad("heads × head_dim overflows",
          replaced(dsv(), "\"num_attention_heads\":12", "\"num_attention_heads\":" + huge),
          {"num_heads"}),
      bad("4 × width overflows",
          replaced(dsv(), "\"attention_head_dim\":96", "\"attention_head_dim\":576460752303423488"),
          {"head_dim"}),
      bad("2 × in_channels overflows",
          replaced(dsv(), "\"in_channels\":4", "\"in_channels\":" + huge), {"in_channels"}),
      bad("eps beyond float", replaced(wan(), "1e-06", "1e300"), {"eps"}),
      bad("eps 0", replaced(wan(), "1e-06", "0"), {"eps"}),
      bad("eps below float", replaced(wan(), "1e-06", "1e-300"), {"eps"}),
      bad("two patch sizes", replaced(wan(), "[1,2,2]", "[1,2]"),
          {"'patch_size'", "expected 3 integers"}),
      bad("long patch size",
          replaced(wan(), "[1,2,2]", "[" + list_of(50'000, [](int) { return "1"; }) + "]"),
          {"expected 3 integers"}),
      bad("patch of 0", replaced(wan(), "[1,2,2]", "[0,2,2]"), {"patch_size"}),
      bad("scale 0",
          replaced(dsv(), "\"pos_interpolation_scale\":1.0", "\"pos_interpolation_scale\":0"),
          {"pos_interpolation_scale"}),
      {"deep", wan(",\"k\":" + repeat("[", 100) + repeat("]", 100)), {"nested deeper"}},
  };
}

}  // namespace

Target diffusers_target() {
  return {.name = "diffusers",
          .parse = parse,
          .codes = {ExitCode::kCorruptInput, ExitCode::kConfig},
          .cases = cases,
          .seeds =
              [] {
                return std::vector<std::string>{wan(), dsv()};
              },
          .words = {"\"qk_norm\"", "\"ffn\"", "\"gelu_tanh\"", "\"geglu\"", "null", "true", "false",
                    "\"learn_sigma\":true", "\"text_len\":5", "\"eps\":1e-5", "[1,2,2]", ",",
                    "\"_x\":1"},
          .repair = {},
          .bytes_per_byte = 64,
          .fixed_bytes = 32 << 10,
          .min_reasons = 100};
}

}  // namespace dsv::fuzz
