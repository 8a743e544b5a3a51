// Kernel calls for tensors on the host although the kernel runs on a GPU: takes the arguments' whole
// heap blocks there (gaps, canaries, NaNs and all), runs, and brings them back. Two tensors of one
// block stay two views of one block, so aliasing carries over.
#pragma once

#include <malloc.h>

#include <cstring>
#include <map>
#include <tuple>
#include <type_traits>

#include "dsv/kernels/kernel_table.h"
#include "dsv/kernels/session.h"
#include "dsv/tensor/arena.h"
#include "dsv/tensor/cuda_device.h"
#include "dsv/tensor/transfer.h"

namespace dsv::test {

namespace detail {

// --- The members of an argument struct, which is an aggregate ------------------------------------

struct AnyMember {
  template <typename T>
  operator T() const;  // never called: it only has to convert
};
template <typename T, typename... Members>
constexpr bool takes(T*, Members...) {
  return requires {
    T{Members{}...};
  };
}
template <typename T, typename... Members>
constexpr int num_members() {
  if constexpr (takes(static_cast<T*>(nullptr), Members{}..., AnyMember{})) {
    return num_members<T, Members..., AnyMember>();
  } else {
    return static_cast<int>(sizeof...(Members));
  }
}

template <typename T>
auto members(T& x) {
  constexpr int n = num_members<T>();
  static_assert(n >= 1 && n <= 20, "add a line below");
#define DSV_MEMBERS(count, ...)   \
  if constexpr (n == count) {     \
    auto& [__VA_ARGS__] = x;      \
    return std::tie(__VA_ARGS__); \
  } else
  // clang-format off
  DSV_MEMBERS(1, a) DSV_MEMBERS(2, a, b) DSV_MEMBERS(3, a, b, c) DSV_MEMBERS(4, a, b, c, d)
  DSV_MEMBERS(5, a, b, c, d, e) DSV_MEMBERS(6, a, b, c, d, e, f) DSV_MEMBERS(7, a, b, c, d, e, f, g)
  DSV_MEMBERS(8, a, b, c, d, e, f, g, h) DSV_MEMBERS(9, a, b, c, d, e, f, g, h, i)
  DSV_MEMBERS(10, a, b, c, d, e, f, g, h, i, j) DSV_MEMBERS(11, a, b, c, d, e, f, g, h, i, j, k)
  DSV_MEMBERS(12, a, b, c, d, e, f, g, h, i, j, k, l)
  DSV_MEMBERS(13, a, b, c, d, e, f, g, h, i, j, k, l, m)
  DSV_MEMBERS(14, a, b, c, d, e, f, g, h, i, j, k, l, m, o)
  DSV_MEMBERS(15, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p)
  DSV_MEMBERS(16, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q)
  DSV_MEMBERS(17, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r)
  DSV_MEMBERS(18, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s)
  DSV_MEMBERS(19, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s, t)
  DSV_MEMBERS(20, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, s, t, u) {}
  // clang-format on
#undef DSV_MEMBERS
}

template <typename Args, typename Fn>
void for_each_tensor(Args& args, const Fn& fn) {
  std::apply(
      [&](auto&... member) {
        const auto visit = [&](auto& m) {
          if constexpr (std::is_same_v<std::remove_cvref_t<decltype(m)>, Tensor>) fn(m);
        };
        (visit(member), ...);
      },
      members(args));
}

}  // namespace detail

// --- The device side
// ------------------------------------------------------------------------------

// Where hosted calls run: a stream, its session, and memory. One for the whole test program.
struct HostedDevice {
  OwnedStream stream;
  Arena arena;
  std::shared_ptr<void> session;

  explicit HostedDevice(int index)
      : stream(make_cuda_stream(index)), arena(make_cuda_allocator(index)) {
    session = kernels::make_session(stream.stream, {});
    stream.stream.session = session.get();
  }
  static HostedDevice& get() {
    static HostedDevice device(0);
    return device;
  }
};

// Runs call(args on the device) for arguments on the host. upload(block, bytes) gives the device's
// copy of a block, download brings it back.
template <typename Args, typename Call>
void run_hosted(const Args& host_args, Arena& arena, const Stream& stream, const Call& call) {
  struct Block {
    Tensor host, device;
  };
  std::map<const void*, Block> blocks;
  Args args = host_args;
  detail::for_each_tensor(args, [&](Tensor& t) {
    if (t.raw() == nullptr) return;
    void* base = t.owner() ? t.owner().get() : t.raw();
    Block& block = blocks[base];
    if (!block.host.defined()) {
      const auto bytes = static_cast<std::int64_t>(
          t.owner() ? malloc_usable_size(base) : static_cast<std::size_t>(t.num_bytes()));
      block.host = Tensor(base, DType::kU8, {bytes});
      block.device = arena.empty({bytes}, DType::kU8);
      transfer(block.host, block.device, stream);
    }
    const auto offset = static_cast<char*>(t.raw()) - static_cast<char*>(base);
    t = t.moved_to(static_cast<char*>(block.device.raw()) + offset, block.device.device(),
                   block.device.owner());
  });
  call(args, stream);
  for (const auto& [base, block] : blocks) transfer(block.device, block.host, stream);
  synchronize(stream);
}

}  // namespace dsv::test
