// Rules of single fields beyond types and ranges. Each returns "" or "expected …, got …".
#pragma once

#include <string>
#include <vector>

#include "dsv/data/data_config.h"

namespace dsv::train {

std::string name_problem(const std::string& name);
std::string path_problem(const std::string& path, bool may_be_empty);
std::string preset_problem(const std::string& preset);
std::string prompts_problem(const std::vector<std::string>& prompts);
std::string weights_problem(const std::vector<double>& weights);
std::string buckets_problem(const std::vector<data::Bucket>& buckets);
// Of resume.allow: its values are paths of the table itself.
std::string allow_problem(const std::vector<std::string>& allow);

}  // namespace dsv::train
