#include "config_rules.h"

#include <tuple>
#include <utility>

#include "config_table.h"
#include "config_yaml.h"

namespace dsv::train {
namespace {

bool is_printable(const std::string& text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return false;
  }
  return true;
}

// run.steps is free unless the length of a schedule follows from it.
bool may_need_leave(const Field& field) {
  return field.drift == Drift::kTraining || field.path == "run.steps";
}

}  // namespace

std::string name_problem(const std::string& name) {
  constexpr const char* kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  const bool good = !name.empty() && name.size() <= 100 && name.front() != '.' &&
                    name.front() != '-' && name.find_first_not_of(kAllowed) == std::string::npos;
  return good ? "" : format("expected 1 … 100 letters, digits, '.', '_', '-', got {}", quote(name));
}

std::string path_problem(const std::string& path, bool may_be_empty) {
  if (path.empty() && may_be_empty) return "";
  const bool good = !path.empty() && path.size() <= 4096 && is_printable(path);
  return good ? "" : format("expected a path, got {}", quote(path));
}

std::string preset_problem(const std::string& preset) {
  try {
    model::preset(preset);
  } catch (const Error& e) {
    return std::string(e.what()).substr(std::string_view("model.preset: ").size());
  }
  return "";
}

std::string prompts_problem(const std::vector<std::string>& prompts) {
  if (prompts.size() > 1024) return format("expected at most 1024 prompts, got {}", prompts.size());
  for (const std::string& prompt : prompts) {
    if (prompt.size() > 10'000) {
      return format("expected prompts of at most 10000 bytes, got {}", prompt.size());
    }
  }
  return "";
}

std::string weights_problem(const std::vector<double>& weights) {
  if (weights.size() > 4096) return format("expected at most 4096 weights, got {}", weights.size());
  return outside(between(0, 1e6), weights);
}

std::string buckets_problem(const std::vector<data::Bucket>& buckets) {
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const data::Bucket& b = buckets[i];
    const std::string name = format("{}x{}, {} frames: ", b.height, b.width, b.frames);
    for (const auto& [what, value] :
         {std::pair{"height", b.height}, {"width", b.width}, {"frames", b.frames}}) {
      const std::string problem = outside(between(1, 65536), value);
      if (!problem.empty()) return format("{}{}: {}", name, what, problem);
    }
    std::string problem = outside(above(0).at_most(1e6), b.probability);
    if (!problem.empty()) return format("{}probability: {}", name, problem);
    problem = outside(between(1, 1e6), b.batch);
    if (!problem.empty()) return format("{}batch: {}", name, problem);
    for (std::size_t j = 0; j < i; ++j) {
      const data::Bucket& other = buckets[j];
      if (std::tuple(b.height, b.width, b.frames) ==
          std::tuple(other.height, other.width, other.frames)) {
        return name + "expected each shape once, got it twice";
      }
    }
  }
  return "";
}

// The names are those of the table itself, which is why this rule is checked when it is complete.
std::string allow_problem(const std::vector<std::string>& allow) {
  std::vector<std::string> names;
  for (const Field& field : fields()) {
    if (may_need_leave(field)) names.push_back(field.path);
  }
  for (const std::string& path : allow) {
    const Field* field = find_field(path);
    if (field != nullptr && may_need_leave(*field)) continue;
    std::string problem = format("expected fields whose drift is 'training', got {}", quote(path));
    if (field != nullptr) {
      return problem + (field->drift == Drift::kModel ? ", which must not change"
                                                      : ", which may always change");
    }
    const std::string nearest = nearest_name(path, names);
    return problem + (nearest.empty() ? "" : "; did you mean " + nearest + "?");
  }
  return "";
}

}  // namespace dsv::train
