// One rank: every collective is a copy, and there is nobody to wait for.
#include <unistd.h>

#include <cstdio>

#include "collectives.h"

namespace dsv::comm {
namespace {

class Self final : public Collectives {
 public:
  Self() : Collectives(0, 1) {}
  [[noreturn]] void abort(int exit_code) override {
    std::fflush(nullptr);
    _exit(exit_code);
  }

 private:
  const char* host_name() const override { return "self"; }
  void exchange_with_peers(std::span<const Bytes>, std::span<const Bytes>) override {}
  void wait_for_all() override {}
  std::unique_ptr<Collectives> make_split(int, int) override { return std::make_unique<Self>(); }
};

}  // namespace

std::unique_ptr<Communicator> make_self() {
  return std::make_unique<Self>();
}

}  // namespace dsv::comm
