#include "dsv/costs/attention_costs.h"

#include <algorithm>
#include <cmath>

#include "dsv/base/error.h"
#include "dsv/base/format.h"

namespace dsv::costs {
namespace {

constexpr std::int64_t kVersion = 1;

[[noreturn]] void refuse(const std::string& where, const std::string& reason) {
  throw_error(ExitCode::kCorruptInput, "{}: attention costs: {}", where, reason);
}

double seconds_from(const Json& json, const char* what, const std::string& where) {
  const double value = json.at(what).as_double();
  if (!(value >= 0) || !std::isfinite(value)) {
    refuse(where, format("{}: expected seconds, got {}", what, value));
  }
  return value;
}

AttentionPoint point_from(const Json& json, const std::string& where) {
  AttentionPoint point{.tokens = json.at("tokens").as_int(),
                       .dense = seconds_from(json, "dense", where),
                       .estimate = seconds_from(json, "estimate", where)};
  if (point.tokens < 1) refuse(where, format("expected tokens > 0, got {}", point.tokens));
  double before = 0;
  for (const Json& in : json.at("sparse").as_array()) {
    const AttentionPoint::Sparse s{.density = in.at("density").as_double(),
                                   .seconds = seconds_from(in, "seconds", where)};
    if (!(s.density > before && s.density <= 1)) {
      refuse(where, format("expected densities that rise in (0, 1], got {}", s.density));
    }
    before = s.density;
    point.sparse.push_back(s);
  }
  if (point.sparse.size() < 2) refuse(where, "expected at least two densities");
  return point;
}

}  // namespace

double break_even_density(const AttentionPoint& point) {
  DSV_CHECK(point.sparse.size() >= 2, "[costs] expected two densities, got {}",
            point.sparse.size());
  const double budget = point.dense - point.estimate;
  // The segment in which the budget is reached; the first and last go on beyond their ends.
  std::size_t i = 1;
  while (i + 1 < point.sparse.size() && point.sparse[i].seconds < budget) ++i;
  const AttentionPoint::Sparse &a = point.sparse[i - 1], &b = point.sparse[i];
  const double slope = (b.seconds - a.seconds) / (b.density - a.density);
  if (slope <= 0) return a.seconds < budget ? 1 : 0;  // noise: cost does not grow with density
  return std::clamp(a.density + (budget - a.seconds) / slope, 0.0, 1.0);
}

double break_even_density(const AttentionCosts& costs, std::int64_t tokens) {
  if (costs.points.empty()) {
    throw_error(ExitCode::kConfig, "[costs] expected at least one measured sequence length");
  }
  const auto above = std::find_if(costs.points.begin(), costs.points.end(),
                                  [&](const AttentionPoint& p) { return p.tokens >= tokens; });
  if (above == costs.points.begin()) return break_even_density(costs.points.front());
  if (above == costs.points.end()) return break_even_density(costs.points.back());
  const AttentionPoint &a = *(above - 1), &b = *above;
  const auto log = [](std::int64_t n) { return std::log(static_cast<double>(n)); };
  const double t = (log(tokens) - log(a.tokens)) / (log(b.tokens) - log(a.tokens));
  return (1 - t) * break_even_density(a) + t * break_even_density(b);
}

Json to_json(const AttentionCosts& costs) {
  Json out = Json::object();
  out.set("version", kVersion);
  out.set("machine", costs.machine);
  out.set("num_heads", costs.num_heads);
  out.set("head_dim", costs.head_dim);
  out.set("granularity", costs.granularity);
  out.set("group_cubes", costs.group_cubes);
  Json points = Json::array();
  for (const AttentionPoint& p : costs.points) {
    Json point = Json::object();
    point.set("tokens", p.tokens);
    point.set("dense", p.dense);
    point.set("estimate", p.estimate);
    Json sparse = Json::array();
    for (const AttentionPoint::Sparse& s : p.sparse) {
      Json item = Json::object();
      item.set("density", s.density);
      item.set("seconds", s.seconds);
      sparse.push_back(std::move(item));
    }
    point.set("sparse", std::move(sparse));
    points.push_back(std::move(point));
  }
  out.set("points", std::move(points));
  return out;
}

AttentionCosts attention_costs_from_json(const Json& json, const std::string& where) {
  if (json.at("version").as_int() != kVersion) {
    refuse(where, format("expected version {}, got {}", kVersion, json.at("version").as_int()));
  }
  AttentionCosts costs{.num_heads = json.at("num_heads").as_int(),
                       .head_dim = json.at("head_dim").as_int(),
                       .granularity = json.at("granularity").as_int(),
                       .group_cubes = json.at("group_cubes").as_int(),
                       .machine = json.at("machine").as_string()};
  for (const Json& point : json.at("points").as_array()) {
    costs.points.push_back(point_from(point, where));
    const std::size_t n = costs.points.size();
    if (n > 1 && costs.points[n - 2].tokens >= costs.points[n - 1].tokens) {
      refuse(where, "expected points by rising tokens");
    }
  }
  return costs;
}

std::string stale_reason(const AttentionCosts& costs, const AttentionCosts& now) {
  const auto differs = [](const char* what, const auto& then, const auto& here) {
    return then == here ? std::string() : format("{}: measured with {}, now {}", what, then, here);
  };
  for (const std::string& reason : {differs("machine", costs.machine, now.machine),
                                    differs("heads", costs.num_heads, now.num_heads),
                                    differs("head_dim", costs.head_dim, now.head_dim),
                                    differs("attention.granularity", costs.granularity, now.granularity),
                                    differs("attention.group_cubes", costs.group_cubes, now.group_cubes)}) {
    if (!reason.empty()) return reason;
  }
  return "";
}

}  // namespace dsv::costs
