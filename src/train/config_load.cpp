#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>

#include "config_check.h"
#include "config_fields.h"
#include "config_value.h"
#include "config_yaml.h"
#include "dsv/base/error.h"
#include "dsv/base/nearest.h"
#include "dsv/base/printable.h"

namespace dsv::train {
namespace {

constexpr std::size_t kMaxProblemsShown = 20;

// Named values of settings that are planned and not built, so that the message can say so.
struct Reserved {
  const char* path;
  const char* value;
};
constexpr Reserved kReserved[] = {{"run.determinism", "canonical"}};

const char* reserved_note(const std::string& path, const YamlNode& value) {
  for (const Reserved& reserved : kReserved) {
    if (path == reserved.path && value.text == reserved.value) return ": it is not built yet";
  }
  return "";
}

// Applies layers to a Config, remembers where each field came from, and collects problems.
class Loader {
 public:
  void add_document(const std::string& file, const YamlNode& root) {
    if (root.kind != YamlNode::Kind::kMapping) {
      const bool empty = root.kind == YamlNode::Kind::kNull;
      problem(empty ? file : to_string(file, root.at), "",
              format("expected a mapping of sections, got {}",
                     empty ? "an empty file" : describe(root)));
      return;
    }
    std::vector<Setting> settings;
    for (const YamlMember& member : root.members) collect_section(file, member, settings);
    apply(settings);
  }

  void add_set(const std::string& set) {
    const std::string where = "--set " + printable(set);
    const auto equals = set.find('=');
    if (equals == std::string::npos || equals == 0) {
      problem(where, "", "expected --set section.key=value");
      return;
    }
    const std::string path = set.substr(0, equals);
    const Field* field = find_field(path);
    if (field == nullptr) {
      problem(where, path, unknown_path(path));
      return;
    }
    YamlNode value;
    if (field->type == "text" && set.find_first_of("\"'", equals + 1) != equals + 1) {
      value.kind =
          YamlNode::Kind::kScalar;  // a path or a name as it is, whatever YAML thinks of it
      value.text = set.substr(equals + 1);
    } else {
      value = parse_yaml(set.substr(equals + 1), where);
    }
    apply({{field, where, "", &value}});
  }

  Config finish(const std::string& default_name) {
    if (!default_name.empty() && !sources_.contains("run.name")) config_.run.name = default_name;
    // Values that could not be read keep their defaults, so cross checks would mislead.
    if (problems_.empty()) {
      for (const FieldProblem& p : problems_of(config_)) problem(source_of(p), p.path, p.message);
    }
    if (problems_.empty()) return config_;
    std::string text;
    for (std::size_t i = 0; i < problems_.size() && i < kMaxProblemsShown; ++i) {
      text += (i == 0 ? "" : "\n") + problems_[i];
    }
    if (problems_.size() > kMaxProblemsShown) {
      text += format("\n… and {} more", problems_.size() - kMaxProblemsShown);
    }
    throw Error(ExitCode::kConfig, text);
  }

 private:
  struct Setting {
    const Field* field;
    std::string where;  // of the value
    std::string file;   // for positions inside the value; "" for --set
    const YamlNode* value;
    std::string unknown = {};  // the path, where field is nullptr
  };

  // A default at fault is at odds with a field that was set and that the message names.
  std::string source_of(const FieldProblem& problem) const {
    const auto own = sources_.find(problem.path);
    if (own != sources_.end()) return own->second;
    for (const auto& [path, where] : sources_) {
      if (mentions(problem.message, path)) return where;
    }
    return "default";
  }

  static bool mentions(const std::string& message, const std::string& path) {
    const auto at = message.find(path);
    if (at == std::string::npos) return false;
    const char after = at + path.size() < message.size() ? message[at + path.size()] : ' ';
    return std::string_view(" ,:;).").find(after) != std::string_view::npos;
  }

  // Paths and messages quote keys of the file.
  void problem(const std::string& where, const std::string& path, const std::string& message) {
    constexpr std::size_t kMaxBytes = 2000;
    problems_.push_back(dsv::printable(
        format("{}: {}{}{}", where, path, path.empty() ? "" : ": ", message), kMaxBytes));
  }

  void collect_section(const std::string& file, const YamlMember& section,
                       std::vector<Setting>& settings) {
    std::vector<std::string> names;
    for (const Section& known : sections()) names.push_back(known.name);
    if (std::find(names.begin(), names.end(), section.key) == names.end()) {
      problem(to_string(file, section.key_at), printable(section.key),
              unknown_section(section.key, names));
      return;
    }
    if (section.value.kind != YamlNode::Kind::kMapping) {
      problem(to_string(file, section.value.at), section.key,
              format("expected a mapping of settings, got {}", describe(section.value)));
      return;
    }
    for (const YamlMember& member : section.value.members) {
      const std::string path = section.key + "." + member.key;
      const Field* field = find_field(path);
      if (field == nullptr) {
        settings.push_back({nullptr, to_string(file, member.key_at), file, nullptr, path});
        continue;
      }
      settings.push_back({field, to_string(file, member.value.at), file, &member.value});
    }
  }

  static std::string unknown_section(const std::string& key,
                                     const std::vector<std::string>& names) {
    std::string message = format("expected one of the sections {}", join_names(names));
    const std::string nearest = nearest_name(key, names);
    if (!nearest.empty()) return message + "; did you mean " + nearest + "?";
    return message + elsewhere(key);
  }

  // The nearest key of the same section, else the same key in another one.
  static std::string unknown_path(const std::string& path) {
    const auto dot = path.find('.');
    if (dot == std::string::npos) return "expected section.key" + elsewhere(path);
    const std::string section = path.substr(0, dot), key = path.substr(dot + 1);
    const std::vector<std::string> keys = keys_of(section);
    if (keys.empty()) {
      std::vector<std::string> names;
      for (const Section& known : sections()) names.push_back(known.name);
      const std::string near_section = nearest_name(section, names);
      if (find_field(near_section + "." + key) != nullptr) {
        return format("unknown section; did you mean {}.{}?", near_section, key);
      }
      return unknown_section(section, names);
    }
    const std::string nearest = nearest_name(key, keys);
    if (!nearest.empty()) return format("unknown key; did you mean {}.{}?", section, nearest);
    const std::string other = elsewhere(key);
    if (!other.empty()) return "unknown key" + other;
    return format("unknown key; expected one of {}", join_names(keys));
  }

  static std::string elsewhere(const std::string& key) {
    for (const Section& section : sections()) {
      if (find_field(section.name + "." + key) != nullptr) {
        return format("; did you mean {}.{}?", section.name, key);
      }
    }
    return "";
  }

  void apply(const std::vector<Setting>& settings) {
    // The preset of a layer comes before the layer's other fields, wherever it stands.
    for (const Setting& setting : settings) {
      if (setting.field != nullptr && setting.field->path == "model.preset") apply_preset(setting);
    }
    for (const Setting& setting : settings) {
      if (setting.field == nullptr) {
        problem(setting.where, printable(setting.unknown), unknown_path(setting.unknown));
      } else if (setting.field->path != "model.preset") {
        apply_one(setting);
      }
    }
  }

  bool apply_one(const Setting& setting) {
    const std::string& path = setting.field->path;
    try {
      setting.field->set(*setting.value, config_);
    } catch (const ValueError& error) {
      const std::string where =
          setting.file.empty() ? setting.where : to_string(setting.file, error.at);
      problem(where, path + error.below, error.message + reserved_note(path, *setting.value));
      return false;
    }
    sources_[path] = setting.where;
    const std::string why =
        setting.field->range_problem ? setting.field->range_problem(config_) : "";
    if (!why.empty()) problem(setting.where, path, why);
    return why.empty();
  }

  void apply_preset(const Setting& setting) {
    const model::DitConfig before = config_.model;
    if (!apply_one(setting)) {
      config_.model = before;
      return;
    }
    config_.model = model::preset(config_.model.preset);
    std::erase_if(sources_, [](const auto& entry) {
      return entry.first != "model.preset" && entry.first.starts_with("model.");
    });
  }

  Config config_;
  std::map<std::string, std::string> sources_;  // field path → where its value came from
  std::vector<std::string> problems_;
};

// Reads just enough to see that a file is too large.
std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text(kMaxConfigBytes + 1, '\0');
  if (in) in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!in && !in.eof()) {
    throw_error(ExitCode::kConfig, "{}: expected a readable file, got: {}", path,
                std::strerror(errno));
  }
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

std::string stem_as_name(const std::string& path) {
  const auto slash = path.find_last_of('/');
  std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  name = name.substr(0, name.find_last_of('.'));
  for (char& c : name) {
    const bool keep = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '_';
    if (!keep) c = '-';
  }
  const auto first = name.find_first_not_of(".-");
  return first == std::string::npos ? "" : name.substr(first, 100);
}

}  // namespace

Config load_config(const std::vector<std::string>& yaml_paths,
                   const std::vector<std::string>& sets) {
  Loader loader;
  for (const std::string& path : yaml_paths) {
    loader.add_document(path, parse_yaml(read_file(path), path));
  }
  for (const std::string& set : sets) loader.add_set(set);
  return loader.finish(yaml_paths.empty() ? "" : stem_as_name(yaml_paths.front()));
}

Config parse_config(std::string_view text, const std::string& where) {
  Loader loader;
  loader.add_document(where, parse_yaml(text, where));
  return loader.finish("");
}

}  // namespace dsv::train
