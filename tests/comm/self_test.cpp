#include "contract.h"
#include "support/catch.h"

TEST_CASE("self keeps the contract", "[comm][self]") {
  for (const contract::Case& c : contract::cases()) {
    INFO(c.name);
    const auto self = dsv::comm::make_self();
    self->set_checked(true);
    CHECK_NOTHROW(c.run(*self));
    CHECK(self->stats().bytes_sent == 0);
    CHECK(self->stats().bytes_received == 0);
  }
}
