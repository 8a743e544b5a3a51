#include "config_value.h"

#include <algorithm>
#include <charconv>
#include <tuple>

namespace dsv::train {
namespace {

[[noreturn]] void wrong(const YamlNode& node, std::string_view expected,
                        std::string_view hint = "") {
  throw ValueError{node.at, "", format("expected {}, got {}{}", expected, describe(node), hint)};
}

// The text of an unquoted scalar: quoting makes a number or a bool text.
const std::string& plain(const YamlNode& node, std::string_view expected) {
  if (node.kind != YamlNode::Kind::kScalar) wrong(node, expected);
  if (node.quoted) wrong(node, expected, "; remove the quotes");
  return node.text;
}

bool is_decimal(std::string_view digits) {
  return !digits.empty() &&
         std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
}

template <typename Int>
Int read_integer(const YamlNode& node, const std::string& text, std::string_view expected) {
  const bool negative = text.starts_with('-');
  std::string_view digits(text);
  if (negative || text.starts_with('+')) digits.remove_prefix(1);
  if (!is_decimal(digits)) wrong(node, expected);
  if (digits.size() > 1 && digits.front() == '0')
    wrong(node, expected, "; remove the leading zeros");
  const std::string canonical = format("{}{}", negative ? "-" : "", digits);
  Int value{};
  const auto [end, error] =
      std::from_chars(canonical.data(), canonical.data() + canonical.size(), value);
  if (error != std::errc{} || end != canonical.data() + canonical.size()) {
    wrong(node, expected, "; it does not fit in 64 bits");
  }
  return value;
}

template <typename Float>
Float read_number(const YamlNode& node) {
  constexpr std::string_view kExpected = "a finite number";
  std::string_view text = plain(node, kExpected);
  if (text.starts_with('+')) text.remove_prefix(1);
  const bool numeric = !text.empty() && text.find_first_not_of("0123456789.eE+-") == text.npos;
  Float value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (numeric && error == std::errc::result_out_of_range) {
    wrong(node, kExpected, "; it is out of range");
  }
  if (!numeric || error != std::errc{} || end != text.data() + text.size()) wrong(node, kExpected);
  return value;
}

// A key or value of the bucket table, keys may be quoted as they are in JSON.
std::int64_t read_size(const YamlNode& node, const std::string& text, std::string_view expected) {
  const auto value = read_integer<std::int64_t>(node, text, expected);
  if (value < 1) wrong(node, expected);
  return value;
}

YamlNode key_node(const YamlMember& member) {
  YamlNode node;
  node.kind = YamlNode::Kind::kScalar;
  node.at = member.key_at;
  node.text = member.key;
  return node;
}

void read_resolution(const YamlMember& member, data::Bucket& bucket) {
  constexpr std::string_view kExpected = "HEIGHTxWIDTH such as 480x832";
  const YamlNode key = key_node(member);
  const auto cross = key.text.find('x');
  if (cross == std::string::npos) wrong(key, kExpected);
  bucket.height = read_size(key, key.text.substr(0, cross), kExpected);
  bucket.width = read_size(key, key.text.substr(cross + 1), kExpected);
}

const std::vector<YamlMember>& members_of(const YamlNode& node, std::string_view expected) {
  if (node.kind != YamlNode::Kind::kMapping || node.members.empty()) {
    const bool empty = node.kind == YamlNode::Kind::kMapping;
    throw ValueError{node.at, "",
                     format("expected {}, got {}", expected, empty ? "none" : describe(node))};
  }
  return node.members;
}

// {probability: p, batch: b} or [p, b].
void read_share(const YamlNode& node, data::Bucket& bucket) {
  if (node.kind == YamlNode::Kind::kSequence && node.items.size() == 2) {
    read_item(node, 0, bucket.probability);
    read_item(node, 1, bucket.batch);
    return;
  }
  const std::vector<std::string> keys{"probability", "batch"};
  bool has_probability = false, has_batch = false;
  for (const YamlMember& member : members_of(node, "{probability: p, batch: b} or [p, b]")) {
    try {
      if (member.key == keys[0]) {
        read_value(member.value, bucket.probability);
        has_probability = true;
      } else if (member.key == keys[1]) {
        read_value(member.value, bucket.batch);
        has_batch = true;
      } else {
        throw ValueError{member.key_at, "", unknown_name(keys, key_node(member))};
      }
    } catch (ValueError& error) {
      error.below = format(".{}{}", member.key, error.below);
      throw;
    }
  }
  if (!has_probability || !has_batch) {
    throw ValueError{node.at, "",
                     format("expected probability and batch, got no {}",
                            has_probability ? "batch" : "probability")};
  }
}

void read_frames(const YamlMember& resolution, data::Bucket bucket,
                 std::vector<data::Bucket>& out) {
  for (const YamlMember& member : members_of(resolution.value, "a mapping {frames: …}")) {
    try {
      const YamlNode key = key_node(member);
      bucket.frames = read_size(key, key.text, "a number of frames");
      read_share(member.value, bucket);
    } catch (ValueError& error) {
      error.below = format(".{}{}", member.key, error.below);
      throw;
    }
    out.push_back(bucket);
  }
}

// 1000000000000 reads better as 1e12.
std::string bound_text(double value) {
  const int exponent = value >= 1e7 ? static_cast<int>(std::lround(std::log10(value))) : 0;
  return exponent > 0 && std::pow(10.0, exponent) == value ? format("1e{}", exponent)
                                                           : format("{}", value);
}

auto shape_of(const data::Bucket& b) {
  return std::tuple(b.height, b.width, b.frames);
}

}  // namespace

std::string Range::text() const {
  const bool has_low = std::isfinite(low), has_high = std::isfinite(high);
  const std::string from = bound_text(low), to = bound_text(high);
  if (has_low && has_high && !low_open && !high_open) return from + " … " + to;
  std::string out;
  if (has_low) out += (low_open ? "above " : "at least ") + from;
  if (has_low && has_high) out += " and ";
  if (has_high) out += format("{} {}", high_open ? "below" : "at most", to);
  return out.empty() ? "finite" : out;
}

std::string unknown_name(const std::vector<std::string>& names, const YamlNode& got) {
  std::string message = format("expected {}, got {}", join_names(names), describe(got));
  const std::string nearest = nearest_name(got.text, names);
  if (!nearest.empty()) message += "; did you mean " + nearest + "?";
  return message;
}

void read_value(const YamlNode& node, bool& out) {
  const std::string& text = plain(node, "true or false");
  if (text != "true" && text != "false") wrong(node, "true or false");
  out = text == "true";
}

void read_value(const YamlNode& node, std::int64_t& out) {
  out = read_integer<std::int64_t>(node, plain(node, "an integer"), "an integer");
}

void read_value(const YamlNode& node, std::uint64_t& out) {
  constexpr std::string_view kExpected = "an integer of at least 0";
  const std::string& text = plain(node, kExpected);
  if (text.starts_with('-')) wrong(node, kExpected);
  out = read_integer<std::uint64_t>(node, text, kExpected);
}

void read_value(const YamlNode& node, double& out) {
  out = read_number<double>(node);
}
void read_value(const YamlNode& node, float& out) {
  out = read_number<float>(node);
}

void read_value(const YamlNode& node, std::string& out) {
  if (node.kind != YamlNode::Kind::kScalar) wrong(node, "text");
  out = node.text;
}

void read_value(const YamlNode& node, std::vector<data::Bucket>& out) {
  std::vector<data::Bucket> buckets;
  const bool is_empty_mapping = node.kind == YamlNode::Kind::kMapping && node.members.empty();
  if (!is_empty_mapping) {
    for (const YamlMember& member : members_of(node, "a mapping {HEIGHTxWIDTH: {frames: …}}")) {
      data::Bucket bucket;
      try {
        read_resolution(member, bucket);
        read_frames(member, bucket, buckets);
      } catch (ValueError& error) {
        error.below = format(".{}{}", member.key, error.below);
        throw;
      }
    }
  }
  std::sort(buckets.begin(), buckets.end(),
            [](const auto& a, const auto& b) { return shape_of(a) < shape_of(b); });
  out = std::move(buckets);
}

Json to_json(float value) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof(text), value);
  double out = value;
  if (error == std::errc{}) std::from_chars(text, end, out);
  return out;
}

Json to_json(const std::vector<data::Bucket>& buckets) {
  Json out = Json::object();
  for (const data::Bucket& bucket : buckets) {
    const std::string resolution = format("{}x{}", bucket.height, bucket.width);
    if (out.find(resolution) == nullptr) out.set(resolution, Json::object());
    Json share = Json::object();
    share.set("probability", bucket.probability);
    share.set("batch", bucket.batch);
    for (auto& [name, frames] : out.as_object()) {
      if (name == resolution) frames.set(format("{}", bucket.frames), share);
    }
  }
  return out;
}

}  // namespace dsv::train
