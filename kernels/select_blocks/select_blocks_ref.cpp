#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "dsv/base/check_math.h"
#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {
namespace {

// Where blocks begin, single keys included.
std::vector<std::int64_t> block_starts(const SelectBlocks& args) {
  std::vector<std::int64_t> start;
  if (args.block_start) {
    const std::int32_t* from = args.block_start.i32();
    start.assign(from, from + args.block_start.num_elements());
  } else {
    start.resize(static_cast<std::size_t>(args.k_lr.dim(1)) + 1);
    std::iota(start.begin(), start.end(), 0);
  }
  return start;
}

// What stands for the queries [first, end) of one head: NaN for a group without any.
std::vector<double> proxy_of(const SelectBlocks& args, std::int64_t b, std::int64_t h,
                             std::int64_t first, std::int64_t end) {
  const View q(args.q_lr);
  std::vector<double> x;
  for (std::int64_t c = 0; c < args.q_lr.dim(3); ++c) {
    double sum = 0;
    for (std::int64_t i = first; i < end; ++i) sum += q(b, i, h, c);
    const auto size = static_cast<double>(end - first);
    const bool centre = args.proxy == Proxy::kCentre && first < end;
    x.push_back(centre ? static_cast<double>(q(b, first + (end - first) / 2, h, c)) : sum / size);
  }
  return x;
}

// exp(t_j - max) of every key; NaN counts as -inf, inf as the largest finite number, and what is
// below the normal numbers of f32 as 0.
std::vector<double> key_masses(const SelectBlocks& args, std::int64_t b, std::int64_t h,
                               const std::vector<double>& x) {
  const View k(args.k_lr), slope(args.slope);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double factor = slope(h) * static_cast<double>(args.scale);
  std::vector<double> t;
  double top = -kInfinity;
  for (std::int64_t j = 0; j < args.k_lr.dim(1); ++j) {
    double dot = 0;
    for (std::size_t c = 0; c < x.size(); ++c) dot += x[c] * k(b, j, h, c);
    const double logit = factor * dot;
    t.push_back(std::isnan(logit) ? -kInfinity
                                  : std::min<double>(logit, std::numeric_limits<float>::max()));
    top = std::max(top, t.back());
  }
  for (double& value : t) {
    const double mass = top == -kInfinity ? 0 : std::exp(value - top);
    value = mass < std::numeric_limits<float>::min() ? 0 : mass;
  }
  return t;
}

}  // namespace

void select_blocks(const SelectBlocks& args, const Stream&) {
  const View wanted(args.mass), covered(args.covered);
  const std::vector<std::int64_t> start = block_starts(args);
  const std::int32_t* group_start = args.group_start.i32();
  const std::int64_t B = args.q_lr.dim(0), H = args.q_lr.dim(2), Skv = args.k_lr.dim(1);
  const std::int64_t G = args.bits.dim(2), W = args.bits.dim(3);
  const auto N = static_cast<std::int64_t>(start.size()) - 1;
  const std::int64_t num_units = ceil_div(N, args.unit);
  const auto first_key = [&](std::int64_t unit) {  // also of unit `num_units`: Skv
    return start[static_cast<std::size_t>(std::min(unit * args.unit, N))];
  };
  for (std::int64_t row = 0; row < B * H * G; ++row) {
    const std::int64_t b = row / (H * G), h = row / G % H, g = row % G;
    const std::vector<double> key_mass =
        key_masses(args, b, h, proxy_of(args, b, h, group_start[g], group_start[g + 1]));
    struct Unit {
      std::int64_t index, num_keys;
      bool own;
      double mass;
    };
    std::vector<Unit> units;
    double total = 0;
    for (std::int64_t u = 0; u < num_units; ++u) {
      Unit unit{.index = u, .num_keys = first_key(u + 1) - first_key(u), .own = false, .mass = 0};
      for (std::int64_t j = first_key(u); j < first_key(u + 1); ++j) {
        const std::int64_t query = j - args.query_offset;
        unit.own |= query >= group_start[g] && query < group_start[g + 1];
        unit.mass += key_mass[static_cast<std::size_t>(j)];
      }
      total += unit.mass;
      if (unit.num_keys > 0) units.push_back(unit);
    }
    std::stable_sort(units.begin(), units.end(), [](const Unit& left, const Unit& right) {
      if (left.own || right.own) return left.own > right.own;
      return left.mass > right.mass;
    });
    std::uint32_t* const bits = args.bits.u32() + row * W;
    std::fill_n(bits, W, 0u);
    std::int64_t keys_taken = 0;
    double mass_taken = 0;
    for (const Unit& unit : units) {
      const bool enough = keys_taken >= args.min_keys.i32()[h] && mass_taken >= wanted(h) * total;
      if (!unit.own && (enough || keys_taken >= args.max_keys.i32()[h])) break;
      keys_taken += unit.num_keys;
      mass_taken += unit.mass;
      for (std::int64_t n = unit.index * args.unit; n < std::min(N, (unit.index + 1) * args.unit);
           ++n) {
        const bool is_empty =
            start[static_cast<std::size_t>(n)] == start[static_cast<std::size_t>(n) + 1];
        if (!is_empty) bits[n / 32] |= 1u << n % 32;
      }
    }
    DSV_CHECK(keys_taken <= Skv, "[select_blocks] took {} of {} keys", keys_taken, Skv);
    args.num_keys.i32()[row] = static_cast<std::int32_t>(keys_taken);
    covered(b, h, g) = total > 0 ? mass_taken / total : 0.0;
  }
}

}  // namespace dsv::kernels::reference
