#include "dsv/kernels/patchify.h"

#include <algorithm>
#include <numeric>

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::Patchify;
using kernels::reference_kernels;

struct Case {
  std::int64_t B, C, T, H, W;
  std::array<std::int64_t, 3> patch;
  std::int64_t num_tokens() const { return T / patch[0] * (H / patch[1]) * (W / patch[2]); }
  std::int64_t num_features() const { return C * patch[0] * patch[1] * patch[2]; }
};

const std::vector<Case> kCases{
    {1, 1, 1, 1, 1, {1, 1, 1}},   {2, 3, 2, 4, 6, {1, 2, 2}},   {1, 2, 4, 6, 8, {2, 2, 4}},
    {2, 5, 3, 2, 9, {3, 1, 3}},   {2, 4, 5, 12, 68, {1, 2, 2}}, {1, 16, 3, 10, 140, {1, 1, 2}},
    {2, 50, 2, 6, 10, {1, 2, 2}}, {1, 3, 2, 2, 15, {1, 2, 5}},  {0, 4, 1, 2, 2, {1, 2, 2}}};

// A permutation of n tokens, in a fixed order that follows no axis.
Tensor permutation(std::int64_t n) {
  const Tensor order = empty({n}, DType::kI32);
  std::iota(order.i32(), order.i32() + n, 0);
  const PhiloxStream stream({.seed = 3, .purpose = RngPurpose::kTest});
  for (std::int64_t i = n - 1; i > 0; --i) {
    std::swap(order.i32()[i], order.i32()[stream.word(static_cast<std::uint64_t>(i)) %
                                          static_cast<std::uint32_t>(i + 1)]);
  }
  return order;
}

TEST_CASE("patchify: a 2x4 frame of two channels in two 2x2 patches", "[patchify]") {
  const Tensor video = empty({1, 2, 1, 2, 4}), tokens = empty({1, 2, 8});
  for (int e = 0; e < 16; ++e) video.f32()[e] = static_cast<float>(e);
  Patchify args{.video = video, .tokens = tokens};
  reference_kernels().patchify(args, {});
  CHECK(values(tokens) ==
        std::vector<double>{0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15});
  args.channels_last = true;
  reference_kernels().patchify(args, {});
  CHECK(values(tokens) ==
        std::vector<double>{0, 8, 1, 9, 4, 12, 5, 13, 2, 10, 3, 11, 6, 14, 7, 15});
  const Tensor order = empty({2}, DType::kI32);
  order.i32()[0] = 1, order.i32()[1] = 0;
  args.channels_last = false;
  args.token_order = order;
  reference_kernels().patchify(args, {});
  CHECK(values(tokens) ==
        std::vector<double>{2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13});
}

TEST_CASE("patchify: both ways exactly as the reference, and back to the video", "[patchify]") {
  const auto check_all = [] {
    for (const Case& c : kCases) {
      for (const bool channels_last : {false, true}) {
        for (const bool permuted : {false, true}) {
          CAPTURE(c.B, c.C, c.T, c.H, c.W, channels_last, permuted);
          const Shape shape{c.B, c.C, c.T, c.H, c.W};
          const Shape token_shape{c.B, c.num_tokens(), c.num_features()};
          // The stride of B alone may be larger than the sample: select every other sample.
          const Tensor twice = random({c.B, 2 * c.C, c.T, c.H, c.W}, 1);
          const Tensor video = twice.slice(1, 0, c.C);
          Patchify args{.video = video, .patch = c.patch, .channels_last = channels_last};
          if (permuted) args.token_order = permutation(c.num_tokens());
          const Tensor want = empty(token_shape);
          args.tokens = want;
          reference_kernels().patchify(args, {});
          const auto got = same_for_any_threads([&](const Stream& stream) {
            std::vector<Output> out{Output(token_shape), Output(shape, DType::kF32, {0, 3})};
            Patchify there = args, back = args;
            there.tokens = out[0];
            tested_kernels().patchify(there, stream);
            back.tokens = out[0];
            back.video = out[1];
            tested_kernels().unpatchify(back, stream);
            return out;
          });
          CHECK(bitwise_equal(got[0], want));
          CHECK(bitwise_equal(got[1], video));
          const Output back(shape);
          args.video = back;
          reference_kernels().unpatchify(args, {});
          CHECK(bitwise_equal(back, video));
        }
      }
    }
  };
  on_gpu(check_all);
  check_all();  // one code for every instruction set of the processor
}

TEST_CASE("patchify: bf16 tokens on the GPU", "[patchify][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Case& c : kCases) {
      for (const bool channels_last : {false, true}) {
        for (const bool permuted : {false, true}) {
          CAPTURE(c.B, c.C, c.T, c.H, c.W, channels_last, permuted);
          const Shape shape{c.B, c.C, c.T, c.H, c.W};
          const Shape token_shape{c.B, c.num_tokens(), c.num_features()};
          const Tensor video = random({c.B, c.C + 1, c.T, c.H, c.W}, 1, 8).slice(1, 0, c.C);
          Patchify args{.video = video, .patch = c.patch, .channels_last = channels_last};
          if (permuted) args.token_order = permutation(c.num_tokens());
          const Tensor want = empty(token_shape, DType::kBF16), want_back = empty(shape);
          args.tokens = want;
          reference_kernels().patchify(args, {});
          args.video = want_back;
          reference_kernels().unpatchify(args, {});
          const auto got = same_for_any_threads([&](const Stream& stream) {
            std::vector<Output> out{Output(token_shape, DType::kBF16),
                                    Output(shape, DType::kF32, {0, 3})};
            Patchify there = args, back = args;
            there.video = video;
            there.tokens = out[0];
            tested_kernels().patchify(there, stream);
            back.tokens = out[0];
            back.video = out[1];
            tested_kernels().unpatchify(back, stream);
            return out;
          });
          CHECK(bitwise_equal(got[0], want));
          CHECK(bitwise_equal(got[1], want_back));
        }
      }
    }
  });
}

TEST_CASE("patchify: each way is the other's gradient", "[patchify]") {
  const Case c{2, 3, 2, 4, 6, {1, 2, 2}};
  const Tensor video = random({c.B, c.C, c.T, c.H, c.W}, 1, 1, DType::kF64),
               d_tokens = random({c.B, c.num_tokens(), c.num_features()}, 2, 1, DType::kF64);
  const Tensor tokens = f64_like(d_tokens), d_video = f64_like(video),
               order = permutation(c.num_tokens());
  reference_kernels().unpatchify({.video = d_video, .tokens = d_tokens, .token_order = order}, {});
  const auto loss = [&] {
    reference_kernels().patchify({.video = video, .tokens = tokens, .token_order = order}, {});
    return inner(tokens, d_tokens);
  };
  CHECK(gradient_error(loss, video, d_video) <= 1e-9);
}

TEST_CASE("patchify: bf16 tokens are refused", "[patchify]") {
  const Tensor video = full({1, 1, 1, 2, 2}, 1), tokens = full({1, 1, 4}, 1, DType::kBF16);
  check_refuses_bf16(
      [&] { tested_kernels().patchify({.video = video, .tokens = tokens}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
