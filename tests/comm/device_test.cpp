#include "contract.h"
#include "dsv/tensor/cuda_device.h"
#include "fake_device.h"
#include "support/catch.h"

using contract::FakeOptions;
using contract::HostedCommunicator;
using contract::HostedMemory;
using contract::run_device_ranks;
using dsv::DType;
using dsv::Tensor;
using dsv::comm::Communicator;
using Host = std::unique_ptr<Communicator>;

namespace {

void expect_none(const std::vector<std::string>& errors, const std::string& what) {
  for (std::size_t r = 0; r < errors.size(); ++r) {
    INFO(what << " on rank " << r << " of " << errors.size());
    CHECK(errors[r] == "");
  }
}

Tensor on_device(const HostedMemory& memory, std::vector<float> values) {
  const auto n = static_cast<std::int64_t>(values.size());
  const Tensor bytes = memory.allocate(4 * n);
  memory.copy(Tensor(values.data(), DType::kU8, {4 * n}), bytes);
  return Tensor(bytes.raw(), DType::kF32, {n}, bytes.device(), bytes.owner());
}

}  // namespace

TEST_CASE("collectives keep the contract with tensors on a device", "[comm][device]") {
  const bool own_sums = GENERATE(false, true);
  for (const int size : {1, 2, 3, 4}) {
    if (own_sums && size == 4) continue;  // nothing new
    for (const contract::Case& c : contract::cases()) {
      if (std::string(c.name) == "large" && size != 2) continue;  // more bytes, no other steps
      std::atomic<int> num_calls{0};
      const FakeOptions options{.own_sums = own_sums, .num_calls = &num_calls};
      expect_none(run_device_ranks(size, options,
                                   [&](Host host, const HostedMemory& memory) {
                                     HostedCommunicator comm(std::move(host), memory);
                                     c.run(comm);
                                   }),
                  c.name);
      // Otherwise the cases would test the host's transport.
      if (std::string(c.name) == "reductions" || std::string(c.name) == "moves") {
        CHECK(num_calls > 0);
      }
    }
  }
}

TEST_CASE("a communicator with a device still takes tensors on the host", "[comm][device]") {
  std::atomic<int> num_calls{0};
  const auto errors = run_device_ranks(3, {.num_calls = &num_calls}, [&](Host host, const auto&) {
    CONTRACT_EXPECT(std::string(host->backend_name()) == "fake", "{}", host->backend_name());
    contract::moves(*host);
    contract::reductions(*host);
  });
  expect_none(errors, "host tensors");
  CHECK(num_calls == 0);
}

TEST_CASE("a call on a device is told apart from one that is done", "[comm][device]") {
  expect_none(run_device_ranks(2, {},
                               [](Host host, const HostedMemory& memory) {
                                 host->all_reduce(on_device(memory, {1, 2}));
                                 const dsv::comm::LastOp op = host->last_op();
                                 CONTRACT_EXPECT(op.queued && !op.running, "{}", to_string(op));
                                 CONTRACT_EXPECT(to_string(op) ==
                                                     "all_reduce call 1 of group world (8 bytes), "
                                                     "queued on the device",
                                                 "{}", to_string(op));
                                 host->barrier();
                                 CONTRACT_EXPECT(!host->last_op().queued, "a host call is done");
                               }),
              "last op");
}

TEST_CASE("ranks that disagree on where a tensor lies are refused", "[comm][device]") {
  const auto errors = run_device_ranks(2, {}, [](Host host, const HostedMemory& memory) {
    float value = 1;
    if (host->rank() == 0) {
      host->all_reduce(Tensor(&value, DType::kF32, {1}));
    } else {
      host->all_reduce(on_device(memory, {1}));
    }
  });
  for (const std::string& e : errors) {
    CHECK_THAT(e,
               Contains("rank 0 called all_reduce (call 1, sum, F32, 1 rows of 4 bytes), rank 1 "
                        "called all_reduce (call 1, sum, F32, 1 rows of 4 bytes, on the device)"));
  }
}

TEST_CASE("tensors on another device, or on two, are refused", "[comm][device]") {
  expect_none(run_device_ranks(
                  1, {},
                  [](Host host, const HostedMemory& memory) {
                    const auto refused = [](const std::function<void()>& call) {
                      return contract::expect_error(dsv::ExitCode::kInternal, call);
                    };
                    const Tensor here = on_device(memory, {1});
                    const Tensor there =
                        here.moved_to(here.raw(), {dsv::DeviceKind::kCuda, 1}, here.owner());
                    const std::string text = refused([&] { host->all_reduce(there); });
                    CONTRACT_EXPECT(
                        text.find("all_reduce expects a tensor on cpu here, got one on cuda:1") !=
                            std::string::npos,
                        "{}", text);
                    float value = 0;
                    const Tensor on_host(&value, DType::kF32, {1});
                    const contract::Counts one = {1};
                    refused([&] { host->all_gather_v(here, on_host, one); });
                    refused([&] { host->reduce_scatter_v(on_host, here, one); });
                    refused([&] { host->all_to_all_v(here, one, on_host, one); });
                  }),
              "devices");
}

TEST_CASE("after a failure on the device every call throws", "[comm][device]") {
  std::atomic<bool> failed{false};
  std::atomic<int> num_calls{0};
  const FakeOptions options{.failed = &failed, .num_calls = &num_calls};
  expect_none(run_device_ranks(2, options,
                               [&](Host host, const HostedMemory& memory) {
                                 const Tensor x = on_device(memory, {1});
                                 host->all_reduce(x);
                                 const auto group = host->split(0, 0);
                                 host->throw_if_failed();
                                 host->barrier();
                                 failed = true;
                                 const auto refused = [](const std::function<void()>& call) {
                                   contract::expect_error(dsv::ExitCode::kHang, call);
                                 };
                                 refused([&] { host->throw_if_failed(); });
                                 refused([&] { host->all_reduce(x); });
                                 refused([&] { group->barrier(); });
                                 refused([&] { host->all_reduce(1.0, dsv::comm::ReduceOp::kSum); });
                                 refused([&] { host->split(0, 0); });
                                 CONTRACT_EXPECT(host->stats().num_calls == 3,
                                                 "refused calls are not counted");
                               }),
              "failure");
}

TEST_CASE("NCCL without CUDA says what to configure", "[comm][device]") {
  if (dsv::built_with_cuda()) {
    // What a build with CUDA refuses without asking a GPU.
    CHECK_THROWS_AS(make_nccl(dsv::comm::make_self(), dsv::Stream{}), dsv::Error);
    return;
  }
  try {
    make_nccl(dsv::comm::make_self(), dsv::Stream{});
    FAIL("expected an error");
  } catch (const dsv::Error& e) {
    CHECK(e.code() == dsv::ExitCode::kEnvironment);
    CHECK_THAT(e.what(), Contains("-DDSV_CUDA=ON"));
  }
}
