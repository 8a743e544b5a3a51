// What every kernel test is written with: random inputs, guarded outputs, errors against the f64
// reference, finite differences.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "dsv/base/philox.h"
#include "dsv/kernels/kernel_table.h"
#include "dsv/tensor/tensor.h"

namespace dsv::test {

inline Stream cpu_stream(int num_threads = 1) { return {.num_threads = num_threads}; }

// --- Elements of any floating dtype, in any strides ---------------------------------------------

// fn(byte offset from raw(), row, column) for each element, in row-major order; a row is a run of
// the last dim.
template <typename Fn>
void for_each_element(const Tensor& t, const Fn& fn) {
  const std::int64_t columns = t.num_dims() == 0 ? 1 : t.dim(-1);
  for (std::int64_t e = 0; e < t.num_elements(); ++e) {
    std::int64_t rest = e, offset = 0;
    for (int d = t.num_dims() - 1; d >= 0; --d) {
      offset += rest % t.dim(d) * t.stride(d);
      rest /= t.dim(d);
    }
    fn(offset * size_of(t.dtype()), e / columns, e % columns);
  }
}

inline double read_element(const Tensor& t, std::int64_t offset_bytes) {
  const char* at = static_cast<const char*>(t.raw()) + offset_bytes;
  const auto get = [at](auto value) {
    std::memcpy(&value, at, sizeof value);
    return value;
  };
  switch (t.dtype()) {
    case DType::kF32: return static_cast<double>(get(float{}));
    case DType::kF64: return get(double{});
    case DType::kBF16: return static_cast<double>(f32_from_bf16(get(std::uint16_t{})));
    case DType::kF16: return static_cast<double>(f32_from_f16(get(std::uint16_t{})));
    default: break;
  }
  throw_error(ExitCode::kInternal, "[harness] dtype {} is not a float", t.dtype());
}

inline void write_element(const Tensor& t, std::int64_t offset_bytes, double value) {
  char* at = static_cast<char*>(t.raw()) + offset_bytes;
  const auto put = [at](auto bits) { std::memcpy(at, &bits, sizeof bits); };
  switch (t.dtype()) {
    case DType::kF32: put(static_cast<float>(value)); return;
    case DType::kF64: put(value); return;
    case DType::kBF16: put(bf16_from_f32(static_cast<float>(value))); return;
    case DType::kF16: put(f16_from_f32(static_cast<float>(value))); return;
    default: break;
  }
  throw_error(ExitCode::kInternal, "[harness] dtype {} is not a float", t.dtype());
}

// All elements in row-major order.
inline std::vector<double> values(const Tensor& t) {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(t.num_elements()));
  for_each_element(t, [&](std::int64_t at, auto, auto) { out.push_back(read_element(t, at)); });
  return out;
}

// --- Making tensors -----------------------------------------------------------------------------

// A tensor on its own heap block of exactly its size (so that a sanitizer sees any overrun), as the
// leading part of a storage larger by `pad` in each dim: a strided view. Elements and gaps are NaN.
inline Tensor empty(const Shape& shape, DType dtype = DType::kF32, const Shape& pad = {}) {
  Shape storage = shape;
  for (int d = 0; d < pad.num_dims(); ++d) storage[d] += pad[d];
  const std::int64_t bytes = storage.num_elements() * size_of(dtype);
  // 0xff everywhere is a NaN in every float dtype, and -1 in the integers.
  std::shared_ptr<void> owner(std::malloc(static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))),
                              std::free);
  std::memset(owner.get(), 0xff, static_cast<std::size_t>(bytes));
  Tensor out(owner.get(), dtype, storage, {}, owner);
  for (int d = 0; d < pad.num_dims(); ++d) out = out.slice(d, 0, shape[d]);
  return out;
}

inline Tensor full(const Shape& shape, double value, DType dtype = DType::kF32,
                   const Shape& pad = {}) {
  Tensor out = empty(shape, dtype, pad);
  for_each_element(out, [&](std::int64_t at, auto, auto) { write_element(out, at, value); });
  return out;
}

// scale * standard normals of stream `id`: the same numbers whatever the dtype (before rounding)
// and strides.
inline Tensor random(const Shape& shape, std::uint64_t id, double scale = 1,
                     DType dtype = DType::kF32, const Shape& pad = {}) {
  Tensor out = empty(shape, dtype, pad);
  const PhiloxStream stream({.seed = 7, .purpose = RngPurpose::kTest, .sample = id});
  std::uint64_t e = 0;
  std::array<double, 4> normals{};
  for_each_element(out, [&](std::int64_t at, auto, auto) {
    if (e % 4 == 0) normals = philox_normal4(stream.block(e / 4));
    write_element(out, at, scale * normals[e++ % 4]);
  });
  return out;
}

// The same values in another dtype, contiguous. Undefined stays undefined.
inline Tensor converted(const Tensor& t, DType dtype) {
  if (!t.defined()) return {};
  Tensor out = empty(t.shape(), dtype);
  std::int64_t e = 0;
  for_each_element(t, [&](std::int64_t at, auto, auto) {
    write_element(out, size_of(dtype) * e++, read_element(t, at));
  });
  return out;
}
inline Tensor to_f64(const Tensor& t) { return converted(t, DType::kF64); }

// --- Outputs ------------------------------------------------------------------------------------

// An output: NaN in every element (or `initial`'s values, for outputs that are added to), canary
// bytes before, after, and in the gaps of its strides.
class Output {
 public:
  explicit Output(const Shape& shape, DType dtype = DType::kF32, const Shape& pad = {}) {
    Shape storage = shape;
    for (int d = 0; d < pad.num_dims(); ++d) storage[d] += pad[d];
    const std::int64_t bytes = storage.num_elements() * size_of(dtype);
    size_ = static_cast<std::size_t>(bytes + 2 * kMargin);
    owner_ = {std::malloc(size_), std::free};
    for (std::size_t i = 0; i < size_; ++i) byte(i) = canary(i);
    is_canary_.assign(size_, true);
    tensor_ = Tensor(static_cast<char*>(owner_.get()) + kMargin, dtype, storage, {}, owner_);
    for (int d = 0; d < pad.num_dims(); ++d) tensor_ = tensor_.slice(d, 0, shape[d]);
    for_each_element(tensor_, [&](std::int64_t at, auto, auto) {
      for (std::int64_t i = kMargin + at; i < kMargin + at + size_of(dtype); ++i) {
        is_canary_[static_cast<std::size_t>(i)] = false;
        byte(static_cast<std::size_t>(i)) = 0xff;
      }
    });
  }
  static Output holding(const Tensor& initial, const Shape& pad = {}) {
    Output out(initial.shape(), initial.dtype(), pad);
    const std::vector<double> from = values(initial);
    std::size_t e = 0;
    for_each_element(out.tensor_, [&](std::int64_t at, auto, auto) {
      write_element(out.tensor_, at, from[e++]);
    });
    return out;
  }

  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }
  // No byte outside the tensor's own elements was written.
  bool intact() const {
    for (std::size_t i = 0; i < size_; ++i) {
      if (is_canary_[i] && byte(i) != canary(i)) return false;
    }
    return true;
  }

 private:
  static constexpr std::int64_t kMargin = 512;  // more than any vector register
  static unsigned char canary(std::size_t i) { return static_cast<unsigned char>(0xA5 + 37 * i); }
  unsigned char& byte(std::size_t i) const { return static_cast<unsigned char*>(owner_.get())[i]; }

  std::shared_ptr<void> owner_;
  std::size_t size_ = 0;
  std::vector<bool> is_canary_;
  Tensor tensor_;
};

// --- Comparing ----------------------------------------------------------------------------------

namespace detail {
inline double relative(double error, double scale) {
  if (std::isnan(error)) return std::numeric_limits<double>::infinity();
  if (error == 0) return 0;
  return error / scale;  // scale 0: infinity
}
// Equal infinities agree; a NaN agrees with nothing.
inline double distance(double got, double want) { return got == want ? 0 : std::fabs(got - want); }
}  // namespace detail

// max over rows of max|got - want| / max|want| of that row; infinity for NaN, or for anything but
// exact zeros where `want` has a row of zeros.
inline double row_error(const Tensor& got, const Tensor& want) {
  DSV_CHECK(got.shape() == want.shape(), "[harness] shapes {} and {}", got.shape(), want.shape());
  const std::vector<double> g = values(got), w = values(want);
  const auto columns = static_cast<std::size_t>(got.num_dims() == 0 ? 1 : got.dim(-1));
  double worst = 0;
  for (std::size_t begin = 0; begin < g.size(); begin += columns) {
    double error = 0, scale = 0;
    for (std::size_t e = begin; e < begin + columns; ++e) {
      const double distance = detail::distance(g[e], w[e]);
      error = std::isnan(distance) ? distance : std::isnan(error) ? error : std::max(error, distance);
      if (std::isfinite(w[e])) scale = std::max(scale, std::fabs(w[e]));
    }
    worst = std::max(worst, detail::relative(error, scale));
  }
  return worst;
}

// max|got - want| / max|want| over the whole tensor: for sums whose rows may cancel.
inline double tensor_error(const Tensor& got, const Tensor& want) {
  DSV_CHECK(got.shape() == want.shape(), "[harness] shapes {} and {}", got.shape(), want.shape());
  const std::vector<double> g = values(got), w = values(want);
  double error = 0, scale = 0;
  for (std::size_t e = 0; e < g.size(); ++e) {
    const double distance = detail::distance(g[e], w[e]);
    if (std::isnan(distance)) return std::numeric_limits<double>::infinity();
    error = std::max(error, distance);
    if (std::isfinite(w[e])) scale = std::max(scale, std::fabs(w[e]));
  }
  return detail::relative(error, scale);
}

// The same bits in every element.
inline bool bitwise_equal(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  if (a.is_contiguous() && b.is_contiguous()) {
    return a.num_elements() == 0 ||
           std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.num_bytes())) == 0;
  }
  std::vector<std::int64_t> at_a, at_b;
  for_each_element(a, [&](std::int64_t at, auto, auto) { at_a.push_back(at); });
  for_each_element(b, [&](std::int64_t at, auto, auto) { at_b.push_back(at); });
  const char *pa = static_cast<const char*>(a.raw()), *pb = static_cast<const char*>(b.raw());
  for (std::size_t e = 0; e < at_a.size(); ++e) {
    if (std::memcmp(pa + at_a[e], pb + at_b[e], static_cast<std::size_t>(size_of(a.dtype()))) != 0) {
      return false;
    }
  }
  return true;
}

// --- Finite differences -------------------------------------------------------------------------

// <a, b> over all elements.
inline double inner(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = values(a), y = values(b);
  DSV_CHECK(x.size() == y.size(), "[harness] {} and {} elements", x.size(), y.size());
  double sum = 0;
  for (std::size_t e = 0; e < x.size(); ++e) sum += x[e] * y[e];
  return sum;
}

// d/dt f(x + t * direction) at 0, by the five-point rule; f reads the f64 tensor x, which is
// restored. The error is about step^4 times the fifth derivative plus 1e-16 |f| / step.
inline double directional_derivative(const std::function<double()>& f, const Tensor& x,
                                     const Tensor& direction, double step = 1e-3) {
  const std::vector<double> x0 = values(x), d = values(direction);
  const auto at = [&](double t) {
    std::size_t e = 0;
    for_each_element(x, [&](std::int64_t offset, auto, auto) {
      write_element(x, offset, x0[e] + t * d[e]);
      ++e;
    });
    return f();
  };
  const double slope =
      (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
  at(0);
  return slope;
}

// How far `gradient` is from the finite difference of f with respect to the f64 tensor x along a
// random direction, relative to |gradient| * |direction| / sqrt(n), the size a random product has.
inline double gradient_error(const std::function<double()>& f, const Tensor& x,
                             const Tensor& gradient, std::uint64_t id = 99, double step = 1e-3) {
  DSV_CHECK(x.dtype() == DType::kF64, "[harness] finite differences need f64, got {}", x.dtype());
  const Tensor direction = random(x.shape(), id, 1, DType::kF64);
  const double expected = directional_derivative(f, x, direction, step);
  const double size = std::sqrt(inner(gradient, gradient) * inner(direction, direction) /
                                static_cast<double>(std::max<std::int64_t>(1, x.num_elements())));
  return detail::relative(std::fabs(inner(gradient, direction) - expected), size);
}

}  // namespace dsv::test
