// The one table of configuration fields: parsing, dumping, checking, drift, and docs all read it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "config_yaml.h"
#include "dsv/base/json.h"
#include "dsv/train/config_io.h"

namespace dsv::train {

struct Field {
  std::string path;   // "optim.lr"
  std::string type;   // in words
  std::string range;  // in words, "" for none
  std::string help;
  Drift drift = Drift::kFree;
  std::function<Json(const Config&)> get;
  std::function<void(const YamlNode&, Config&)> set;        // throws ValueError
  std::function<std::string(const Config&)> range_problem;  // "" or "expected …, got …"
  std::string used_when;                                    // "" : always
  std::function<bool(const Config&)> is_used;
};

struct Section {
  std::string name;
  std::string help;
};

const std::vector<Section>& sections();
const std::vector<Field>& fields();  // in the order of sections and of declaration
const Field* find_field(std::string_view path);
// Keys of a section without its name.
std::vector<std::string> keys_of(std::string_view section);

}  // namespace dsv::train
