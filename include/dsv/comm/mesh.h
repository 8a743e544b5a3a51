// Mesh: the axes over which ranks are arranged, world = dp × cp with cp innermost.
#pragma once

#include <memory>

#include "dsv/comm/communicator.h"

namespace dsv::comm {

// dp ranks see different samples; cp ranks share a sample's sequence (context parallelism).
// Each axis is a communicator, of one rank where the axis has one.
struct Mesh {
  std::unique_ptr<Communicator> world;
  std::unique_ptr<Communicator> dp;  // ranks of equal cp index
  std::unique_ptr<Communicator> cp;  // ranks of equal dp index, contiguous in world
};

// Collective. Throws Error(kConfig) unless dp * cp == world size.
Mesh make_mesh(std::unique_ptr<Communicator> world, int dp, int cp);

}  // namespace dsv::comm
