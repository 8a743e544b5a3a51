#include "dsv/comm/mesh.h"

namespace dsv::comm {

Mesh make_mesh(std::unique_ptr<Communicator> world, int dp, int cp) {
  DSV_CHECK(world != nullptr, "[mesh] expected a world");
  if (dp < 1 || cp < 1 || static_cast<std::int64_t>(dp) * cp != world->size()) {
    throw_error(
        ExitCode::kConfig,
        "[mesh] expected dp × cp to be the number of ranks, got dp {} × cp {} on {} ranks; see "
        "parallel.dp and parallel.cp, or start mpirun with another -n",
        dp, cp, world->size());
  }
  Mesh mesh;
  const int rank = world->rank();
  mesh.dp = world->split(rank % cp, rank);
  mesh.cp = world->split(rank / cp, rank);
  mesh.dp->set_name("dp");
  mesh.cp->set_name("cp");
  mesh.world = std::move(world);
  return mesh;
}

}  // namespace dsv::comm
