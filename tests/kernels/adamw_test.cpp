#include "dsv/kernels/adamw.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::AdamW;
using kernels::AdamWSegment;
using kernels::reference_kernels;

TEST_CASE("adamw: the first step moves by lr against the sign of the gradient", "[adamw]") {
  const Tensor p = full({3}, 1), g = empty({3}), m = full({3}, 0), v = full({3}, 0);
  g.f32()[0] = 0.5f, g.f32()[1] = -2, g.f32()[2] = 7;
  const std::vector<AdamWSegment> segments{{0, 2, 0}};
  reference_kernels().adamw(
      {.param = p, .grad = g, .m = m, .v = v, .segments = segments, .lr = 0.1, .eps = 0}, {});
  CHECK(p.f32()[0] == 0.9f);
  CHECK(p.f32()[1] == 1.1f);
  CHECK(p.f32()[2] == 1);  // not listed
  CHECK(m.f32()[2] == 0);
}

TEST_CASE("adamw: the reference is PyTorch's formula, ten steps of one parameter", "[adamw]") {
  const double lr = 0.01, b1 = 0.9, b2 = 0.95, eps = 1e-8, decay = 0.1, scale = 0.5;
  double p = 0.7, m = 0, v = 0, ema = 0.7;
  const Tensor tp = full({1}, p, DType::kF64), tm = full({1}, 0, DType::kF64),
               tv = full({1}, 0, DType::kF64), tg = full({1}, 0, DType::kF64),
               te = full({1}, p, DType::kF64);
  const std::vector<AdamWSegment> segments{{0, 1, static_cast<float>(decay)}};
  for (int step = 1; step <= 10; ++step) {
    const double raw = std::sin(step * 1.3);
    // torch.optim.AdamW, single tensor: decay, moments, bias corrections, addcdiv.
    p *= 1 - lr * static_cast<double>(static_cast<float>(decay));
    const double g = raw * scale;
    m += (1 - b1) * (g - m);
    v = v * b2 + (1 - b2) * g * g;
    const double step_size = lr / (1 - std::pow(b1, step));
    const double denom = std::sqrt(v) / std::sqrt(1 - std::pow(b2, step)) + eps;
    p -= step_size * m / denom;
    ema = 0.99 * ema + 0.01 * p;
    tg.f64()[0] = raw;
    reference_kernels().adamw({.param = tp,
                               .grad = tg,
                               .m = tm,
                               .v = tv,
                               .ema = te,
                               .segments = segments,
                               .lr = lr,
                               .beta1 = b1,
                               .beta2 = b2,
                               .eps = eps,
                               .grad_scale = scale,
                               .ema_decay = 0.99,
                               .step = step},
                              {});
    CHECK(tp.f64()[0] == Approx(p).epsilon(1e-13));
    CHECK(tm.f64()[0] == Approx(m).epsilon(1e-13));
    CHECK(tv.f64()[0] == Approx(v).epsilon(1e-13));
    CHECK(te.f64()[0] == Approx(ema).epsilon(1e-13));
  }
}

TEST_CASE("adamw: ten steps against the reference, with segments, EMA, and copies", "[adamw]") {
  constexpr std::int64_t n = 40000;
  // Gaps of every kind: before, between, one element, odd ends; nothing after the last.
  const std::vector<AdamWSegment> segments{
      {3, 20, 0.1f}, {20, 21, 0}, {40, 40, 0.5f}, {57, 23333, 0.05f}, {23350, n - 5, 0}};
  enum class Copy { kNone, kF32, kBF16 };
  constexpr int kSteps = 10;
  std::vector<Tensor> grads;
  for (int step = 0; step < kSteps; ++step) {
    grads.push_back(random({n}, static_cast<std::uint64_t>(100 + step)));
  }
  for_each_backend([&] {
    for (const bool with_ema : {false, true}) {
      for (const Copy copy : {Copy::kNone, Copy::kF32, Copy::kBF16}) {
        if (with_ema && copy == Copy::kF32) continue;
        CAPTURE(with_ema, static_cast<int>(copy));
        const Tensor p0 = random({n}, 1), e0 = random({n}, 2);
        const auto arguments = [&](const std::vector<Tensor>& t, const Tensor& grad, int step) {
          AdamW args{.param = t[0],
                     .grad = grad,
                     .m = t[1],
                     .v = t[2],
                     .segments = segments,
                     .lr = 1e-3,
                     .beta1 = 0.9,
                     .beta2 = 0.99,
                     .grad_scale = 0.25,
                     .ema_decay = 0.9,
                     .step = step};
          if (with_ema) args.ema = t[3];
          if (copy != Copy::kNone) args.copy = t[4];
          return args;
        };
        const DType copy_type = copy == Copy::kBF16 ? DType::kBF16 : DType::kF32;
        const std::vector<Tensor> want{to_f64(p0), full({n}, 0, DType::kF64),
                                       full({n}, 0, DType::kF64), to_f64(e0),
                                       full({n}, 7, copy_type)};
        for (int step = 1; step <= kSteps; ++step) {
          const Tensor& grad = grads[static_cast<std::size_t>(step - 1)];
          reference_kernels().adamw(arguments(want, grad, step), {});
        }
        const auto got = same_for_any_threads([&](const Stream& stream) {
          std::vector<Output> out{Output::holding(p0), Output::holding(full({n}, 0)),
                                  Output::holding(full({n}, 0)), Output::holding(e0),
                                  Output::holding(full({n}, 7, copy_type))};
          const std::vector<Tensor> tensors(out.begin(), out.end());
          for (int step = 1; step <= kSteps; ++step) {
            const Tensor& grad = grads[static_cast<std::size_t>(step - 1)];
            tested_kernels().adamw(arguments(tensors, grad, step), stream);
          }
          return out;
        });
        // A step of at most lr rounded a few times, ten times; parameters are of size 4.
        CHECK(max_distance(got[0], want[0]) <= 10 * kEps * max_abs(want[0]));
        CHECK(max_distance(got[1], want[1]) <= 10 * kEps * max_abs(want[1]));
        CHECK(max_distance(got[2], want[2]) <= 10 * kEps * max_abs(want[2]));
        CHECK(max_distance(got[3], want[3]) <= 10 * kEps * max_abs(want[0]));
        const std::vector<double> p = values(got[0]), start = values(p0), e = values(got[3]),
                                  e_start = values(e0), c = values(got[4]);
        std::vector<bool> listed(n, false);
        for (const AdamWSegment& s : segments) {
          for (std::int64_t i = s.begin; i < s.end; ++i) listed[static_cast<std::size_t>(i)] = true;
        }
        int wrong = 0;
        for (std::size_t i = 0; i < n; ++i) {
          wrong += !listed[i] && p[i] != start[i];
          wrong += !(listed[i] && with_ema) && e[i] != e_start[i];
          const double copied =
              copy == Copy::kBF16
                  ? static_cast<double>(f32_from_bf16(bf16_from_f32(static_cast<float>(p[i]))))
                  : p[i];
          wrong += c[i] != (listed[i] && copy != Copy::kNone ? copied : 7);
        }
        CHECK(wrong == 0);
      }
    }
  });
}

TEST_CASE("adamw: where a segment begins does not change its numbers", "[adamw]") {
  for_each_backend([] {
    const Tensor p0 = random({101}, 1), grad = random({101}, 2);
    const auto run = [&](const std::vector<AdamWSegment>& segments) {
      const Tensor p = converted(p0, DType::kF32), m = full({101}, 0), v = full({101}, 0);
      tested_kernels().adamw(
          {.param = p, .grad = grad, .m = m, .v = v, .segments = segments, .lr = 0.01},
          cpu_stream());
      return p;
    };
    const Tensor whole = run({{0, 101, 0.1f}});
    CHECK(bitwise_equal(run({{0, 1, 0.1f}, {1, 6, 0.1f}, {6, 50, 0.1f}, {50, 101, 0.1f}}), whole));
  });
}

TEST_CASE("adamw: hundreds of segments at any address on the GPU", "[adamw][gpu]") {
  DSV_NEEDS_GPU();
  // Sizes from 1 to several blocks, gaps of 0 to 3, more segments than one launch takes.
  std::vector<AdamWSegment> segments;
  std::int64_t n = 1;
  for (int i = 0; i < 200; ++i) {
    const std::int64_t begin = n + i % 4, size = i % 50 == 49 ? 9000 + i : 1 + 37 * i % 1500;
    segments.push_back({begin, begin + size, i % 3 == 0 ? 0.1f : 0.0f});
    n = begin + size;
  }
  n += 5;
  std::vector<bool> listed(static_cast<std::size_t>(n), false);
  for (const AdamWSegment& s : segments) {
    for (std::int64_t i = s.begin; i < s.end; ++i) listed[static_cast<std::size_t>(i)] = true;
  }
  const Tensor p0 = random({n}, 1), e0 = random({n}, 2), grad = random({n}, 3, 0.1),
               zero = full({n}, 0);
  on_gpu([&] {
    for (const DType copy_type : {DType::kF32, DType::kBF16}) {
      CAPTURE(static_cast<int>(copy_type));
      // The arrays begin at element `skip` of their storages.
      const auto run = [&](std::int64_t skip, const Stream& stream) {
        std::vector<Output> out;
        for (const Tensor& initial : {p0, zero, zero, e0, full({n}, 7, copy_type)}) {
          out.emplace_back(Shape{n + skip}, initial.dtype());
          std::memcpy(out.back().tensor().slice(0, skip, skip + n).raw(), initial.raw(),
                      static_cast<std::size_t>(initial.num_bytes()));
        }
        std::vector<Tensor> t;
        for (const Output& o : out) t.push_back(o.tensor().slice(0, skip, skip + n));
        for (int step = 1; step <= 2; ++step) {
          tested_kernels().adamw({.param = t[0],
                                  .grad = grad,
                                  .m = t[1],
                                  .v = t[2],
                                  .ema = t[3],
                                  .copy = t[4],
                                  .segments = segments,
                                  .lr = 1e-2,
                                  .ema_decay = 0.9,
                                  .step = step},
                                 stream);
        }
        return out;
      };
      const auto got = same_for_any_threads([&](const Stream& stream) { return run(0, stream); });
      const auto elsewhere = run(1, cpu_stream());
      for (std::size_t i = 0; i < got.size(); ++i) {
        CAPTURE(i);
        CHECK(bitwise_equal(elsewhere[i].tensor().slice(0, 1, n + 1), got[i]));
        CHECK(elsewhere[i].intact());
      }
      const std::vector<Tensor> want{to_f64(p0), to_f64(zero), to_f64(zero), to_f64(e0),
                                     full({n}, 7, DType::kF64)};
      for (int step = 1; step <= 2; ++step) {
        reference_kernels().adamw({.param = want[0],
                                   .grad = to_f64(grad),
                                   .m = want[1],
                                   .v = want[2],
                                   .ema = want[3],
                                   .copy = want[4],
                                   .segments = segments,
                                   .lr = 1e-2,
                                   .ema_decay = 0.9,
                                   .step = step},
                                  {});
      }
      for (std::size_t i = 0; i < 4; ++i) {
        CAPTURE(i);
        CHECK(max_distance(got[i], want[i]) <= 10 * kEps * max_abs(want[i]));
      }
      const std::vector<double> p = values(got[0]), start = values(p0), m = values(got[1]),
                                e = values(got[3]), e_start = values(e0), c = values(got[4]);
      int wrong = 0;
      for (std::size_t i = 0; i < listed.size(); ++i) {
        if (listed[i]) {
          const auto rounded =
              static_cast<double>(f32_from_bf16(bf16_from_f32(static_cast<float>(p[i]))));
          wrong += c[i] != (copy_type == DType::kBF16 ? rounded : p[i]);
        } else {
          wrong += p[i] != start[i] || m[i] != 0 || e[i] != e_start[i] || c[i] != 7;
        }
      }
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("adamw: bf16 state is refused", "[adamw]") {
  const Tensor x = full({4}, 1, DType::kBF16);
  const std::vector<AdamWSegment> segments{{0, 4, 0}};
  check_refuses_bf16([&] {
    tested_kernels().adamw({.param = x, .grad = x, .m = x, .v = x, .segments = segments},
                           cpu_stream());
  });
}

}  // namespace
}  // namespace dsv::test
