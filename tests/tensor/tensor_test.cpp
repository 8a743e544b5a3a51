#include "dsv/tensor/tensor.h"

#include <cmath>
#include <cstring>

#include "dsv/tensor/arena.h"
#include "support/catch.h"

using dsv::DType;
using dsv::Shape;
using dsv::Tensor;

TEST_CASE("dtype: bf16 and f16 round to nearest even and come back", "[dtype]") {
  CHECK(dsv::f32_from_bf16(dsv::bf16_from_f32(1.0f)) == 1.0f);
  CHECK(dsv::bf16_from_f32(1.00390625f) == 0x3f80);       // halfway: to even
  CHECK(dsv::bf16_from_f32(1.01171875f) == 0x3f82);       // halfway: to even, upwards
  CHECK(std::isnan(dsv::f32_from_bf16(dsv::bf16_from_f32(NAN))));
  CHECK(dsv::f32_from_bf16(dsv::bf16_from_f32(INFINITY)) == INFINITY);
  for (int bits = 0; bits < 0x10000; ++bits) {
    const float x = dsv::f32_from_f16(static_cast<std::uint16_t>(bits));
    if (!std::isnan(x)) CHECK(dsv::f16_from_f32(x) == bits);
  }
  CHECK(dsv::f16_from_f32(65520.0f) == 0x7c00);
  for (const DType d : {DType::kF32, DType::kBF16, DType::kF16, DType::kF64, DType::kI64}) {
    CHECK(dsv::parse_dtype(dsv::to_string(d)) == d);
  }
  CHECK_FALSE(dsv::parse_dtype("F8").has_value());
}

TEST_CASE("tensor: views share bytes and know their strides", "[tensor]") {
  float data[24];
  for (int i = 0; i < 24; ++i) data[i] = static_cast<float>(i);
  const Tensor t(data, DType::kF32, {2, 3, 4});
  CHECK(t.stride(0) == 12);
  CHECK(t.num_rows() == 6);
  CHECK(t.reshape({6, -1}).dim(1) == 4);
  const Tensor cut = t.slice(1, 1, 3);
  CHECK(cut.shape() == Shape{2, 2, 4});
  CHECK(cut.f32() == data + 4);
  CHECK_FALSE(cut.is_contiguous());
  CHECK_THROWS(cut.reshape({16}));
  const Tensor row = t.select(1, 2);
  CHECK(row.shape() == Shape{2, 4});
  CHECK(row.stride(0) == 12);
  CHECK(row.f32()[0] == 8);
  const Tensor heads = t.slice(2, 0, 4).as_heads(2);
  CHECK(heads.shape() == Shape{2, 3, 2, 2});
  CHECK(heads.stride(2) == 2);
  CHECK_THROWS(t.f64());
  CHECK_THROWS(t.slice(0, 1, 3));
}

TEST_CASE("arena: freed blocks are reused, a repeated step allocates nothing", "[arena]") {
  dsv::Arena arena;
  const auto step = [&] {
    Tensor a = arena.empty({100, 10});
    Tensor b = arena.empty({50});
    a = Tensor();
    Tensor c = arena.empty({99, 10});
    CHECK(reinterpret_cast<std::uintptr_t>(c.raw()) % 64 == 0);
  };
  step();
  const auto first = arena.stats();
  for (int i = 0; i < 10; ++i) step();
  CHECK(arena.stats().num_device_allocations == first.num_device_allocations);
  CHECK(arena.stats().in_use_bytes == 0);
  CHECK(arena.stats().peak_bytes == first.peak_bytes);
  arena.trim();
  CHECK(arena.stats().reserved_bytes == 0);
}

TEST_CASE("arena: poison fills with NaN and tensors outlive the arena", "[arena]") {
  Tensor t;
  {
    dsv::Arena arena;
    arena.set_poison(true);
    t = arena.empty({8});
  }
  CHECK(std::isnan(t.f32()[7]));
}
