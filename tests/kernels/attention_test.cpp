#include "dsv/kernels/attention.h"

#include "kernels/support/attention_errors.h"

namespace dsv::test {
namespace {

using kernels::AttentionBackward;
using kernels::AttentionForward;
using kernels::reference_kernels;

enum class Bias { kNone, kZero, kRandom, kSomeMasked, kAllMasked, kFirstSampleMasked };
// kPadded: rows begin anywhere; kPaddedBy8: rows of bf16 begin at multiples of 16 bytes.
enum class Layout { kContiguous, kFusedQkv, kPadded, kPaddedBy8 };

struct Case {
  std::int64_t B, Sq, Skv, H, D;
  Bias bias = Bias::kNone;
  Layout layout = Layout::kContiguous;
  double qk_scale = 1, vdo_scale = 1;
};

// The tensors of one case; q, k, v, and do are views of the case's layout.
struct Data : AttentionInputs {
  explicit Data(const Case& c, DType dtype = DType::kF32) {
    scale = 0.9f / std::sqrt(static_cast<float>(c.D));
    const auto rows = [&](std::uint64_t id, std::int64_t S, double size) {
      const Shape pad = c.layout == Layout::kPadded      ? Shape{0, 1, 2, 3}
                        : c.layout == Layout::kPaddedBy8 ? Shape{0, 1, 2, 8}
                                                         : Shape{0, 0, 0, 0};
      return random({c.B, S, c.H, c.D}, id, size, dtype, pad);
    };
    q = rows(1, c.Sq, c.qk_scale);
    k = rows(2, c.Skv, c.qk_scale);
    v = rows(3, c.Skv, c.vdo_scale);
    d_o = rows(4, c.Sq, c.vdo_scale);
    if (c.layout == Layout::kFusedQkv) {  // one (B, S, 3, H, D): a token's q, k, and v side by side
      const Tensor qkv = random({c.B, c.Sq, 3 * c.H * c.D}, 5, c.qk_scale, dtype);
      const std::int64_t C = c.H * c.D;
      q = qkv.slice(2, 0, C).as_heads(c.H);
      k = qkv.slice(2, C, 2 * C).as_heads(c.H);
      v = qkv.slice(2, 2 * C, 3 * C).as_heads(c.H);
    }
    if (c.bias == Bias::kNone) return;
    key_bias = random({c.B, c.Skv}, 6);
    for_each_element(key_bias, [&](std::int64_t at, std::int64_t b, std::int64_t j) {
      const bool masked = c.bias == Bias::kAllMasked ||
                          (c.bias == Bias::kFirstSampleMasked && b == 0) ||
                          (c.bias == Bias::kSomeMasked && j % 3 != 1);
      if (masked) write_element(key_bias, at, -std::numeric_limits<double>::infinity());
      if (c.bias == Bias::kZero) write_element(key_bias, at, 0);
    });
  }
};

AttentionResults reference(const Data& data) {
  const AttentionInputs d = data.to_f64();
  const std::int64_t B = d.q.dim(0), Sq = d.q.dim(1), H = d.q.dim(2);
  AttentionResults r{.o = f64_like(d.q), .lse = empty({B, H, Sq}, DType::kF64), .dq = f64_like(d.q),
            .dk = f64_like(d.k), .dv = f64_like(d.v)};
  reference_kernels().attention_forward({.q = d.q, .k = d.k, .v = d.v, .key_bias = d.key_bias,
                                         .o = r.o, .lse = r.lse, .scale = d.scale},
                                        {});
  reference_kernels().attention_backward(
      {.q = d.q, .k = d.k, .v = d.v, .key_bias = d.key_bias, .o = r.o, .lse = r.lse, .d_o = d.d_o,
       .dq = r.dq, .dk = r.dk, .dv = r.dv, .delta = f64_like(r.lse), .scale = d.scale},
      {});
  return r;
}

constexpr auto every_pair = [](auto...) { return true; };

// o, lse, dq, dk, dv, delta, all guarded, o and the gradients in strides of their own.
std::vector<Output> run(const Case& c, const Data& d, const Stream& stream) {
  const Shape pad = c.layout == Layout::kContiguous  ? Shape{0, 0, 0, 0}
                    : c.layout == Layout::kPaddedBy8 ? Shape{0, 2, 1, 8}
                                                     : Shape{0, 2, 1, 5};
  const DType dtype = d.q.dtype();
  std::vector<Output> out;
  out.emplace_back(d.q.shape(), dtype, pad);
  out.emplace_back(Shape{c.B, c.H, c.Sq});
  out.emplace_back(d.q.shape(), dtype, pad);
  out.emplace_back(d.k.shape(), dtype, pad);
  out.emplace_back(d.v.shape(), dtype, pad);
  out.emplace_back(Shape{c.B, c.H, c.Sq});
  tested_kernels().attention_forward({.q = d.q, .k = d.k, .v = d.v, .key_bias = d.key_bias,
                                      .o = out[0], .lse = out[1], .scale = d.scale},
                                     stream);
  tested_kernels().attention_backward(
      {.q = d.q, .k = d.k, .v = d.v, .key_bias = d.key_bias, .o = out[0], .lse = out[1],
       .d_o = d.d_o, .dq = out[2], .dk = out[3], .dv = out[4], .delta = out[5], .scale = d.scale},
      stream);
  return out;
}

void check_case(const Case& c, DType dtype = DType::kF32) {
  CAPTURE(c.B, c.Sq, c.Skv, c.H, c.D, c.qk_scale, c.vdo_scale, static_cast<int>(c.bias),
          static_cast<int>(c.layout));
  const Data data(c, dtype);
  const AttentionResults want = reference(data);
  const AttentionSizes sizes = sizes_of(data, want, every_pair);
  for_each_backend_of(dtype, [&] {
    check_attention(data, want, sizes,
                  same_for_any_threads([&](const Stream& stream) { return run(c, data, stream); }));
  });
}

TEST_CASE("attention: shapes that fit no block, views of any stride", "[attention]") {
  for (const Case& c : std::vector<Case>{
           {1, 1, 1, 1, 1},
           {1, 1, 7, 1, 2, Bias::kRandom},
           {2, 5, 3, 3, 8, Bias::kNone, Layout::kPadded},
           {1, 13, 33, 2, 16, Bias::kSomeMasked},
           {2, 31, 31, 2, 40, Bias::kNone, Layout::kFusedQkv},
           {1, 97, 65, 1, 64, Bias::kRandom, Layout::kPadded},
           {1, 200, 50, 1, 24},
           {1, 33, 500, 1, 17, Bias::kSomeMasked},
           {1, 193, 241, 1, 12, Bias::kNone, Layout::kPadded},
           {1, 20, 130, 1, 72, Bias::kRandom},
           {1, 9, 125, 1, 128},
           {1, 10, 14, 1, 250, Bias::kNone, Layout::kPadded},
           {1, 6, 121, 1, 256, Bias::kSomeMasked},
       }) {
    check_case(c);
  }
}

TEST_CASE("attention: activations of any scale", "[attention]") {
  for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
    check_case({1, 70, 250, 1, 64, Bias::kNone, Layout::kContiguous, scale, 1});
    check_case({1, 100, 60, 1, 64, Bias::kRandom, Layout::kContiguous, 1, scale});
    check_case({1, 40, 50, 1, 128, Bias::kNone, Layout::kContiguous, scale, scale});
  }
}

void check_rows_without_keys(DType dtype) {
  check_case({2, 50, 70, 2, 16, Bias::kAllMasked}, dtype);
  check_case({2, 50, 250, 2, 16, Bias::kFirstSampleMasked}, dtype);
  for_each_backend_of(dtype, [&] {
    const Case c{2, 10, 30, 2, 8, Bias::kFirstSampleMasked};
    const auto got = run(c, Data(c, dtype), cpu_stream());
    for (const int i : {0, 2, 3, 4}) {  // o and the gradients of sample 0
      for (const double x : values(got[static_cast<std::size_t>(i)].tensor().slice(0, 0, 1))) {
        CHECK(x == 0);
      }
    }
    for (const double x : values(got[1].tensor().slice(0, 0, 1))) CHECK(x == -INFINITY);
  });
}

TEST_CASE("attention: rows without any key", "[attention]") {
  check_rows_without_keys(DType::kF32);
}

TEST_CASE("attention: no tokens at all", "[attention]") {
  check_case({1, 0, 5, 1, 8});
  check_case({0, 4, 5, 2, 8});
  check_case({2, 4, 0, 2, 8});
}

// q and k such that every logit is near `logit`: one shared direction and a little noise.
Data aligned(const Case& c, double logit, double noise, DType dtype = DType::kF32) {
  Data data(c, dtype);
  data.scale = 1;
  const double q_size = std::sqrt(std::fabs(logit) / static_cast<double>(c.D));
  for (const Tensor& t : {data.q, data.k}) {
    const double sign = t.raw() == data.k.raw() && logit < 0 ? -1 : 1;
    for_each_element(t, [&](std::int64_t at, auto, auto) {
      write_element(t, at, sign * q_size + noise * read_element(t, at));
    });
  }
  return data;
}

void check_data(const Case& c, const Data& data) {
  const AttentionResults want = reference(data);
  const AttentionSizes sizes = sizes_of(data, want, every_pair);
  for_each_backend_of(data.q.dtype(), [&] {
    check_attention(data, want, sizes, run(c, data, cpu_stream(2)));
  });
}

TEST_CASE("attention: keys that only fill up a tile do not leak in", "[attention]") {
  // A zero key scores 0, which would outweigh logits far below it.
  for (const std::int64_t Skv : {1, 5, 13, 191, 193}) {
    CAPTURE(Skv);
    const Case c{1, 20, Skv, 1, 16};
    check_data(c, aligned(c, -200, 0.05));
  }
}

TEST_CASE("attention: identical logits weigh all keys alike", "[attention]") {
  const Case c{1, 30, 211, 1, 32};
  const Data data = aligned(c, 12, 0);
  check_data(c, data);
  for_each_backend([&] {
    const auto got = run(c, data, cpu_stream());
    const std::vector<double> o = values(got[0]), v = values(data.v);
    for (std::size_t d = 0; d < 32; ++d) {
      double mean = 0;
      for (std::size_t j = 0; j < 211; ++j) mean += v[j * 32 + d] / 211;
      CHECK(std::fabs(o[d] - mean) <= 1e-6);
    }
  });
}

TEST_CASE("attention: huge logits neither overflow nor lose the largest", "[attention]") {
  const Case c{1, 24, 200, 1, 32};
  check_data(c, aligned(c, 1e4, 0.05));
  check_data(c, aligned(c, -1e4, 0.05));
  check_case({1, 24, 200, 1, 32, Bias::kNone, Layout::kContiguous, 45, 1});  // ± 1e4, one-hot
}

TEST_CASE("attention: weights are right to the last bits over the whole range of exp",
          "[attention]") {
  // Two keys with logits 0 and x: o = exp(x) / (1 + exp(x)). The logit in units of log2 e has two
  // roundings, relative to |x|; exp2, the sum, and the quotient have one or two more each.
  const std::int64_t n = 20000;
  const Tensor q = empty({1, n, 1, 1}), k = empty({1, 2, 1, 1}), lse = empty({1, 1, n});
  for (std::int64_t i = 0; i < n; ++i) {
    q.f32()[i] = -90.0f * static_cast<float>(i) / static_cast<float>(n);
  }
  k.f32()[0] = 0;
  k.f32()[1] = 1;
  for_each_backend([&] {
    const Tensor o = empty({1, n, 1, 1});
    tested_kernels().attention_forward({.q = q, .k = k, .v = k, .o = o, .lse = lse}, cpu_stream(2));
    double worst = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double x = static_cast<double>(q.f32()[i]), got = static_cast<double>(o.f32()[i]);
      if (x < -87.4) {  // exp(x) < 2^-126
        worst = std::max(worst, got > 0x1p-126 ? 1e9 : 0.0);
        continue;
      }
      const double want = std::exp(x) / (1 + std::exp(x));
      worst = std::max(worst, std::fabs(got / want - 1) / (kEps * (4 + 1.5 * std::fabs(x))));
    }
    CHECK(worst <= 1);
  });
}

void check_masked_keys(const Case& c, DType dtype) {
  const Data data(c, dtype);
  for_each_backend_of(dtype, [&] {
    const auto got = run(c, data, cpu_stream(2));
    for (std::int64_t j = 0; j < c.Skv; ++j) {
      if (std::isfinite(data.key_bias.f32()[j])) continue;
      for (const double x : values(got[3].tensor().slice(1, j, j + 1))) CHECK(x == 0);
      for (const double x : values(got[4].tensor().slice(1, j, j + 1))) CHECK(x == 0);
    }
  });
}

TEST_CASE("attention: masked keys get exactly no gradient", "[attention]") {
  check_masked_keys({1, 40, 130, 2, 16, Bias::kSomeMasked}, DType::kF32);
}

void check_queries_alone(const Case& whole, DType dtype) {
  for_each_backend_of(dtype, [&] {
    const Data data(whole, dtype);
    const auto all = run(whole, data, cpu_stream(2));
    for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{0, 150}, {150, 300},
                                     {41, 42}}) {
      Data part = data;
      part.q = data.q.slice(1, begin, end);
      part.d_o = data.d_o.slice(1, begin, end);
      Case c = whole;
      c.Sq = end - begin;
      const auto got = run(c, part, cpu_stream());
      CHECK(bitwise_equal(got[0], all[0].tensor().slice(1, begin, end)));
      CHECK(bitwise_equal(got[1], all[1].tensor().slice(2, begin, end)));
      CHECK(bitwise_equal(got[2], all[2].tensor().slice(1, begin, end)));
    }
  });
}

TEST_CASE("attention: a query's result does not depend on the queries beside it", "[attention]") {
  check_queries_alone({1, 300, 260, 2, 24}, DType::kF32);
}

void check_hundred_runs(const Case& c, DType dtype) {
  const Data data(c, dtype);
  const auto first = run(c, data, cpu_stream(1));
  for (int i = 0; i < 100; ++i) {
    const auto again = run(c, data, cpu_stream(2 + i % 5));
    for (std::size_t o = 0; o < first.size(); ++o) REQUIRE(bitwise_equal(first[o], again[o]));
  }
}

TEST_CASE("attention: the same bits in a hundred runs on more threads than cores", "[attention]") {
  // One head and many blocks of keys: every share of dq has to wait for its turn.
  check_hundred_runs({1, 400, 700, 1, 16}, DType::kF32);
}

// --- bf16, which only the GPU computes in. A key bias makes the call ours; without one cuDNN may
// take it, and has to keep the same promises.

constexpr DType kBf16 = DType::kBF16;

TEST_CASE("attention: bf16 of any head dim, bias, and layout on the GPU", "[attention][gpu]") {
  DSV_NEEDS_GPU();
  for (const std::int64_t D : {8, 17, 64, 72, 96, 128, 250, 256}) {
    for (const Case& c : std::vector<Case>{
             {1, 1, 1, 1, D, Bias::kZero},
             {1, 150, 200, 1, D},
             {1, 150, 200, 1, D, Bias::kZero},
             {2, 70, 33, 2, D, Bias::kSomeMasked, Layout::kPadded},
             {1, 65, 65, 2, D, Bias::kNone, Layout::kFusedQkv},
             {1, 65, 65, 2, D, Bias::kRandom, Layout::kFusedQkv},
             {2, 40, 130, 1, D, Bias::kRandom, Layout::kPaddedBy8},
             {1, 129, 97, 1, D, Bias::kNone, Layout::kPadded},
         }) {
      check_case(c, kBf16);
    }
  }
}

TEST_CASE("attention: bf16 over many tiles and exactly whole ones on the GPU", "[attention][gpu]") {
  DSV_NEEDS_GPU();
  for (const Bias bias : {Bias::kNone, Bias::kRandom}) {
    check_case({1, 520, 330, 1, 64, bias}, kBf16);
    check_case({1, 200, 500, 1, 128, bias}, kBf16);
    check_case({1, 128, 192, 1, 64, bias}, kBf16);
    check_case({1, 256, 96, 1, 128, bias}, kBf16);
    check_case({3, 33, 49, 5, 32, bias}, kBf16);
  }
}

TEST_CASE("attention: bf16 activations of any scale on the GPU", "[attention][gpu]") {
  DSV_NEEDS_GPU();
  for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
    for (const Bias bias : {Bias::kNone, Bias::kZero}) {
      check_case({1, 70, 250, 1, 64, bias, Layout::kContiguous, scale, 1}, kBf16);
      check_case({1, 100, 60, 1, 64, bias, Layout::kContiguous, 1, scale}, kBf16);
      check_case({1, 40, 130, 1, 128, bias, Layout::kContiguous, scale, scale}, kBf16);
    }
  }
}

TEST_CASE("attention: bf16 rows without any key, and no tokens at all on the GPU",
          "[attention][gpu]") {
  DSV_NEEDS_GPU();
  check_rows_without_keys(kBf16);
  for (const Bias bias : {Bias::kNone, Bias::kZero}) {
    for (const std::int64_t D : {8, 128, 256}) {
      check_case({1, 0, 5, 1, D, bias}, kBf16);
      check_case({0, 4, 5, 2, D, bias}, kBf16);
      check_case({2, 4, 0, 2, D, bias}, kBf16);
    }
  }
}

TEST_CASE("attention: bf16 logits near and far from zero on the GPU", "[attention][gpu]") {
  DSV_NEEDS_GPU();
  for (const Bias bias : {Bias::kNone, Bias::kZero}) {
    for (const std::int64_t Skv : {1, 5, 13, 63, 65}) {  // keys that only fill up a tile score 0
      const Case c{1, 20, Skv, 1, 16, bias};
      check_data(c, aligned(c, -200, 0.05, kBf16));
    }
    const Case same{1, 30, 211, 1, 32, bias};
    check_data(same, aligned(same, 12, 0, kBf16));
    const Case huge{1, 24, 200, 1, 32, bias};
    check_data(huge, aligned(huge, 1e4, 0.05, kBf16));
    check_data(huge, aligned(huge, -1e4, 0.05, kBf16));
  }
}

TEST_CASE("attention: bf16 masked keys get exactly no gradient on the GPU", "[attention][gpu]") {
  DSV_NEEDS_GPU();
  for (const std::int64_t D : {16, 128, 256}) {
    check_masked_keys({1, 40, 130, 2, D, Bias::kSomeMasked}, kBf16);
  }
}

TEST_CASE("attention: bf16 results do not depend on the queries beside it on the GPU",
          "[attention][gpu]") {
  DSV_NEEDS_GPU();
  for (const std::int64_t D : {24, 128, 256}) {
    check_queries_alone({1, 300, 260, 2, D, Bias::kZero}, kBf16);
  }
}

TEST_CASE("attention: bf16 has the same bits in a hundred runs on the GPU", "[attention][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Bias bias : {Bias::kNone, Bias::kZero}) {
      check_hundred_runs({1, 260, 330, 2, 64, bias}, kBf16);
      check_hundred_runs({1, 260, 330, 2, 128, bias}, kBf16);
    }
    check_hundred_runs({1, 140, 200, 1, 256, Bias::kZero}, kBf16);
    check_hundred_runs({1, 200, 300, 1, 16}, DType::kF32);
  });
}

TEST_CASE("attention: bf16 agrees with f32 where the reference would take minutes on the GPU",
          "[attention][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Bias bias : {Bias::kNone, Bias::kRandom}) {
      for (const std::int64_t D : {64, 128}) {
        const Case c{2, 1700, 2300, 3, D, bias};
        CAPTURE(D, static_cast<int>(bias));
        const Data bf16(c, kBf16);
        Data f32 = bf16;
        for (Tensor* t : {&f32.q, &f32.k, &f32.v, &f32.d_o}) *t = converted(*t, DType::kF32);
        const auto got = run(c, bf16, cpu_stream()), want = run(c, f32, cpu_stream());
        // Errors of single roundings, 2^-9 of a summand each, average out over so many keys.
        for (const std::size_t i : {0, 2, 3, 4}) CHECK(tensor_error(got[i], want[i]) <= 0x1p-6);
        CHECK(max_distance(got[1], want[1]) <= 1e-4);
      }
    }
  });
}

TEST_CASE("attention: the reference's gradients are those of its forward", "[attention]") {
  for (const Bias bias : {Bias::kNone, Bias::kSomeMasked}) {
    const Case c{2, 4, 5, 2, 3, bias};
    const AttentionInputs data = Data(c).to_f64();
    const AttentionResults r = reference(Data(c));
    const Tensor o = f64_like(r.o), lse = f64_like(r.lse);
    const auto loss = [&] {
      reference_kernels().attention_forward({.q = data.q, .k = data.k, .v = data.v,
                                             .key_bias = data.key_bias, .o = o, .lse = lse,
                                             .scale = data.scale},
                                            {});
      return inner(o, data.d_o);
    };
    CHECK(gradient_error(loss, data.q, r.dq) <= 1e-9);
    CHECK(gradient_error(loss, data.k, r.dk) <= 1e-9);
    CHECK(gradient_error(loss, data.v, r.dv) <= 1e-9);
  }
}

TEST_CASE("attention: what the cpu does not do is refused", "[attention]") {
  const Tensor x = full({1, 2, 1, 4}, 1, DType::kBF16), lse = empty({1, 1, 2});
  check_refuses_bf16([&] {
    tested_kernels().attention_forward({.q = x, .k = x, .v = x, .o = x, .lse = lse}, cpu_stream());
  });
  const Tensor wide = full({1, 2, 1, 257}, 1);
  CHECK_THROWS_WITH(tested_kernels().attention_forward(
                        {.q = wide, .k = wide, .v = wide, .o = wide, .lse = lse}, cpu_stream()),
                    Contains("head dim"));
}

}  // namespace
}  // namespace dsv::test
