// Arena: the one place that gives a rank its memory. Blocks freed by tensors are kept and reused,
// so a steady training step allocates nothing. Single-threaded: one arena per rank, used by its
// main thread; reuse follows the order of the compute stream, so a freed block may be handed out
// again at once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dsv/tensor/tensor.h"

namespace dsv {

// Bytes of one device. The CPU one gives 64-byte aligned host memory.
class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual void* allocate(std::int64_t bytes) = 0;  // throws Error(kEnvironment) when out of memory
  virtual void deallocate(void* data, std::int64_t bytes) noexcept = 0;
  virtual Device device() const = 0;
  // Bytes that could still be allocated; 0 where nobody can say.
  virtual std::int64_t free_bytes() const { return 0; }
  // Bytes of 0xff, a NaN in every float dtype.
  virtual void poison(void* data, std::int64_t bytes) = 0;
};
std::unique_ptr<Allocator> make_cpu_allocator();

struct ArenaStats {
  std::int64_t in_use_bytes = 0;            // handed out now
  std::int64_t peak_bytes = 0;              // largest in_use_bytes since reset_peak
  std::int64_t reserved_bytes = 0;          // held from the device
  std::int64_t num_device_allocations = 0;  // since construction: constant in a steady step
};

class Arena {
 public:
  explicit Arena(std::unique_ptr<Allocator> allocator = make_cpu_allocator());
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Uninitialised tensor; its bytes return to the arena when the last view dies. Tensors may
  // outlive the Arena object: the pool lives until the last of them is gone.
  Tensor empty(const Shape& shape, DType dtype = DType::kF32);
  Tensor like(const Tensor& other) { return empty(other.shape(), other.dtype()); }
  // Bytes that were never handed out at the same time as the others: free on the device, or held
  // beyond the peak. 0 where the device cannot say.
  std::int64_t headroom() const;
  // Gives cached, unused blocks back to the device.
  void trim();

  Device device() const;
  ArenaStats stats() const;
  void reset_peak();
  // Fills every handed-out block with NaNs first: finds reads of stale memory.
  void set_poison(bool poison);

 private:
  struct Pool;
  std::shared_ptr<Pool> pool_;
};

}  // namespace dsv
