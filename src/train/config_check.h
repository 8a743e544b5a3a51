// What is wrong with a configuration, by field, so that the reader can say in which file and line.
#pragma once

#include <string>
#include <vector>

#include "config_fields.h"

namespace dsv::train {

struct FieldProblem {
  std::string path;
  std::string message;
};

// All problems, in the order of the table.
std::vector<FieldProblem> problems_of(const Config& config);

}  // namespace dsv::train
