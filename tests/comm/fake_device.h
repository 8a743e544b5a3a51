// A device without a GPU: host memory that calls itself cuda:0, and a transport for it that sends
// through a second loopback world. So the steps that collectives take for tensors on a device run
// on any machine, under sanitizers too.
#pragma once

#include <atomic>

#include "../../src/comm/collectives.h"
#include "../../src/comm/reduce_in_order.h"
#include "comm/hosted_communicator.h"
#include "comm/loopback_ranks.h"

namespace contract {

constexpr dsv::Device kFakeDevice = {dsv::DeviceKind::kCuda, 0};

struct FakeOptions {
  bool own_sums = false;                  // as a library's, in an order of its own
  std::atomic<bool>* failed = nullptr;    // what throw_if_failed looks at
  std::atomic<int>* num_calls = nullptr;  // of the transport
};

class FakeTransport final : public dsv::comm::DeviceTransport {
 public:
  using Bytes = dsv::comm::Bytes;
  using Offsets = std::span<const std::int64_t>;

  FakeTransport(const dsv::comm::Collectives& group, std::unique_ptr<Communicator> lanes,
                const FakeOptions& options)
      : group_(group), lanes_(std::move(lanes)), options_(options) {
    lanes_->set_checked(true);
  }

  const char* name() const override { return "fake"; }
  dsv::Device device() const override { return kFakeDevice; }
  // Small: cases of ten thousand elements take all paths.
  dsv::comm::TransportLimits limits() const override {
    return {.scratch = 1 << 15, .chunk = 1 << 15, .one_exchange = 512, .share = 16};
  }
  void throw_if_failed() const override {
    if (options_.failed != nullptr && *options_.failed) {
      dsv::throw_error(dsv::ExitCode::kHang, "[fake] the device failed");
    }
  }
  std::unique_ptr<DeviceTransport> split(dsv::comm::Collectives& group) override {
    const auto parents = group.gather_messages(std::to_string(group_.rank()));
    int color = group_.size();
    for (const std::string& p : parents) color = std::min(color, std::atoi(p.c_str()));
    return std::make_unique<FakeTransport>(group, lanes_->split(color, group.rank()), options_);
  }

  void exchange(std::span<const Bytes> send, std::span<const Bytes> receive) override {
    count();
    Counts to, from;
    std::vector<std::uint8_t> in;
    for (const Bytes& b : send) {
      to.push_back(b.size);
      const auto* data = reinterpret_cast<const std::uint8_t*>(b.data);
      if (b.size > 0) in.insert(in.end(), data, data + b.size);
    }
    for (const Bytes& b : receive) from.push_back(b.size);
    std::vector<std::uint8_t> out(static_cast<std::size_t>(sum(from)));
    lanes_->all_to_all_v(Tensor(in.data(), DType::kU8, {sum(to)}), to,
                         Tensor(out.data(), DType::kU8, {sum(from)}), from);
    const std::uint8_t* next = out.data();
    for (const Bytes& b : receive) {
      if (b.size > 0) std::memcpy(b.data, next, static_cast<std::size_t>(b.size));
      next += b.size;
    }
  }
  void gather(const std::byte* own, std::byte* out, Offsets offsets) override {
    count();
    Counts counts;
    for (std::size_t p = 1; p < offsets.size(); ++p) counts.push_back(offsets[p] - offsets[p - 1]);
    const std::int64_t n = counts[static_cast<std::size_t>(group_.rank())];
    lanes_->all_gather_v(Tensor(const_cast<std::byte*>(own), DType::kU8, {n}),
                         Tensor(out, DType::kU8, {offsets.back()}), counts);
  }
  void spread(Bytes data, int root) override {
    count();
    lanes_->broadcast(Tensor(data.data, DType::kU8, {data.size}), root);
  }
  void reduce(const dsv::comm::Reduction& r) override {
    std::vector<const std::byte*> parts;
    for (int p = 0; p < r.num_parts; ++p) {
      parts.push_back(p == r.own_rank ? r.own : r.slots + p * r.stride);
    }
    dsv::comm::reduce_in_order(parts, r.out, r.num_elements, r.dtype, r.op);
  }
  std::byte* scratch(std::int64_t bytes) override {
    CONTRACT_EXPECT(bytes <= limits().scratch, "{} bytes of scratch", bytes);
    scratch_.assign(static_cast<std::size_t>(bytes), std::byte{0xcc});
    return scratch_.data();
  }
  bool try_all_reduce(std::byte* data, std::int64_t n, DType dtype, ReduceOp op) override {
    if (!options_.own_sums) return false;
    count();
    lanes_->all_reduce(Tensor(data, dtype, {n}), op);
    return true;
  }
  bool try_reduce_scatter(const std::byte* in, std::byte* out, Offsets offsets,
                          DType dtype) override {
    if (!options_.own_sums) return false;
    count();
    Counts counts;
    for (std::size_t p = 1; p < offsets.size(); ++p) counts.push_back(offsets[p] - offsets[p - 1]);
    lanes_->reduce_scatter_v(Tensor(const_cast<std::byte*>(in), dtype, {offsets.back()}),
                             Tensor(out, dtype, {counts[static_cast<std::size_t>(group_.rank())]}),
                             counts);
    return true;
  }

 private:
  void count() {
    if (options_.num_calls != nullptr) ++*options_.num_calls;
  }

  const dsv::comm::Collectives& group_;
  std::unique_ptr<Communicator> lanes_;
  FakeOptions options_;
  std::vector<std::byte> scratch_;
};

// As run_ranks, on ranks with a fake device; body also gets memory on it.
inline std::vector<std::string> run_device_ranks(
    int size, const FakeOptions& options,
    const std::function<void(std::unique_ptr<Communicator>, const HostedMemory&)>& body) {
  auto hosts = dsv::comm::make_loopback(size);
  auto lanes = dsv::comm::make_loopback(size);
  return run_ranks(size, [&](Communicator& outer) {
    const auto r = static_cast<std::size_t>(outer.rank());
    std::unique_ptr<Communicator> host = std::move(hosts[r]);
    auto& collectives = dynamic_cast<dsv::comm::Collectives&>(*host);
    collectives.attach(std::make_unique<FakeTransport>(collectives, std::move(lanes[r]), options));
    const HostedMemory memory{
        .allocate =
            [](std::int64_t n) {
              // Eight bytes each, so that they lie as aligned as a device's memory does.
              const auto words =
                  std::make_shared<std::vector<double>>(static_cast<std::size_t>(n / 8 + 1));
              return Tensor(words->data(), DType::kU8, {n}, kFakeDevice, words);
            },
        .copy =
            [](const Tensor& from, const Tensor& to) {
              std::memcpy(to.raw(), from.raw(), static_cast<std::size_t>(from.num_bytes()));
            }};
    body(std::move(host), memory);
  });
}

}  // namespace contract
