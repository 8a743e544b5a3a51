// What the NCCL programs share: one GPU per rank, and copies between it and the host.
#pragma once

#include <cstdio>
#include <vector>

#include "comm/contract_support.h"
#include "dsv/tensor/arena.h"
#include "dsv/tensor/cuda_device.h"
#include "dsv/tensor/transfer.h"

namespace contract {

// Collective. False, and a line that says so, unless each host has a GPU for each of its ranks.
inline bool have_gpus(Communicator& world, int per_host) {
  const std::int64_t num_gpus = dsv::num_cuda_devices();
  if (world.all_reduce(std::int64_t{num_gpus >= per_host}, ReduceOp::kMin) != 0) return true;
  if (world.rank() == 0) {
    const std::string why = dsv::why_no_cuda();
    std::printf("SKIPPED: %d ranks on this host need a GPU each, there are %d%s%s\n", per_host,
                static_cast<int>(num_gpus), why.empty() ? "" : "; ", why.c_str());
  }
  return false;
}

// A rank's GPU: its stream, and memory from an arena.
class Gpu {
 public:
  explicit Gpu(int index)
      : stream_(dsv::make_cuda_stream(index)), arena_(dsv::make_cuda_allocator(index)) {}

  const dsv::Stream& stream() const { return stream_.stream; }
  Tensor empty(const Shape& shape, DType dtype = DType::kF32) { return arena_.empty(shape, dtype); }
  // Both end when the bytes are there.
  void copy(const Tensor& from, const Tensor& to) { dsv::transfer(from, to, stream()); }
  template <typename T>
  Tensor upload(std::vector<T> values, DType dtype) {
    const auto n = static_cast<std::int64_t>(values.size());
    const Tensor out = empty({n}, dtype);
    copy(Tensor(values.data(), dtype, {n}), out);
    return out;
  }
  template <typename T>
  std::vector<T> download(const Tensor& t) {
    std::vector<T> values(static_cast<std::size_t>(t.num_elements()));
    copy(t, Tensor(values.data(), t.dtype(), {t.num_elements()}));
    return values;
  }
  void wait() { dsv::synchronize(stream()); }

 private:
  dsv::OwnedStream stream_;
  dsv::Arena arena_;
};

}  // namespace contract
