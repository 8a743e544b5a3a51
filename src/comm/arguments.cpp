#include "arguments.h"

#include <cstddef>
#include <functional>

#include "reduce_in_order.h"

namespace dsv::comm {
namespace {

const std::byte* begin_of(const Tensor& t) {
  return static_cast<const std::byte*>(t.raw());
}

}  // namespace

void check_tensor(const char* op, const Tensor& t, Device device) {
  DSV_CHECK(t.defined(), "[comm] {} expects a defined tensor", op);
  DSV_CHECK(t.is_contiguous(), "[comm] {} expects a contiguous tensor, got shape {}", op,
            t.shape());
  DSV_CHECK(t.device() == device, "[comm] {} expects a tensor on {} here, got one on {}", op,
            device, t.device());
}

void check_reducible(const char* op, const Tensor& t) {
  DSV_CHECK(is_reducible(t.dtype()), "[comm] {} expects F32, F64, I32, I64 or U32, got {}", op,
            t.dtype());
}

std::int64_t row_bytes(const Tensor& t) {
  std::int64_t n = size_of(t.dtype());
  for (int i = 1; i < t.num_dims(); ++i) n = checked_mul(n, t.dim(i));
  return n;
}

void check_rows(const char* op, const Tensor& in, const Tensor& out, Device device) {
  check_tensor(op, in, device);
  check_tensor(op, out, device);
  DSV_CHECK(in.num_dims() >= 1 && out.num_dims() >= 1, "[comm] {} expects tensors with rows", op);
  DSV_CHECK(in.dtype() == out.dtype(), "[comm] {} from {} into {}", op, in.dtype(), out.dtype());
  DSV_CHECK(row_bytes(in) == row_bytes(out),
            "[comm] {} from rows of {} bytes into rows of {} bytes", op, row_bytes(in),
            row_bytes(out));
}

void check_counts(const char* op, std::span<const std::int64_t> counts, int size) {
  DSV_CHECK(static_cast<int>(counts.size()) == size, "[comm] {} expects {} counts, got {}", op,
            size, counts.size());
  for (const std::int64_t c : counts) {
    DSV_CHECK(c >= 0, "[comm] {} expects counts ≥ 0, got {}", op, c);
  }
}

void check_num_rows(const char* op, const char* which, const Tensor& t, std::int64_t expected) {
  DSV_CHECK(t.dim(0) == expected, "[comm] {} expects {} rows of {}, got {}", op, expected, which,
            t.dim(0));
}

void check_disjoint(const char* op, const Tensor& in, const Tensor& out) {
  const std::less<const std::byte*> before;
  const bool overlap = in.num_bytes() > 0 && out.num_bytes() > 0 &&
                       before(begin_of(in), begin_of(out) + out.num_bytes()) &&
                       before(begin_of(out), begin_of(in) + in.num_bytes());
  DSV_CHECK(!overlap, "[comm] {} expects input and output apart, they overlap", op);
}

}  // namespace dsv::comm
