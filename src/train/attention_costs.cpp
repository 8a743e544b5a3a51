#include "dsv/train/attention_costs.h"

#include <algorithm>

#include "dsv/base/log.h"
#include "dsv/data/atomic_file.h"
#include "dsv/train/train_state.h"

namespace dsv::train {
namespace {

constexpr std::int64_t kMaxProfileBytes = 16 << 20;

std::int64_t volume(const sparsity::Extent3& grid) {
  return grid[0] * grid[1] * grid[2];
}

}  // namespace

costs::AttentionCosts cost_frame(const Config& config, const Runtime& runtime) {
  const std::string machine =
      format("{}, {} thread(s), {}, {}", runtime.processor_name(), runtime.num_threads(),
             runtime.compute_dtype(),
             config.run.determinism == Determinism::kFast ? "fast" : "layout");
  return sparsity::cost_frame(config.attention, attention_shape(config.model), machine);
}

costs::AttentionCosts measure_attention_costs(
    const Config& config, Runtime& runtime, std::vector<sparsity::Extent3> grids, int repeat,
    const std::function<void(const costs::AttentionPoint&)>& on_point) {
  costs::AttentionCosts out = cost_frame(config, runtime);
  std::stable_sort(grids.begin(), grids.end(), [](const auto& a, const auto& b) {
    return volume(a) < volume(b);
  });
  for (const sparsity::Extent3& grid : grids) {
    if (!out.points.empty() && out.points.back().tokens == volume(grid)) continue;
    out.points.push_back(sparsity::measure_attention(runtime.context(), config.attention,
                                                     config.sparsity,
                                                     attention_shape(config.model), grid, repeat));
    if (on_point) on_point(out.points.back());
  }
  return out;
}

void write_profile(const std::string& path, const costs::AttentionCosts& costs) {
  Json file = Json::object();
  file.set("kind", "dsv profile");
  file.set("attention", costs::to_json(costs));
  data::write_file_atomic(path, file.dump(2) + "\n");
}

costs::AttentionCosts read_profile(const std::string& path, const costs::AttentionCosts& frame,
                                   bool allow_stale) {
  const Json file = parse_json(data::read_file(path, kMaxProfileBytes), path);
  const Json* kind = file.find("kind");
  if (kind == nullptr || !kind->is_string() || kind->as_string() != "dsv profile") {
    throw_error(ExitCode::kCorruptInput, "{}: expected a file that `dsv profile` wrote", path);
  }
  costs::AttentionCosts costs = costs::attention_costs_from_json(file.at("attention"), path);
  const std::string stale = costs::stale_reason(costs, frame);
  if (stale.empty()) return costs;
  if (!allow_stale) {
    throw_error(ExitCode::kConfig,
                "sparsity.profile: {} does not hold here ({}); make one with `dsv profile`, or set "
                "sparsity.allow_stale",
                path, stale);
  }
  log_warn("[profile] {} is used although it was made elsewhere: {}", path, stale);
  return costs;
}

std::string describe(const costs::AttentionPoint& p) {
  const auto at_tenth =
      std::find_if(p.sparse.begin(), p.sparse.end(), [](const auto& s) { return s.density >= 0.1; });
  const auto& shown = at_tenth == p.sparse.end() ? p.sparse.back() : *at_tenth;
  return format(
      "{} tokens: dense {:.2f} ms, sparse {:.2f} ms at {:.0f} %, estimate {:.2f} ms; sparse pays "
      "below {:.1f} % of the keys",
      p.tokens, 1e3 * p.dense, 1e3 * shown.seconds, 100 * shown.density, 1e3 * p.estimate,
      100 * costs::break_even_density(p));
}

}  // namespace dsv::train
