// Workspace of one kernel call: it grows to the largest call and stays, so that a steady step
// allocates nothing. One per calling thread; a call that asks again gets the same bytes.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace dsv::kernels::cpu {

inline void* scratch_bytes(std::size_t bytes) {
  thread_local std::unique_ptr<void, decltype(&std::free)> block{nullptr, &std::free};
  thread_local std::size_t capacity = 0;
  if (bytes > capacity) {
    // Big blocks in huge pages, where the system gives some for the asking: rows that are gathered
    // from all over a block would each miss the table of small pages.
    constexpr std::size_t kHugePage = std::size_t{2} << 20;
    const std::size_t unit = bytes >= kHugePage ? kHugePage : 64;
    const std::size_t rounded = (bytes + unit - 1) / unit * unit;
    capacity = 0;
    block.reset(std::aligned_alloc(unit, rounded));
    if (block == nullptr) throw std::bad_alloc();
    if (unit == kHugePage) madvise(block.get(), rounded, MADV_HUGEPAGE);
    capacity = rounded;
  }
  return block.get();
}

// Uninitialised room for numbers, 64-byte aligned.
template <typename T>
T* scratch(std::int64_t num_elements) {
  return static_cast<T*>(scratch_bytes(static_cast<std::size_t>(num_elements) * sizeof(T)));
}

}  // namespace dsv::kernels::cpu
