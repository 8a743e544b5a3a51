#include "dsv/model/diffusers_config.h"

#include <cfloat>
#include <cmath>
#include <set>

#include "dsv/base/check_math.h"
#include "dsv/base/printable.h"

namespace dsv::model {
namespace {

constexpr const char* kWanClass = "WanTransformer3DModel";
constexpr const char* kDsvClass = "DsvTransformer3DModel";

// The file is not validated yet: what overflows stays out of every range.
std::int64_t product(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  return try_mul(a, b, &out) ? out : INT64_MAX;
}
float to_float(double value) {
  return std::abs(value) <= FLT_MAX ? static_cast<float>(value) : INFINITY;
}

// Reads typed fields and remembers which were read, so that what is left over can be refused.
class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {}

  std::int64_t integer(const char* key, std::int64_t fallback) {
    const Json* v = take(key);
    return v == nullptr ? fallback : v->as_int();
  }
  double number(const char* key, double fallback) {
    const Json* v = take(key);
    return v == nullptr ? fallback : v->as_double();
  }
  bool boolean(const char* key, bool fallback) {
    const Json* v = take(key);
    return v == nullptr ? fallback : v->as_bool();
  }
  std::string text(const char* key, const char* fallback) {
    const Json* v = take(key);
    return v == nullptr ? fallback : v->as_string();
  }
  template <std::size_t n>
  std::array<std::int64_t, n> integers(const char* key, std::array<std::int64_t, n> fallback) {
    const Json* v = take(key);
    if (v == nullptr) return fallback;
    if (v->as_array().size() != n) refuse(key, format("expected {} integers", n));
    for (std::size_t i = 0; i < n; ++i) fallback[i] = v->as_array()[i].as_int();
    return fallback;
  }
  // Keys that must be absent, null, or this value: the graph has no such part.
  void expect_null(const char* key) {
    if (take(key) != nullptr) refuse(key, "this engine builds text-to-video models without it");
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    const Json* value = json_.find(key);
    throw_error(ExitCode::kConfig, "[model] config.json: '{}' = {}: {}", printable(key),
                value != nullptr ? printable(value->dump()) : "null", why);
  }
  void finish() const {
    for (const auto& [key, value] : json_.as_object()) {
      if (key.starts_with("_") || read_.contains(key)) continue;
      refuse(key, "this key is not known here; the weights may need a graph that is not built");
    }
  }

 private:
  const Json* take(const char* key) {
    read_.insert(key);
    const Json* found = json_.find(key);
    return found == nullptr || found->is_null() ? nullptr : found;
  }
  const Json& json_;
  std::set<std::string, std::less<>> read_;
};

DitConfig read_wan(Reader& r) {
  DitConfig c;
  c.family = Family::kWan;
  c.patch_size = r.integers<3>("patch_size", {1, 2, 2});
  c.num_heads = r.integer("num_attention_heads", 40);
  c.head_dim = r.integer("attention_head_dim", 128);
  c.in_channels = r.integer("in_channels", 16);
  c.out_channels = r.integer("out_channels", c.in_channels);
  c.text_dim = r.integer("text_dim", 4096);
  c.freq_dim = r.integer("freq_dim", 256);
  c.ffn_dim = r.integer("ffn_dim", 13824);
  c.num_layers = r.integer("num_layers", 40);
  c.cross_attn_norm = r.boolean("cross_attn_norm", true);
  const std::string qk_norm = r.text("qk_norm", "none");
  if (qk_norm != "none" && qk_norm != "rms_norm_across_heads") {
    r.refuse("qk_norm", "expected \"rms_norm_across_heads\" or null");
  }
  c.qk_norm = qk_norm != "none";
  c.eps = to_float(r.number("eps", 1e-6));
  c.text_len = r.integer("text_len", 512);
  r.integer("rope_max_seq_len", 1024);  // a table size of diffusers; positions here are computed
  for (const char* key : {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len"})
    r.expect_null(key);
  return c;
}

DitConfig read_dsv(Reader& r) {
  DitConfig c;
  c.family = Family::kDsv;
  c.qk_norm = c.cross_attn_norm = false;
  c.patch_size = r.integers<3>("patch_size", {1, 2, 2});
  c.num_heads = r.integer("num_attention_heads", 16);
  c.head_dim = r.integer("attention_head_dim", 128);
  c.in_channels = r.integer("in_channels", 4);
  c.learn_sigma = r.boolean("learn_sigma", false);
  c.out_channels = r.integer("out_channels", product(c.learn_sigma ? 2 : 1, c.in_channels));
  c.text_dim = r.integer("text_dim", 4096);
  c.text_len = r.integer("text_len", 120);
  c.freq_dim = r.integer("freq_dim", 256);
  c.ffn_dim = r.integer("ffn_dim", product(4, product(c.num_heads, c.head_dim)));
  c.num_layers = r.integer("num_layers", 32);
  const std::string ffn = r.text("ffn", "geglu");
  if (ffn != "geglu" && ffn != "gelu_tanh") r.refuse("ffn", "expected \"geglu\" or \"gelu_tanh\"");
  c.ffn = ffn == "geglu" ? FeedForward::kGeglu : FeedForward::kGeluTanh;
  c.pos_base_size = r.integers<2>("pos_base_size", {16, 16});
  c.pos_interpolation_scale = r.number("pos_interpolation_scale", 1.0);
  c.eps = to_float(r.number("eps", 1e-5));
  return c;
}

template <std::size_t n>
Json to_json(const std::array<std::int64_t, n>& values) {
  Json out = Json::array();
  for (const std::int64_t v : values) out.push_back(v);
  return out;
}

// A float as the shortest decimal that reads back to it: 1e-6, not 9.99999997e-07.
double shortest(float value) {
  return std::stod(format("{:.7g}", static_cast<double>(value)));
}

}  // namespace

DitConfig config_from_diffusers(const Json& json) {
  const std::string& name = json.at("_class_name").as_string();
  Reader reader(json);
  DitConfig config;
  if (name == kWanClass) {
    config = read_wan(reader);
  } else if (name == kDsvClass) {
    config = read_dsv(reader);
  } else {
    throw_error(ExitCode::kConfig, "[model] config.json: _class_name \"{}\": expected {} or {}",
                printable(name), kWanClass, kDsvClass);
  }
  reader.finish();
  validate(config);
  return config;
}

Json config_to_diffusers(const DitConfig& c) {
  Json j = Json::object();
  const bool wan = c.family == Family::kWan;
  j.set("_class_name", wan ? kWanClass : kDsvClass);
  j.set("attention_head_dim", c.head_dim);
  if (wan) {
    j.set("added_kv_proj_dim", nullptr);
    j.set("cross_attn_norm", c.cross_attn_norm);
  } else {
    j.set("ffn", c.ffn == FeedForward::kGeglu ? "geglu" : "gelu_tanh");
    j.set("learn_sigma", c.learn_sigma);
    j.set("pos_base_size", to_json(c.pos_base_size));
    j.set("pos_interpolation_scale", c.pos_interpolation_scale);
    j.set("text_len", c.text_len);
  }
  j.set("eps", shortest(c.eps));
  j.set("ffn_dim", c.ffn_dim);
  j.set("freq_dim", c.freq_dim);
  if (wan) j.set("image_dim", nullptr);
  j.set("in_channels", c.in_channels);
  j.set("num_attention_heads", c.num_heads);
  j.set("num_layers", c.num_layers);
  j.set("out_channels", c.out_channels);
  j.set("patch_size", to_json(c.patch_size));
  if (wan) {
    j.set("pos_embed_seq_len", nullptr);
    j.set("qk_norm", c.qk_norm ? Json("rms_norm_across_heads") : Json(nullptr));
    j.set("rope_max_seq_len", 1024);
  }
  j.set("text_dim", c.text_dim);
  return j;
}

}  // namespace dsv::model
