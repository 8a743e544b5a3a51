// The order of tokens in the sequence: nested cubes along a space-filling path, so that tokens that
// are near in the video are near in memory, and a block of keys is a small box of the video.
// Source: DSV (arXiv 2502.07590) §3.3, Observation 5, for cubes; packed and nested cubes are ours.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv::sparsity {

// How cubes follow each other.
enum class CubePath { kHilbert, kRaster };

// Tokens along t, h, w.
using Extent3 = std::array<std::int64_t, 3>;

// A cube of at most 64 tokens that consists of four sub-cubes of at most 16.
struct CubeShape {
  Extent3 cube{4, 4, 4};
  Extent3 sub{4, 2, 2};
  bool operator==(const CubeShape&) const = default;
};

// The shape that wastes the fewest rows of 64-key tiles on this grid, near-cubic ones preferred: 4 x
// 4 x 4 where it divides the grid, 3 x 5 x 4 for 21 x 30 x 52.
CubeShape choose_cube_shape(const Extent3& grid);

// Tokens are packed: where the grid ends inside a cube, the cube holds fewer. Sub-cube n is block n
// of keys (kernels/sparse_attention.h); cubes have four each, some of them empty at the edges.
struct TokenOrder {
  Extent3 grid{};
  CubeShape shape;
  std::vector<std::int32_t> raster_of;    // raster index (w fastest) of the token at a position
  std::vector<std::int32_t> position_of;  // its inverse
  std::vector<std::int32_t> block_start;  // 4 num_cubes + 1 positions

  std::int64_t num_tokens() const { return grid[0] * grid[1] * grid[2]; }
  std::int64_t num_blocks() const { return static_cast<std::int64_t>(block_start.size()) - 1; }
  std::int64_t num_cubes() const { return num_blocks() / 4; }
  // Coordinates of the token at a position.
  Extent3 coordinates(std::int64_t position) const;
  // 64-key tiles that the cubes take, times 64, over the number of tokens: at least 1.
  double tile_waste() const;
};

TokenOrder make_token_order(const Extent3& grid, const CubeShape& shape, CubePath path);

// Where groups of `cubes_per_group` cubes in sequence begin, and the end: groups + 1 positions.
std::vector<std::int32_t> group_starts(const TokenOrder& order, std::int64_t cubes_per_group);

}  // namespace dsv::sparsity
