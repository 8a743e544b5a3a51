#include "dsv/sparsity/token_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dsv/base/check_math.h"
#include "dsv/base/error.h"

namespace dsv::sparsity {
namespace {

constexpr std::int64_t kCubeTokens = 64, kSubTokens = 16;
// Into how many sub-cubes each axis is cut: four in all, those of a frame first.
constexpr std::array<Extent3, 6> kCuts{
    {{1, 2, 2}, {2, 1, 2}, {2, 2, 1}, {1, 1, 4}, {1, 4, 1}, {4, 1, 1}}};

std::int64_t volume(const Extent3& e) {
  return e[0] * e[1] * e[2];
}

// Surface of a box over that of the cube of its volume: 1 for a cube, more for anything else.
double elongation(const Extent3& e) {
  const auto a = static_cast<double>(e[0]), b = static_cast<double>(e[1]),
             c = static_cast<double>(e[2]);
  return (a * b + b * c + c * a) / (3 * std::pow(a * b * c, 2.0 / 3.0));
}

// The roundest sub-cube of four that make up the cube; volume 0: none is small enough.
Extent3 choose_sub(const Extent3& cube) {
  Extent3 best{0, 0, 0};
  for (const Extent3& cut : kCuts) {
    Extent3 sub;
    for (std::size_t a = 0; a < 3; ++a) sub[a] = ceil_div(cube[a], cut[a]);
    if (volume(sub) > kSubTokens) continue;
    if (volume(best) == 0 || elongation(sub) < elongation(best) - 1e-9) best = sub;
  }
  return best;
}

// Skilling's transform (AIP Conf. Proc. 707, 2004): coordinates of `bits` bits to the index along
// the 3-D Hilbert curve.
std::uint64_t hilbert_index(std::array<std::uint32_t, 3> x, int bits) {
  for (std::uint32_t q = std::uint32_t{1} << (bits - 1); q > 1; q >>= 1) {
    const std::uint32_t p = q - 1;
    for (std::size_t i = 0; i < 3; ++i) {
      if ((x[i] & q) != 0) {
        x[0] ^= p;
      } else {
        const std::uint32_t t = (x[0] ^ x[i]) & p;
        x[0] ^= t;
        x[i] ^= t;
      }
    }
  }
  for (std::size_t i = 1; i < 3; ++i) x[i] ^= x[i - 1];
  std::uint32_t t = 0;
  for (std::uint32_t q = std::uint32_t{1} << (bits - 1); q > 1; q >>= 1) {
    if ((x[2] & q) != 0) t ^= q - 1;
  }
  for (std::uint32_t& v : x) v ^= t;
  std::uint64_t index = 0;
  for (int b = bits - 1; b >= 0; --b) {
    for (std::size_t i = 0; i < 3; ++i) index = index << 1 | (x[i] >> b & 1);
  }
  return index;
}

// Cubes of the grid, by number of cube in raster order, in the order of the path.
std::vector<std::int64_t> cube_path(const Extent3& cubes, CubePath path) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(volume(cubes)));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  if (path == CubePath::kRaster) return order;
  int bits = 1;
  while ((std::int64_t{1} << bits) < *std::max_element(cubes.begin(), cubes.end())) ++bits;
  std::vector<std::uint64_t> index(order.size());
  for (const std::int64_t c : order) {
    // The axis that changes last goes first: where the grid is flat in time, the curve is a plane's.
    index[static_cast<std::size_t>(c)] =
        hilbert_index({static_cast<std::uint32_t>(c / (cubes[1] * cubes[2])),
                       static_cast<std::uint32_t>(c / cubes[2] % cubes[1]),
                       static_cast<std::uint32_t>(c % cubes[2])},
                      bits);
  }
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return index[static_cast<std::size_t>(a)] < index[static_cast<std::size_t>(b)];
  });
  return order;
}

}  // namespace

CubeShape choose_cube_shape(const Extent3& grid) {
  DSV_CHECK(grid[0] > 0 && grid[1] > 0 && grid[2] > 0,
            "[token_order] expected a grid of at least one token, got {}x{}x{}", grid[0], grid[1],
            grid[2]);
  // A cube that is twice as long as it is round costs as much as a quarter of its tiles.
  constexpr double kElongationCost = 0.25;
  CubeShape best;
  double best_cost = 0;
  Extent3 c;
  for (c[0] = 1; c[0] <= std::min(grid[0], kCubeTokens); ++c[0]) {
    for (c[1] = 1; c[1] <= std::min(grid[1], kCubeTokens / c[0]); ++c[1]) {
      for (c[2] = 1; c[2] <= std::min(grid[2], kCubeTokens / (c[0] * c[1])); ++c[2]) {
        const Extent3 sub = choose_sub(c);
        if (volume(sub) == 0) continue;
        double tiles = 1;
        for (std::size_t a = 0; a < 3; ++a) tiles *= static_cast<double>(ceil_div(grid[a], c[a]));
        const double cost = tiles * (1 + kElongationCost * (elongation(c) - 1));
        if (best_cost == 0 || cost < best_cost * (1 - 1e-9)) {
          best = {c, sub};
          best_cost = cost;
        }
      }
    }
  }
  return best;
}

Extent3 TokenOrder::coordinates(std::int64_t position) const {
  const std::int64_t raster = raster_of[static_cast<std::size_t>(position)];
  return {raster / (grid[1] * grid[2]), raster / grid[2] % grid[1], raster % grid[2]};
}

double TokenOrder::tile_waste() const {
  return static_cast<double>(num_cubes() * kCubeTokens) / static_cast<double>(num_tokens());
}

TokenOrder make_token_order(const Extent3& grid, const CubeShape& shape, CubePath path) {
  Extent3 cubes, subs;
  for (std::size_t a = 0; a < 3; ++a) {
    DSV_CHECK(grid[a] > 0 && shape.cube[a] > 0 && shape.sub[a] > 0,
              "[token_order] axis {}: expected sizes > 0, got grid {}, cube {}, sub-cube {}", a,
              grid[a], shape.cube[a], shape.sub[a]);
    cubes[a] = ceil_div(grid[a], shape.cube[a]);
    subs[a] = ceil_div(shape.cube[a], shape.sub[a]);
  }
  DSV_CHECK(volume(shape.cube) <= kCubeTokens && volume(shape.sub) <= kSubTokens &&
                volume(subs) <= 4 && checked_mul(volume(cubes), kCubeTokens) <= INT32_MAX,
            "[token_order] expected a cube of at most 64 tokens in four sub-cubes of at most 16");
  TokenOrder order{.grid = grid, .shape = shape};
  order.raster_of.reserve(static_cast<std::size_t>(volume(grid)));
  order.block_start.push_back(0);
  for (const std::int64_t cube : cube_path(cubes, path)) {
    const Extent3 at{cube / (cubes[1] * cubes[2]), cube / cubes[2] % cubes[1], cube % cubes[2]};
    for (std::int64_t s = 0; s < 4; ++s) {
      const Extent3 sub{s / (subs[1] * subs[2]), s / subs[2] % subs[1], s % subs[2]};
      Extent3 begin, end;
      for (std::size_t a = 0; a < 3; ++a) {
        const std::int64_t last = std::min(grid[a], (at[a] + 1) * shape.cube[a]);
        begin[a] = std::min(last, at[a] * shape.cube[a] + sub[a] * shape.sub[a]);
        end[a] = std::min(last, begin[a] + shape.sub[a]);
      }
      for (std::int64_t t = begin[0]; t < end[0]; ++t) {
        for (std::int64_t h = begin[1]; h < end[1]; ++h) {
          for (std::int64_t w = begin[2]; w < end[2]; ++w) {
            order.raster_of.push_back(
                static_cast<std::int32_t>((t * grid[1] + h) * grid[2] + w));
          }
        }
      }
      order.block_start.push_back(static_cast<std::int32_t>(order.raster_of.size()));
    }
  }
  order.position_of.resize(order.raster_of.size());
  for (std::size_t i = 0; i < order.raster_of.size(); ++i) {
    order.position_of[static_cast<std::size_t>(order.raster_of[i])] =
        static_cast<std::int32_t>(i);
  }
  return order;
}

std::vector<std::int32_t> group_starts(const TokenOrder& order, std::int64_t cubes_per_group) {
  DSV_CHECK(cubes_per_group == 1 || cubes_per_group == 2,
            "[token_order] expected groups of 1 or 2 cubes, got {}", cubes_per_group);
  std::vector<std::int32_t> out;
  for (std::int64_t c = 0; c < order.num_cubes(); c += cubes_per_group) {
    out.push_back(order.block_start[static_cast<std::size_t>(4 * c)]);
  }
  out.push_back(order.block_start.back());
  return out;
}

}  // namespace dsv::sparsity
