#include "dsv/comm/stop_request.h"

#include <signal.h>
#include <unistd.h>

#include "loopback_ranks.h"
#include "support/catch.h"

using namespace dsv::comm;

TEST_CASE("stop: signals ask, once or twice; closed pipes do not kill", "[comm][stop]") {
  install_stop_handlers();
  install_stop_handlers();
  CHECK_FALSE(stop_requested());
  for (const int signal : {SIGTERM, SIGUSR1}) {
    clear_stop_request();
    raise(signal);
    CHECK(stop_requested());
    raise(signal);
    CHECK(stop_requested());
  }
  clear_stop_request();
  // Without a launcher, a shell's `fg` is no request.
  raise(SIGCONT);
  kill(getpid(), SIGCONT);
  CHECK_FALSE(stop_requested());

  int ends[2];
  REQUIRE(pipe(ends) == 0);
  close(ends[0]);
  CHECK(write(ends[1], "x", 1) == -1);
  close(ends[1]);

  request_stop();
  const auto self = make_self();
  CHECK(stop_requested_anywhere(*self));
  clear_stop_request();
  CHECK_FALSE(stop_requested_anywhere(*self));
  for (const int s : {SIGTERM, SIGUSR1, SIGPIPE}) signal(s, SIG_DFL);
}
