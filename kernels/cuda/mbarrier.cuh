// Barriers in shared memory (mbarrier) between the warps of a block that copy and those that
// compute, barriers of some of a block's threads, and how registers move between them.
#pragma once

#include <cstdint>

#include "cuda/mma.cuh"

namespace dsv::kernels::cuda {

// threadIdx.x, read afresh: what follows from it is computed where it is used, and not kept in
// registers across a loop that has none to spare.
__device__ inline int fresh_thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(thread));
  return thread;
}

// The same value, of which the compiler does not know that it is: as fresh_thread.
__device__ inline int fresh(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// `at` is a shared address (shared_address) of 8 bytes. A phase ends with its `count`-th arrival,
// and the next begins. Phases count from 0; waiting is for the end of a phase of given parity.
__device__ inline void barrier_init(std::uint32_t at, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(at), "r"(count) : "memory");
}
// After the inits, before the block's barrier: other threads and the copy engine see them.
__device__ inline void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
__device__ inline void barrier_arrive(std::uint32_t at) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(at) : "memory");
}
// Arrives, and lets the phase wait for so many more bytes from copies that name the barrier.
__device__ inline void barrier_arrive_expect(std::uint32_t at, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(at), "r"(bytes)
               : "memory");
}
// Arrives once this thread's copies by cp.async so far have all landed. Who waits for them calls
// fence_async_proxy before wgmma reads them.
__device__ inline void barrier_arrive_when_copied(std::uint32_t at) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(at) : "memory");
}
__device__ inline void barrier_wait(std::uint32_t at, int parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "wait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\n"
      "bra wait;\n"
      "done:\n}\n" ::"r"(at),
      "r"(parity)
      : "memory");
}

// Barriers of some of a block's threads, whole warps; __syncthreads is number 0.
__device__ inline void named_sync(int number, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(number), "r"(threads) : "memory");
}

// What ordinary stores and cp.async have written to shared memory, by this thread or by others that
// it has waited for, is seen by wgmma and bulk copies from here on: its own, and those of threads
// that it then synchronises with.
__device__ inline void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// All warps of a warpgroup: registers per thread from here on.
template <int kRegisters>
__device__ inline void give_up_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

// Copies of whole runs of bytes between global and shared memory by the copy engine; addresses and
// sizes are multiples of 16 bytes. Into shared memory: arrives with the bytes at a barrier. Out of
// it: in groups that the issuing thread waits for, until the source may be overwritten.
// Both are for streams that are used once: they make room in L2 before anything else does.
__device__ inline std::uint64_t used_once() {
  std::uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
  return policy;
}
__device__ inline void bulk_load(std::uint32_t to, const void* from, int bytes,
                                 std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;\n" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(used_once())
      : "memory");
}
__device__ inline void bulk_store(void* to, std::uint32_t from, int bytes) {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;\n" ::"l"(to),
      "r"(from), "r"(bytes), "l"(used_once())
      : "memory");
}
__device__ inline void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}
template <int kPending>
__device__ inline void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(kPending) : "memory");
}
template <int kPending>
__device__ inline void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;\n" ::"n"(kPending) : "memory");
}

}  // namespace dsv::kernels::cuda
