#include "../../src/comm/nccl_reduce.h"

#include "../../src/comm/reduce_in_order.h"
#include "contract_support.h"
#include "dsv/tensor/arena.h"
#include "dsv/tensor/cuda_device.h"
#include "dsv/tensor/transfer.h"
#include "support/catch.h"

using dsv::DType;
using dsv::Tensor;
using dsv::comm::ReduceOp;

namespace {

constexpr std::int64_t kGuard = 32;

// Element i of part p: of all magnitudes, with a NaN now and then where sums do not make it
// another.
template <typename T>
T element(int p, std::int64_t i, bool nan) {
  if constexpr (std::is_floating_point_v<T>) {
    if (nan && (i + p) % 7 == 0) return std::numeric_limits<T>::quiet_NaN();
  }
  const double v = contract::value(p, i, 3);
  return static_cast<T>(std::is_unsigned_v<T> ? std::abs(v) * 1e5 : v);
}

struct Layout {
  std::int64_t begin = 0;  // of the slots: on or off a multiple of 16
  std::int64_t gap = 0;    // between slots
  int own_rank = 0;
  bool in_place = true;  // out is the own part
};

// slots | own | out, in one block of bytes.
template <typename T>
void check(dsv::Arena& arena, const dsv::Stream& stream, DType dtype, ReduceOp op, int num_parts,
           std::int64_t n, const Layout& layout) {
  const auto width = static_cast<std::int64_t>(sizeof(T));
  const std::int64_t stride = n * width + layout.gap;
  const std::int64_t own = layout.begin + num_parts * stride + kGuard;
  const std::int64_t out = layout.in_place ? own : own + n * width + kGuard;
  const std::int64_t size = out + n * width + kGuard;
  std::vector<std::byte> bytes(static_cast<std::size_t>(size), std::byte{0xcc});
  const auto put = [&](std::int64_t at, int p) {
    for (std::int64_t i = 0; i < n; ++i) {
      const T x = element<T>(p, i, op != ReduceOp::kSum);
      std::memcpy(bytes.data() + at + i * width, &x, sizeof(T));
    }
  };
  for (int p = 0; p < num_parts; ++p) {
    if (p != layout.own_rank) put(layout.begin + p * stride, p);
  }
  put(own, layout.own_rank);

  const Tensor device = arena.empty({size}, DType::kU8);
  const Tensor host(bytes.data(), DType::kU8, {size});
  dsv::transfer(host, device, stream);
  auto* base = reinterpret_cast<std::byte*>(device.u8());
  const char* error = dsv::comm::enqueue_reduction({.slots = base + layout.begin,
                                                    .stride = stride,
                                                    .own = base + own,
                                                    .own_rank = layout.own_rank,
                                                    .num_parts = num_parts,
                                                    .out = base + out,
                                                    .num_elements = n,
                                                    .dtype = dtype,
                                                    .op = op},
                                                   stream);
  REQUIRE(error == nullptr);

  std::vector<const std::byte*> parts;
  for (int p = 0; p < num_parts; ++p) {
    parts.push_back(bytes.data() + (p == layout.own_rank ? own : layout.begin + p * stride));
  }
  std::vector<std::byte> expected = bytes;
  dsv::comm::reduce_in_order(parts, expected.data() + out, n, dtype, op);
  dsv::transfer(device, host, stream);  // bytes that are not of out must be as they were
  INFO(to_string(dtype) << ", op " << static_cast<int>(op) << ", " << num_parts << " parts of " << n
                        << ", begin " << layout.begin << ", gap " << layout.gap << ", own rank "
                        << layout.own_rank << ", in place " << layout.in_place);
  REQUIRE(std::memcmp(bytes.data(), expected.data(), bytes.size()) == 0);
}

template <typename T>
void check_all(dsv::Arena& arena, const dsv::Stream& stream, DType dtype) {
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax}) {
    for (const int num_parts : {1, 2, 3, 5, 6, 9}) {
      for (const std::int64_t n : {0, 1, 3, 4, 5, 255, 1024, 1027}) {
        for (const int own_rank : {0, num_parts / 2, num_parts - 1}) {
          for (const Layout& layout : {Layout{0, 0, own_rank, true}, Layout{8, 0, own_rank, true},
                                       Layout{0, 8, own_rank, false}}) {
            check<T>(arena, stream, dtype, op, num_parts, n, layout);
          }
        }
      }
    }
    // More than the grid holds at once.
    for (const std::int64_t n : {3'000'000, 3'000'001})
      check<T>(arena, stream, dtype, op, 3, n, {});
  }
}

}  // namespace

TEST_CASE("the GPU adds parts in rank order, bit for bit as the host does", "[comm][gpu]") {
  if (dsv::num_cuda_devices() == 0) {
    WARN("SKIPPED: " << dsv::why_no_cuda());
    return;
  }
  const dsv::OwnedStream stream = dsv::make_cuda_stream(0);
  dsv::Arena arena(dsv::make_cuda_allocator(0));
  check_all<float>(arena, stream.stream, DType::kF32);
  check_all<double>(arena, stream.stream, DType::kF64);
  check_all<std::int32_t>(arena, stream.stream, DType::kI32);
  check_all<std::int64_t>(arena, stream.stream, DType::kI64);
  check_all<std::uint32_t>(arena, stream.stream, DType::kU32);
}
