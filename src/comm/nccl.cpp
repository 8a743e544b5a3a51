// Tensors of a CUDA device between ranks: NCCL carries them, our own kernel adds them up.
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "collectives.h"
#include "dsv/base/log.h"
#include "nccl_connection.h"
#include "nccl_reduce.h"

namespace dsv::comm {
namespace {

// NVLink moves that in the time of the launch that one exchange of whole inputs saves.
constexpr std::int64_t kOneExchangeBytes = std::int64_t{1} << 20;
constexpr std::int64_t kAccessBytes = 16;  // what a thread moves at once, if it is aligned

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kF64:
      return ncclFloat64;
    case DType::kI32:
      return ncclInt32;
    case DType::kI64:
      return ncclInt64;
    case DType::kU32:
      return ncclUint32;
    default:
      DSV_CHECK(false, "[comm] no reduction for dtype {}", dtype);
  }
}

bool are_even(std::span<const std::int64_t> offsets) {
  for (std::size_t p = 1; p < offsets.size(); ++p) {
    if (offsets[p] - offsets[p - 1] != offsets[1] - offsets[0]) return false;
  }
  return true;
}

class NcclTransport final : public DeviceTransport {
 public:
  NcclTransport(const Collectives& group, std::shared_ptr<NcclShared> shared,
                std::shared_ptr<NcclConnection> connection)
      : group_(group), shared_(std::move(shared)), connection_(std::move(connection)) {}

  // Collective over `group`.
  static std::unique_ptr<NcclTransport> connect(Collectives& group,
                                                std::shared_ptr<NcclShared> shared) {
    if (group.size() == 1)
      return std::make_unique<NcclTransport>(group, std::move(shared), nullptr);
    const auto start = std::chrono::steady_clock::now();
    auto connection = std::make_shared<NcclConnection>(group, shared);
    auto transport = std::make_unique<NcclTransport>(group, std::move(shared), connection);
    transport->warm_up();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    log_debug("[comm] group {}: {} ranks connected through NCCL in {:.2f} s", group.name(),
              group.size(), took.count());
    return transport;
  }

  const char* name() const override { return "nccl"; }
  Device device() const override { return shared_->stream.device; }
  TransportLimits limits() const override {
    return {.scratch = NcclShared::kScratchBytes,
            .chunk = NcclShared::kScratchBytes,
            .one_exchange = kOneExchangeBytes,
            .share = kAccessBytes};
  }
  void throw_if_failed() const override { shared_->watch.throw_if_failed(); }

  std::unique_ptr<DeviceTransport> split(Collectives& group) override {
    // The same ranks in the same order need no connections of their own, which cost memory and a
    // second.
    bool same = group.size() == group_.size();
    const std::vector<std::string> before = group.gather_messages(std::to_string(group_.rank()));
    for (std::size_t p = 0; p < before.size(); ++p) same = same && before[p] == std::to_string(p);
    if (same) return std::make_unique<NcclTransport>(group, shared_, connection_);
    return connect(group, shared_);
  }

  // Sends and receives of one group run at the same time, the copy of the own share among them.
  void exchange(std::span<const Bytes> send, std::span<const Bytes> receive) override {
    const auto me = static_cast<std::size_t>(group_.rank());
    if (group_.size() == 1) return copy(send[me].data, receive[me].data, send[me].size);
    enqueue([&](Results& results) {
      for (std::size_t p = 0; p < send.size(); ++p) {
        const int peer = static_cast<int>(p);
        if (send[p].size > 0) {
          results += ncclSend(send[p].data, size(send[p].size), ncclInt8, peer, comm(), stream());
        }
        if (receive[p].size > 0) {
          results +=
              ncclRecv(receive[p].data, size(receive[p].size), ncclInt8, peer, comm(), stream());
        }
      }
    });
  }

  void gather(const std::byte* own, std::byte* out,
              std::span<const std::int64_t> offsets) override {
    const auto num_parts = offsets.size() - 1;
    if (offsets[num_parts] == 0) return;
    if (num_parts == 1) return copy(own, out, offsets[1]);
    enqueue([&](Results& results) {
      if (are_even(offsets)) {
        results += ncclAllGather(own, out, size(offsets[1]), ncclInt8, comm(), stream());
        return;
      }
      for (std::size_t p = 0; p < num_parts; ++p) {
        const std::int64_t n = offsets[p + 1] - offsets[p];
        if (n == 0) continue;
        const int root = static_cast<int>(p);
        std::byte* const part = out + offsets[p];
        results += ncclBroadcast(root == group_.rank() ? own : part, part, size(n), ncclInt8, root,
                                 comm(), stream());
      }
    });
  }

  void spread(Bytes data, int root) override {
    if (data.size == 0 || group_.size() == 1) return;
    enqueue([&](Results& results) {
      results +=
          ncclBroadcast(data.data, data.data, size(data.size), ncclInt8, root, comm(), stream());
    });
  }

  void reduce(const Reduction& reduction) override {
    const char* error = enqueue_reduction(reduction, shared_->stream);
    if (error != nullptr) {
      throw_error(ExitCode::kEnvironment, "[comm] the kernel of {}: {}",
                  to_string(group_.last_op()), error);
    }
  }

  std::byte* scratch(std::int64_t bytes) override {
    DSV_CHECK(bytes <= NcclShared::kScratchBytes,
              "[comm] {} bytes of temporary memory, there are {}", bytes,
              NcclShared::kScratchBytes);
    return static_cast<std::byte*>(shared_->scratch);
  }

  // Only sums: NCCL does not say what its minimum makes of a NaN.
  bool try_all_reduce(std::byte* data, std::int64_t num_elements, DType dtype,
                      ReduceOp op) override {
    if (shared_->options.deterministic || op != ReduceOp::kSum || group_.size() == 1) return false;
    if (num_elements == 0) return true;
    enqueue([&](Results& results) {
      results += ncclAllReduce(data, data, size(num_elements), nccl_type(dtype), ncclSum, comm(),
                               stream());
    });
    return true;
  }

  // NCCL has none with uneven parts.
  bool try_reduce_scatter(const std::byte* in, std::byte* out,
                          std::span<const std::int64_t> offsets, DType dtype) override {
    if (shared_->options.deterministic || group_.size() == 1 || !are_even(offsets)) return false;
    if (offsets[1] == 0) return true;
    enqueue([&](Results& results) {
      results +=
          ncclReduceScatter(in, out, size(offsets[1]), nccl_type(dtype), ncclSum, comm(), stream());
    });
    return true;
  }

 private:
  // The first error of the calls of a group.
  struct Results {
    ncclResult_t first = ncclSuccess;
    void operator+=(ncclResult_t result) {
      if (first == ncclSuccess) first = result;
    }
  };

  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
  cudaStream_t stream() const { return shared_->native; }
  ncclComm_t comm() const { return connection_->comm(); }

  void copy(const std::byte* from, std::byte* to, std::int64_t n) {
    if (n == 0 || from == to) return;
    DSV_COMM_CUDA(cudaMemcpyAsync(to, from, size(n), cudaMemcpyDeviceToDevice, stream()));
  }

  template <typename Calls>
  void enqueue(const Calls& calls) {
    Results results;
    {
      const auto call = shared_->watch.enter();
      results += ncclGroupStart();
      calls(results);
      results += ncclGroupEnd();
    }
    if (results.first != ncclSuccess) fail(results.first);
  }

  // Peers that did enqueue the call wait in it; this rank's error ends the job through main().
  [[noreturn]] void fail(ncclResult_t result) {
    const std::string what = format("{}: {}", to_string(group_.last_op()), nccl_error_text(result));
    shared_->watch.abort(what);
    throw_error(result == ncclRemoteError ? ExitCode::kHang : ExitCode::kEnvironment,
                "[comm] NCCL failed on rank {} of {}: {}", group_.rank(), group_.size(), what);
  }

  // NCCL connects ranks when a collective first needs it, by algorithm and size: here rather than
  // in the middle of a step. What the memory holds does not matter.
  void warm_up() {
    const std::int64_t n = group_.size();
    const std::int64_t most = NcclShared::kScratchBytes / (2 * n) / kAccessBytes * kAccessBytes;
    std::byte* const from = scratch(NcclShared::kScratchBytes);
    std::byte* const to = from + NcclShared::kScratchBytes / 2;
    for (const std::int64_t bytes : {kAccessBytes, most}) {
      std::vector<Bytes> send, receive;
      std::vector<std::int64_t> ends = {0}, uneven = {0};
      for (std::int64_t p = 0; p < n; ++p) {
        send.push_back({from + p * bytes, bytes});
        receive.push_back({to + p * bytes, bytes});
        ends.push_back((p + 1) * bytes);
        uneven.push_back(ends.back() - (p + 1 < n ? 0 : 1));
      }
      exchange(send, receive);
      gather(from, to, ends);
      gather(from, to, uneven);
      spread({to, bytes}, 0);
      try_all_reduce(to, n * bytes / size_of(DType::kF32), DType::kF32, ReduceOp::kSum);
      for (std::int64_t& end : ends) end /= size_of(DType::kF32);
      try_reduce_scatter(from, to, ends, DType::kF32);
    }
    DSV_COMM_CUDA(cudaStreamSynchronize(stream()));
    throw_if_failed();
  }

  const Collectives& group_;
  std::shared_ptr<NcclShared> shared_;
  std::shared_ptr<NcclConnection> connection_;  // null for one rank
};

// NCCL hangs or fails in obscure ways when ranks share a GPU. Every rank sees all places, so all
// throw or none.
void require_own_gpus(Collectives& world, const Device& device) {
  cudaDeviceProp properties{};
  DSV_COMM_CUDA(cudaGetDeviceProperties(&properties, device.index));
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  // Containers may give one GPU several host names and indices: its id stays.
  const std::string id(properties.uuid.bytes, sizeof(properties.uuid.bytes));
  const std::vector<std::string> places =
      world.gather_messages(id + format("{} of host {}", device, host));
  for (std::size_t p = 0; p < places.size(); ++p) {
    for (std::size_t q = 0; q < p; ++q) {
      if (places[p].substr(0, id.size()) != places[q].substr(0, id.size())) continue;
      throw_error(ExitCode::kConfig,
                  "[comm] ranks {} and {} use the same GPU, {}: NCCL takes one GPU per rank; start "
                  "as many ranks on a host as it has GPUs",
                  q, p, places[q].substr(id.size()));
    }
  }
}

}  // namespace

std::unique_ptr<Communicator> make_nccl(std::unique_ptr<Communicator> host, const Stream& stream,
                                        const NcclOptions& options) {
  auto* const world = dynamic_cast<Collectives*>(host.get());
  DSV_CHECK(world != nullptr, "[comm] make_nccl expects a communicator of this library");
  DSV_CHECK(stream.device.kind == DeviceKind::kCuda,
            "[comm] make_nccl expects a stream of a CUDA device, got one of {}", stream.device);
  DSV_COMM_CUDA(cudaSetDevice(stream.device.index));
  require_own_gpus(*world, stream.device);
  auto shared = std::make_shared<NcclShared>(stream, options, *world);
  world->attach(NcclTransport::connect(*world, std::move(shared)));
  return host;
}

}  // namespace dsv::comm
