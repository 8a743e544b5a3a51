#include "dsv/sparsity/token_order.h"

#include <algorithm>
#include <numeric>

#include "dsv/sparsity/sequence_layout.h"
#include "support/catch.h"
#include "support/engine.h"

namespace dsv::sparsity {
namespace {

const std::vector<Extent3> kGrids{{1, 1, 1},    {1, 7, 5},   {2, 3, 100}, {4, 4, 4},   {8, 8, 8},
                                  {13, 30, 53}, {5, 9, 9},   {3, 12, 12}, {21, 30, 52}, {1, 64, 1},
                                  {16, 6, 4},   {21, 45, 80}};

}  // namespace

TEST_CASE("token_order: shapes of cubes by grid") {
  CHECK(choose_cube_shape({8, 8, 8}).cube == Extent3{4, 4, 4});
  CHECK(choose_cube_shape({8, 8, 8}).sub == Extent3{4, 2, 2});
  const CubeShape wan = choose_cube_shape({21, 30, 52});
  CHECK(wan.cube == Extent3{3, 5, 4});
  CHECK(wan.sub == Extent3{3, 5, 1});
  CHECK(choose_cube_shape({21, 45, 80}).cube == Extent3{3, 5, 4});
  CHECK(choose_cube_shape({1, 64, 64}).cube == Extent3{1, 8, 8});
  const TokenOrder order = make_token_order({21, 30, 52}, wan, CubePath::kHilbert);
  CHECK(order.tile_waste() == Approx(1.0667).margin(1e-3));
}

TEST_CASE("token_order: every token once, cubes packed, whatever the grid") {
  for (const CubePath path : {CubePath::kHilbert, CubePath::kRaster}) {
    for (const Extent3& grid : kGrids) {
      INFO("grid " << grid[0] << " " << grid[1] << " " << grid[2]);
      const CubeShape shape = choose_cube_shape(grid);
      const TokenOrder order = make_token_order(grid, shape, path);
      const auto S = static_cast<std::size_t>(order.num_tokens());
      REQUIRE(order.raster_of.size() == S);
      std::vector<std::int32_t> sorted = order.raster_of, all(S);
      std::sort(sorted.begin(), sorted.end());
      std::iota(all.begin(), all.end(), 0);
      CHECK(sorted == all);
      for (std::size_t i = 0; i < S; ++i) {
        REQUIRE(order.position_of[static_cast<std::size_t>(order.raster_of[i])] ==
                static_cast<std::int32_t>(i));
      }
      CHECK(order.block_start.front() == 0);
      CHECK(order.block_start.back() == static_cast<std::int32_t>(S));
      CHECK(order.num_blocks() % 4 == 0);
      // A sub-cube's tokens lie inside a box of its size, a cube's inside a box of the cube's.
      const auto check_boxes = [&](std::int64_t stride, const Extent3& size, std::int64_t most) {
        for (std::int64_t n = 0; n < order.num_blocks(); n += stride) {
          const std::int64_t begin = order.block_start[static_cast<std::size_t>(n)],
                             end = order.block_start[static_cast<std::size_t>(n + stride)];
          REQUIRE(end - begin <= most);
          Extent3 least{1 << 30, 1 << 30, 1 << 30}, greatest{-1, -1, -1};
          for (std::int64_t i = begin; i < end; ++i) {
            const Extent3 at = order.coordinates(i);
            for (std::size_t a = 0; a < 3; ++a) {
              least[a] = std::min(least[a], at[a]);
              greatest[a] = std::max(greatest[a], at[a]);
            }
          }
          for (std::size_t a = 0; a < 3 && begin < end; ++a) {
            REQUIRE(greatest[a] - least[a] < size[a]);
          }
        }
      };
      check_boxes(1, shape.sub, 16);
      check_boxes(4, shape.cube, 64);
    }
  }
}

TEST_CASE("token_order: the Hilbert path goes from cube to neighbouring cube") {
  const TokenOrder order = make_token_order({16, 16, 16}, {{4, 4, 4}, {4, 2, 2}}, CubePath::kHilbert);
  for (std::int64_t c = 1; c < order.num_cubes(); ++c) {
    std::int64_t distance = 0;
    const Extent3 a = order.coordinates(order.block_start[static_cast<std::size_t>(4 * c - 4)]);
    const Extent3 b = order.coordinates(order.block_start[static_cast<std::size_t>(4 * c)]);
    for (std::size_t axis = 0; axis < 3; ++axis) distance += std::abs(a[axis] - b[axis]);
    CHECK(distance == 4);
  }
}

TEST_CASE("token_order: groups of one and two cubes") {
  const TokenOrder order = make_token_order({3, 12, 12}, choose_cube_shape({3, 12, 12}), CubePath::kHilbert);
  for (const std::int64_t cubes : {1, 2}) {
    const std::vector<std::int32_t> groups = group_starts(order, cubes);
    CHECK(groups.front() == 0);
    CHECK(groups.back() == order.num_tokens());
    CHECK(static_cast<std::int64_t>(groups.size()) == (order.num_cubes() + cubes - 1) / cubes + 1);
    for (std::size_t g = 1; g < groups.size(); ++g) {
      CHECK(groups[g] - groups[g - 1] <= 64 * cubes);
      CHECK(groups[g] > groups[g - 1]);
    }
  }
}

TEST_CASE("sequence_layout: windows hold their share of the grid and the group's own keys") {
  testing::Engine engine;
  for (const std::int64_t granularity : {1, 16, 64}) {
    for (const WindowSize size : {WindowSize::kThird, WindowSize::kTwoThirds}) {
      const SequenceLayout layout = make_layout(
          engine.context(), {.policy = Policy::kWindow, .granularity = granularity}, {12, 24, 24});
      const std::vector<std::uint32_t> bits = window_bits(layout, size);
      const auto words = static_cast<std::size_t>(layout.num_words());
      double pairs = 0;
      for (std::int64_t g = 0; g < layout.num_groups(); ++g) {
        const auto first = layout.groups[static_cast<std::size_t>(g)],
                   last = layout.groups[static_cast<std::size_t>(g) + 1];
        std::int64_t keys = 0;
        for (std::int64_t n = 0; n < layout.num_blocks(); ++n) {
          const std::uint32_t word = bits[static_cast<std::size_t>(g) * words + static_cast<std::size_t>(n / 32)];
          const bool in = (word >> (n % 32) & 1) != 0;
          const auto i = static_cast<std::size_t>(n);
          const std::int32_t begin = granularity == 1 ? static_cast<std::int32_t>(n) : layout.order.block_start[i];
          const std::int32_t end = granularity == 1 ? begin + 1 : layout.order.block_start[i + 1];
          if (in) keys += end - begin;
          if (begin >= first && end <= last && end > begin) CHECK(in);
        }
        pairs += static_cast<double>(keys) * (last - first);
      }
      const auto S = static_cast<double>(layout.num_tokens());
      const double share = size == WindowSize::kThird ? 1.0 / 27 : 8.0 / 27;
      INFO("granularity " << granularity);
      CHECK(pairs / S / S == Approx(share).epsilon(0.35));
    }
  }
}

}  // namespace dsv::sparsity
