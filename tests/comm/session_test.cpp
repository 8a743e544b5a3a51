#include "dsv/comm/communicator.h"
#include "support/catch.h"

TEST_CASE("without a launcher the session is one rank", "[comm][session]") {
  dsv::comm::MpiSession session(nullptr, nullptr);
  CHECK_FALSE(session.launched());
  CHECK(session.local_size() == 1);
  CHECK_FALSE(session.host().empty());
  const auto world = session.world();
  CHECK(world->size() == 1);
  CHECK(std::string(world->backend_name()) == "self");
}
