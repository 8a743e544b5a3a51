#include "dsv/tensor/arena.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace dsv {
namespace {

constexpr std::int64_t kAlignment = 64;

class CpuAllocator : public Allocator {
 public:
  void* allocate(std::int64_t bytes) override {
    void* data =
        std::aligned_alloc(kAlignment, static_cast<std::size_t>(round_up(bytes, kAlignment)));
    if (data == nullptr) {
      throw_error(
          ExitCode::kEnvironment,
          "[arena] out of host memory: {} MiB more were asked for; smaller micro-batches or "
          "model.checkpointing: block need less",
          bytes >> 20);
    }
    return data;
  }
  void deallocate(void* data, std::int64_t) noexcept override { std::free(data); }
  void poison(void* data, std::int64_t bytes) override {
    std::memset(data, 0xff, static_cast<std::size_t>(bytes));
  }
  Device device() const override { return {}; }
};

}  // namespace

std::unique_ptr<Allocator> make_cpu_allocator() {
  return std::make_unique<CpuAllocator>();
}

// Cached blocks by size. A request takes the smallest block that wastes at most an eighth of it;
// sizes repeat from step to step, so after one step every request hits.
struct Arena::Pool {
  std::unique_ptr<Allocator> allocator;
  std::multimap<std::int64_t, void*> cached;
  ArenaStats stats;
  bool poison = false;
  // Tensors may be released by a loader thread: the lists are guarded, the contract stays one user.
  std::mutex mutex;

  ~Pool() { trim(); }

  void trim() {
    for (const auto& [bytes, data] : cached) {
      allocator->deallocate(data, bytes);
      stats.reserved_bytes -= bytes;
    }
    cached.clear();
  }

  // Blocks of sizes that are not asked for any more (another bucket's) make room when there is
  // none.
  void* allocate(std::int64_t bytes) {
    try {
      return allocator->allocate(bytes);
    } catch (const Error&) {
      if (cached.empty()) throw;
      trim();
      return allocator->allocate(bytes);
    }
  }

  void* take(std::int64_t bytes, std::int64_t* block_bytes) {
    const std::lock_guard lock(mutex);
    void* data = nullptr;
    auto it = cached.lower_bound(bytes);
    if (it != cached.end() && it->first <= bytes + bytes / 8 + 4096) {
      *block_bytes = it->first;
      data = it->second;
      cached.erase(it);
    } else {
      *block_bytes = bytes;
      data = allocate(bytes);
      stats.reserved_bytes += bytes;
      stats.num_device_allocations += 1;
    }
    stats.in_use_bytes += *block_bytes;
    stats.peak_bytes = std::max(stats.peak_bytes, stats.in_use_bytes);
    if (poison) allocator->poison(data, *block_bytes);
    return data;
  }

  void give(void* data, std::int64_t block_bytes) {
    const std::lock_guard lock(mutex);
    stats.in_use_bytes -= block_bytes;
    cached.emplace(block_bytes, data);
  }
};

Arena::Arena(std::unique_ptr<Allocator> allocator) : pool_(std::make_shared<Pool>()) {
  pool_->allocator = std::move(allocator);
}
Arena::~Arena() = default;

Tensor Arena::empty(const Shape& shape, DType dtype) {
  const std::int64_t bytes = checked_mul(shape.num_elements(), size_of(dtype));
  if (bytes == 0) return Tensor(nullptr, dtype, shape, device());
  std::int64_t block_bytes = 0;
  void* data = pool_->take(round_up(bytes, kAlignment), &block_bytes);
  std::shared_ptr<void> owner(
      data, [pool = pool_, block_bytes](void* block) { pool->give(block, block_bytes); });
  return Tensor(data, dtype, shape, device(), std::move(owner));
}

void Arena::trim() {
  const std::lock_guard lock(pool_->mutex);
  pool_->trim();
}
Device Arena::device() const {
  return pool_->allocator->device();
}
ArenaStats Arena::stats() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->stats;
}
std::int64_t Arena::headroom() const {
  const std::lock_guard lock(pool_->mutex);
  const std::int64_t free = pool_->allocator->free_bytes();
  return free > 0 ? free + pool_->stats.reserved_bytes - pool_->stats.peak_bytes : 0;
}
void Arena::reset_peak() {
  const std::lock_guard lock(pool_->mutex);
  pool_->stats.peak_bytes = pool_->stats.in_use_bytes;
}
void Arena::set_poison(bool poison) {
  pool_->poison = poison;
}

}  // namespace dsv
