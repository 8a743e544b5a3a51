#include "dsv/train/config_io.h"

#include <algorithm>

#include "config_fields.h"
#include "dsv/base/error.h"
#include "dsv/base/log.h"

namespace dsv::train {
namespace {

// Words that YAML readers take for something else than text.
bool is_plain_text(const std::string& text) {
  constexpr const char* kReserved[] = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"};
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  if (text.empty() || !letter(text.front())) return false;
  for (const char c : text) {
    if (!letter(c) && !(c >= '0' && c <= '9') &&
        std::string_view("._-/").find(c) == std::string_view::npos) {
      return false;
    }
  }
  std::string lower = text;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return std::find(std::begin(kReserved), std::end(kReserved), lower) == std::end(kReserved);
}

// "1e-04" is text to readers of YAML 1.1, "1.0e-04" is a number to all.
std::string number_text(const Json& value) {
  std::string text = value.dump();
  const auto exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos) {
    text.insert(exponent, ".0");
  }
  return text;
}

// JSON is YAML: only plain words are spared their quotes, and flow lists get air.
std::string yaml_value(const Json& value) {
  if (value.is_string()) return is_plain_text(value.as_string()) ? value.as_string() : value.dump();
  if (value.is_number()) return number_text(value);
  if (!value.is_array()) return value.dump();
  std::string out;
  for (const Json& item : value.as_array()) out += (out.empty() ? "" : ", ") + yaml_value(item);
  return "[" + out + "]";
}

void append_mapping(std::string& out, const std::string& key, const Json& value, int indent) {
  const std::string margin(static_cast<std::size_t>(indent), ' ');
  if (!value.is_object() || value.size() == 0) {
    out += margin + key + ": " + yaml_value(value) + "\n";
    return;
  }
  out += margin + key + ":\n";
  for (const auto& [name, member] : value.as_object())
    append_mapping(out, name, member, indent + 2);
}

// A schedule whose length follows from run.steps changes with it.
Drift drift_of(const Field& field, const Config& a, const Config& b) {
  if (field.path != "run.steps") return field.drift;
  const auto follows = [](const Config& c) {
    return c.optim.schedule != optim::Schedule::kConstant && c.optim.decay_steps == 0;
  };
  return follows(a) || follows(b) ? Drift::kTraining : Drift::kFree;
}

}  // namespace

Json config_json(const Config& config) {
  Json out = Json::object();
  for (const Field& field : fields()) {
    const auto dot = field.path.find('.');
    const std::string section = field.path.substr(0, dot);
    if (out.find(section) == nullptr) out.set(section, Json::object());
    for (auto& [name, members] : out.as_object()) {
      if (name == section) members.set(field.path.substr(dot + 1), field.get(config));
    }
  }
  return out;
}

std::string dump_config(const Config& config) {
  std::string out;
  const Json json = config_json(config);
  for (const auto& [name, section] : json.as_object()) {
    if (!out.empty()) out += "\n";
    append_mapping(out, name, section, 0);
  }
  return out;
}

Config resolve_auto(Config config, bool has_cuda) {
  if (config.run.device == DeviceChoice::kAuto) {
    config.run.device = has_cuda ? DeviceChoice::kCuda : DeviceChoice::kCpu;
  }
  if (config.precision.compute == Compute::kAuto) {
    config.precision.compute =
        config.run.device == DeviceChoice::kCuda ? Compute::kBF16 : Compute::kF32;
  }
  validate(config);
  return config;
}

std::vector<ConfigDifference> config_differences(const Config& old_config,
                                                 const Config& new_config) {
  std::vector<ConfigDifference> differences;
  for (const Field& field : fields()) {
    const Json before = field.get(old_config), now = field.get(new_config);
    if (before == now) continue;
    differences.push_back(
        {field.path, yaml_value(before), yaml_value(now), drift_of(field, old_config, new_config)});
  }
  return differences;
}

void require_resumable(const std::vector<ConfigDifference>& differences,
                       const std::vector<std::string>& allow) {
  std::string refused, allowable;
  for (const ConfigDifference& d : differences) {
    const bool allowed =
        d.drift == Drift::kFree || (d.drift == Drift::kTraining &&
                                    std::find(allow.begin(), allow.end(), d.path) != allow.end());
    if (allowed) {
      log_info("[resume] {} changed from {} to {}", d.path, d.old_value, d.new_value);
      continue;
    }
    refused += format("\n  {}: checkpoint {}, now {}{}", d.path, d.old_value, d.new_value,
                      d.drift == Drift::kModel ? " (the stored state does not fit)" : "");
    if (d.drift == Drift::kTraining) allowable += (allowable.empty() ? "" : ", ") + d.path;
  }
  if (refused.empty()) return;
  throw_error(
      ExitCode::kResumeRefused,
      "[resume] the configuration is not the checkpoint's:{}\n{}use another run.name to begin "
      "a new run",
      refused,
      allowable.empty()
          ? ""
          : format("list them in resume.allow: [{}] to go on all the same, or ", allowable));
}

}  // namespace dsv::train
