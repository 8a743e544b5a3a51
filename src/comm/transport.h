// How bytes move between the ranks of one group and are added up there, for the memory of one
// device. Collectives checks, announces, and counts a call; transports do the work.
#pragma once

#include <cstddef>
#include <span>

#include "dsv/comm/communicator.h"

namespace dsv::comm {

struct Bytes {
  std::byte* data = nullptr;
  std::int64_t size = 0;
};

// out[i] = op over p of element i of part p, p ascending, in the arithmetic of dtype. Part p lies
// p strides behind `slots`; that of own_rank lies at `own` instead, which may be `out`.
struct Reduction {
  const std::byte* slots = nullptr;
  std::int64_t stride = 0;  // bytes
  const std::byte* own = nullptr;
  int own_rank = 0;
  int num_parts = 1;
  std::byte* out = nullptr;
  std::int64_t num_elements = 0;
  DType dtype = DType::kF32;
  ReduceOp op = ReduceOp::kSum;
};

// What suits a transport, in bytes.
struct TransportLimits {
  std::int64_t scratch = 0;  // at most that much is asked of scratch()
  std::int64_t chunk = 0;    // received from one peer before it is added
  // An all_reduce of up to so many received bytes gathers whole inputs: one exchange, not two.
  std::int64_t one_exchange = 0;
  std::int64_t share = 1;  // the shares of an all_reduce begin at multiples of it
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual Device device() const = 0;
  virtual TransportLimits limits() const = 0;

  // Spans have one entry per rank. The own share is copied, unless it is empty.
  virtual void exchange(std::span<const Bytes> send, std::span<const Bytes> receive) = 0;
  // Rank p's part goes to [offsets[p], offsets[p + 1]) of out on all ranks; the own part comes from
  // `own`, which may be its place in out.
  virtual void gather(const std::byte* own, std::byte* out,
                      std::span<const std::int64_t> offsets) = 0;
  virtual void spread(Bytes data, int root) = 0;
  virtual void reduce(const Reduction& reduction) = 0;
  // Valid until the next call of it.
  virtual std::byte* scratch(std::int64_t bytes) = 0;

  // The library's own reductions, whose order of additions is unknown: false where they are not
  // wanted or not there. Offsets in elements.
  virtual bool try_all_reduce(std::byte*, std::int64_t, DType, ReduceOp) { return false; }
  virtual bool try_reduce_scatter(const std::byte*, std::byte*, std::span<const std::int64_t>,
                                  DType) {
    return false;
  }
};

class Collectives;

// For tensors on a device: calls return when the work is enqueued on a stream.
class DeviceTransport : public Transport {
 public:
  virtual const char* name() const = 0;
  // Collective over `group`, which a split has just made of this transport's group.
  virtual std::unique_ptr<DeviceTransport> split(Collectives& group) = 0;
  // Throws Error(kHang) when work that was enqueued before has failed.
  virtual void throw_if_failed() const = 0;
};

}  // namespace dsv::comm
