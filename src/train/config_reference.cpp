#include <algorithm>

#include "config_fields.h"
#include "dsv/base/error.h"

namespace dsv::train {
namespace {

constexpr const char* kIntroduction = R"(# Configuration

Made by `dsv train --config-reference`; a test compares this file with the code.

`dsv train CONFIG… [--set section.key=value]…` reads YAML files in order, then the settings; later ones
win. Unknown, misspelt and duplicate keys, wrong types, values out of range, and settings that other
settings leave without effect are errors (exit code 2) that name file, line, column, and the nearest
valid key. `--dump-config` prints what will run; that text is a configuration file as well.

- A layer that names `model.preset` starts the `model` section afresh from that preset.
- Numbers are plain decimals (`1e-4`, `0.5`, `20`), without quotes. Truth values are `true` and `false`.
- A file holds at most 128 KiB of UTF-8, indented by spaces. Anchors and aliases work; merge keys (`<<`)
  and tags do not: layer files in their place.
- *Drift* says what a change means when a run is resumed. **model**: refused (exit code 12), the stored
  state does not fit. **training**: refused unless `resume.allow` lists the field. **free**: allowed and
  logged.
)";

const char* name_of(Drift drift) {
  switch (drift) {
    case Drift::kModel:
      return "model";
    case Drift::kTraining:
      return "training";
    case Drift::kFree:
      break;
  }
  return "free";
}

// A cell of a Markdown table.
std::string cell(std::string text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

std::string default_of(const Field& field) {
  const Json value = field.get(Config{});
  return "`" +
         (value.is_string() && !value.as_string().empty() ? value.as_string() : value.dump()) + "`";
}

std::string values_of(const Field& field) {
  if (field.range.empty()) return field.type;
  return field.type + ", " + field.range;
}

void append_section(std::string& out, const Section& section) {
  out +=
      format("\n## {}\n{}\n\n| key | default | values | drift | meaning |\n|---|---|---|---|---|\n",
             section.name, section.help);
  for (const Field& field : fields()) {
    const auto dot = field.path.find('.');
    if (field.path.substr(0, dot) != section.name) continue;
    std::string meaning = field.help;
    if (!field.used_when.empty()) meaning += "; used when " + field.used_when;
    out += format("| `{}` | {} | {} | {} | {} |\n", field.path.substr(dot + 1), default_of(field),
                  cell(values_of(field)), name_of(field.drift), cell(meaning));
  }
}

// Presets as columns, fields of the model section that differ between them as rows.
void append_presets(std::string& out) {
  const std::vector<std::string> names = model::preset_names();
  out += "\n## Presets of `model`\n\n| key |";
  for (const std::string& name : names) out += " " + name + " |";
  out += "\n|---|";
  for (std::size_t i = 0; i < names.size(); ++i) out += "---|";
  out += "\n";
  for (const Field& field : fields()) {
    if (!field.path.starts_with("model.") || field.path == "model.preset") continue;
    std::string row;
    bool differs = false;
    Json first;
    for (std::size_t i = 0; i < names.size(); ++i) {
      Config config;
      config.model = model::preset(names[i]);
      const Json value = field.get(config);
      if (i == 0) first = value;
      differs = differs || !(value == first);
      row += " " + (value.is_string() ? value.as_string() : value.dump()) + " |";
    }
    if (differs) out += "| `" + field.path.substr(field.path.find('.') + 1) + "` |" + row + "\n";
  }
}

}  // namespace

std::string config_reference_markdown() {
  std::string out = kIntroduction;
  for (const Section& section : sections()) append_section(out, section);
  append_presets(out);
  return out;
}

}  // namespace dsv::train
