// Configuration in and out: layered YAML and --set to Config, canonical YAML and JSON back, checks,
// and the differences that decide whether a checkpoint may be resumed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dsv/base/json.h"
#include "dsv/train/config.h"

namespace dsv::train {

// Reads YAML files in order, then "section.key=value" settings in order; later ones win. A layer
// that names model.preset starts the model section afresh from it. Where no layer names the run,
// run.name is the stem of the first file. The result has been validated. Throws Error(kConfig) with
// one line per problem, "FILE:LINE:COLUMN: PATH: expected …, got …", and the nearest valid name for
// misspelt ones. Files are at most 128 KiB of UTF-8; keys must be known and unique; aliases are
// expanded up to 10,000 nodes; merge keys and tags are refused.
Config load_config(const std::vector<std::string>& yaml_paths,
                   const std::vector<std::string>& sets);

// One layer from memory, YAML or JSON, as dump_config and config_json write it; `where` names it.
Config parse_config(std::string_view text, const std::string& where);

// Every field, in the order of docs/config.md; load_config reads it back equal.
std::string dump_config(const Config& config);
Json config_json(const Config& config);

// Ranges, cross-field rules, settings that other settings leave without effect.
// Throws Error(kConfig) naming the first field at fault.
void validate(const Config& config);

// Replaces `auto` of run.device and precision.compute by what they mean on this machine, checks the
// result, and so makes it what a checkpoint stores.
Config resolve_auto(Config config, bool has_cuda);

// What a difference between a checkpoint's configuration and the present one means for resuming.
enum class Drift {
  kModel,     // refused: the stored state does not fit
  kTraining,  // refused unless resume.allow lists the field: the run would become another one
  kFree,      // logged
};

struct ConfigDifference {
  std::string path;
  std::string old_value, new_value;
  Drift drift = Drift::kFree;
};

std::vector<ConfigDifference> config_differences(const Config& old_config,
                                                 const Config& new_config);

// Throws Error(kResumeRefused) that lists every difference in the way; logs the others.
void require_resumable(const std::vector<ConfigDifference>& differences,
                       const std::vector<std::string>& allow);

// docs/config.md.
std::string config_reference_markdown();

}  // namespace dsv::train
