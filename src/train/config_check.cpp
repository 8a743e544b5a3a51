#include "config_check.h"

#include "dsv/base/error.h"

namespace dsv::train {
namespace {

class Problems {
 public:
  template <typename... Args>
  void require(bool holds, const char* path, std::string_view pattern, const Args&... args) {
    if (!holds) list.push_back({path, format(pattern, args...)});
  }
  std::vector<FieldProblem> list;
};

bool all_zero(const std::vector<double>& values) {
  for (const double value : values) {
    if (value > 0) return false;
  }
  return true;
}

void check_unused(const Config& config, Problems& problems) {
  Config untouched;
  untouched.model = model::preset(config.model.preset);
  for (const Field& field : fields()) {
    if (!field.is_used || field.is_used(config)) continue;
    if (field.get(config) == field.get(untouched)) continue;
    problems.list.push_back(
        {field.path, format("expected it unset, as it has no effect here: it is "
                            "used when {}",
                            field.used_when)});
  }
}

void check_model(const Config& config, Problems& problems) {
  try {
    model::validate(config.model);
  } catch (const Error& e) {
    const std::string message = e.what();
    const auto colon = message.find(": ");
    problems.list.push_back({message.substr(0, colon), message.substr(colon + 2)});
  }
}

void check_across(const Config& c, Problems& problems) {
  problems.require(c.run.device != DeviceChoice::kCpu || c.precision.compute != Compute::kBF16,
                   "precision.compute",
                   "expected f32 or auto on the cpu, got bf16: the CPU kernels compute in f32");
  const bool by_table = c.diffusion.loss_weighting == diffusion::LossWeighting::kByTable;
  const auto& table = c.diffusion.loss_weight_table;
  problems.require(!by_table || table.size() >= 2, "diffusion.loss_weight_table",
                   "expected at least 2 weights with diffusion.loss_weighting by_table, got {}",
                   table.size());
  problems.require(!by_table || table.size() < 2 || !all_zero(table), "diffusion.loss_weight_table",
                   "expected a weight above 0, got none");
  const auto num_prompts = static_cast<std::int64_t>(c.sample.prompts.size());
  problems.require(num_prompts <= c.sample.count, "sample.count",
                   "expected at least {}, one for each of sample.prompts, got {}", num_prompts,
                   c.sample.count);
  const bool follows = c.optim.schedule != optim::Schedule::kConstant && c.optim.decay_steps == 0;
  problems.require(!follows || c.optim.warmup_steps < c.run.steps, "optim.warmup_steps",
                   "expected below run.steps = {}, as the decay ends there, got {}", c.run.steps,
                   c.optim.warmup_steps);
  const std::int64_t rank = c.sparsity.predictor_rank;
  problems.require(c.attention.policy != sparsity::Policy::kDsv ||
                       (rank % 2 == 0 && rank <= c.model.head_dim),
                   "sparsity.predictor_rank",
                   "expected an even number of at most model.head_dim = {}, got {}",
                   c.model.head_dim, rank);
  problems.require(c.sparsity.min_density <= c.sparsity.max_density, "sparsity.min_density",
                   "expected at most sparsity.max_density = {}, got {}", c.sparsity.max_density,
                   c.sparsity.min_density);
  problems.require(c.parallel.cp == 1, "parallel.cp",
                   "expected 1, got {}: context parallelism is not built yet", c.parallel.cp);
}

}  // namespace

std::vector<FieldProblem> problems_of(const Config& config) {
  Problems problems;
  for (const Field& field : fields()) {
    if (!field.range_problem) continue;
    const std::string problem = field.range_problem(config);
    if (!problem.empty()) problems.list.push_back({field.path, problem});
  }
  if (!problems.list.empty()) return problems.list;  // the rest would repeat them in other words
  check_model(config, problems);
  check_across(config, problems);
  check_unused(config, problems);
  return problems.list;
}

void validate(const Config& config) {
  const std::vector<FieldProblem> problems = problems_of(config);
  if (problems.empty()) return;
  throw_error(ExitCode::kConfig, "[config] {}: {}", problems.front().path,
              problems.front().message);
}

}  // namespace dsv::train
