#include "dsv/sparsity/measure_costs.h"

#include <algorithm>
#include <cmath>

#include "dsv/base/check_math.h"
#include "dsv/base/philox.h"
#include "dsv/tensor/cuda_device.h"
#include "dsv/tensor/transfer.h"

namespace dsv::sparsity {
namespace {

constexpr double kDensities[] = {0.05, 0.1, 0.2, 0.4};
constexpr std::uint64_t kSeed = 20;

Tensor random_tensor(const autograd::Context& ctx, const Shape& shape, std::uint64_t id) {
  const Tensor f32 = ctx.arena.empty(shape);
  ctx.kernels.random_fill(
      {.y = f32, .key = {.seed = kSeed, .purpose = RngPurpose::kTest, .sample = id}}, ctx.stream);
  if (ctx.compute_dtype == DType::kF32) return f32;
  const Tensor out = ctx.arena.empty(shape, ctx.compute_dtype);
  ctx.kernels.cast({.x = f32, .y = out}, ctx.stream);
  return out;
}

template <typename Fn>
double median_seconds(const autograd::Context& ctx, int repeat, const Fn& fn) {
  std::vector<double> seconds;
  StreamTimer timer(ctx.stream);
  for (int i = -1; i < repeat; ++i) {
    timer.start();
    fn();
    const double took = timer.stop();
    if (i >= 0) seconds.push_back(took);
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeat / 2, seconds.end());
  return seconds[static_cast<std::size_t>(repeat / 2)];
}

struct Operands {
  Tensor q, k, v, o, d_o, dq, dk, dv, lse, delta;
  float scale = 1;
};

Operands make_operands(const autograd::Context& ctx, const AttentionShape& shape,
                       std::int64_t tokens) {
  const Shape heads{1, tokens, shape.num_heads, shape.head_dim};
  Operands t;
  std::uint64_t id = 0;
  for (Tensor* x : {&t.q, &t.k, &t.v, &t.d_o}) *x = random_tensor(ctx, heads, id++);
  for (Tensor* x : {&t.o, &t.dq, &t.dk, &t.dv}) *x = ctx.arena.empty(heads, ctx.compute_dtype);
  for (Tensor* x : {&t.lse, &t.delta}) *x = ctx.arena.empty({1, shape.num_heads, tokens});
  t.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  return t;
}

void run_dense(const autograd::Context& ctx, const Operands& t) {
  ctx.kernels.attention_forward(
      {.q = t.q, .k = t.k, .v = t.v, .o = t.o, .lse = t.lse, .scale = t.scale}, ctx.stream);
  ctx.kernels.attention_backward({.q = t.q,
                                  .k = t.k,
                                  .v = t.v,
                                  .o = t.o,
                                  .lse = t.lse,
                                  .d_o = t.d_o,
                                  .dq = t.dq,
                                  .dk = t.dk,
                                  .dv = t.dv,
                                  .delta = t.delta,
                                  .scale = t.scale},
                                 ctx.stream);
}

void run_sparse(const autograd::Context& ctx, const Operands& t, const SequenceLayout& layout,
                const Tensor& bits, const Tensor& by_block) {
  ctx.kernels.sparse_attention_forward({.q = t.q,
                                        .k = t.k,
                                        .v = t.v,
                                        .bits = bits,
                                        .block_start = layout.block_start,
                                        .group_start = layout.group_start,
                                        .o = t.o,
                                        .lse = t.lse,
                                        .scale = t.scale},
                                       ctx.stream);
  ctx.kernels.sparse_attention_backward({.q = t.q,
                                         .k = t.k,
                                         .v = t.v,
                                         .bits = bits,
                                         .by_block = by_block,
                                         .block_start = layout.block_start,
                                         .group_start = layout.group_start,
                                         .o = t.o,
                                         .lse = t.lse,
                                         .d_o = t.d_o,
                                         .dq = t.dq,
                                         .dk = t.dk,
                                         .dv = t.dv,
                                         .delta = t.delta,
                                         .scale = t.scale},
                                        ctx.stream);
}

void transpose(const autograd::Context& ctx, const Tensor& bits, const Tensor& by_block) {
  const Shape& b = bits.shape();
  ctx.kernels.bit_transpose({.in = bits.reshape({b[0] * b[1], b[2], b[3]}),
                             .out = by_block.reshape({b[0] * b[1], by_block.dim(2), by_block.dim(3)})},
                            ctx.stream);
}

// Projection, selection, and lists, at a tenth of the keys.
double measure_estimate(const autograd::Context& ctx, const AttentionConfig& attention,
                        const SparsityConfig& sparsity, const AttentionShape& shape,
                        const SequenceLayout& layout, const Operands& t, const Tensor& by_block,
                        int repeat) {
  const std::int64_t H = shape.num_heads, S = layout.num_tokens(), G = layout.num_groups();
  autograd::ParamStore store;
  AttentionShape one = shape;
  one.num_layers = 1;
  Predictor predictor(sparsity, one);
  predictor.declare(store);
  store.allocate(ctx, {});
  store.initialize(ctx, kSeed);
  predictor.bind(store);
  std::vector<Extent3> tokens;
  for (std::int64_t i = 0; i < S; ++i) tokens.push_back(layout.order.coordinates(i));
  const LowRankRope rope = predictor.make_rope(ctx, tokens);
  const Tensor flat_q = t.q.reshape({1, S, shape.width()}), flat_k = t.k.reshape({1, S, shape.width()});
  const Tensor ones = ctx.arena.empty({H}), mass = ctx.arena.empty({H});
  ctx.kernels.fill({.y = ones, .value = 1}, ctx.stream);
  ctx.kernels.fill({.y = mass, .value = 2}, ctx.stream);
  const Tensor keys = upload(ctx, std::vector<std::int32_t>(static_cast<std::size_t>(H),
                                                            static_cast<std::int32_t>(S / 10)));
  const Tensor bits = ctx.arena.empty({1, H, G, layout.num_words()}, DType::kU32);
  const Tensor num_keys = ctx.arena.empty({1, H, G}, DType::kI32), covered = ctx.arena.empty({1, H, G});
  return median_seconds(ctx, repeat, [&] {
    const Predictor::LowRank low =
        predictor.project(ctx, 0, {.hidden = flat_q, .q = flat_q, .k = flat_k}, rope);
    ctx.kernels.select_blocks({.q_lr = low.q,
                               .k_lr = low.k,
                               .block_start = layout.block_start,
                               .group_start = layout.group_start,
                               .slope = ones,
                               .mass = mass,
                               .min_keys = keys,
                               .max_keys = keys,
                               .bits = bits,
                               .num_keys = num_keys,
                               .covered = covered,
                               .scale = 1 / std::sqrt(static_cast<float>(sparsity.predictor_rank)),
                               .unit = attention.granularity == 64 ? 4 : 1,
                               .proxy = sparsity.predictor_proxy},
                              ctx.stream);
    transpose(ctx, bits, by_block);
  });
}

}  // namespace

costs::AttentionCosts cost_frame(const AttentionConfig& attention, const AttentionShape& shape,
                                 const std::string& machine) {
  return {.num_heads = shape.num_heads,
          .head_dim = shape.head_dim,
          .granularity = attention.granularity,
          .group_cubes = attention.group_cubes,
          .machine = machine};
}

Tensor random_selection(const autograd::Context& ctx, const SequenceLayout& layout,
                        std::int64_t num_heads, double density, std::uint64_t seed) {
  const std::int64_t words = layout.num_words(), units = static_cast<std::int64_t>(layout.units.size()) - 1;
  const std::int64_t blocks_each = div_exact(layout.num_blocks(), units);
  std::vector<std::uint32_t> bits(static_cast<std::size_t>(num_heads * layout.num_groups() * words));
  const auto threshold = static_cast<std::uint32_t>(std::min(1.0, density) * 4294967295.0);
  for (std::int64_t row = 0; row < num_heads * layout.num_groups(); ++row) {
    const PhiloxStream stream({.seed = seed, .purpose = RngPurpose::kTest, .sample = static_cast<std::uint64_t>(row)});
    const auto g = static_cast<std::size_t>(row % layout.num_groups());
    for (std::int64_t u = 0; u < units; ++u) {
      const auto at = static_cast<std::size_t>(u);
      const bool own = layout.units[at] < layout.groups[g + 1] && layout.units[at + 1] > layout.groups[g];
      const std::uint32_t draw = stream.block(static_cast<std::uint64_t>(u / 4))[static_cast<std::size_t>(u % 4)];
      if (!own && draw > threshold) continue;
      for (std::int64_t b = u * blocks_each; b < (u + 1) * blocks_each; ++b) {
        bits[static_cast<std::size_t>(row * words + b / 32)] |= std::uint32_t{1} << (b % 32);
      }
    }
  }
  const Shape shape{1, num_heads, layout.num_groups(), words};
  const Tensor device = ctx.arena.empty(shape, DType::kU32);
  transfer(Tensor(bits.data(), DType::kU32, shape), device, ctx.stream);
  return device;
}

costs::AttentionPoint measure_attention(const autograd::Context& ctx,
                                        const AttentionConfig& attention,
                                        const SparsityConfig& sparsity,
                                        const AttentionShape& shape, const Extent3& grid,
                                        int repeat) {
  const SequenceLayout layout = make_layout(ctx, attention, grid);
  const Operands t = make_operands(ctx, shape, layout.num_tokens());
  costs::AttentionPoint point{.tokens = layout.num_tokens()};
  point.dense = median_seconds(ctx, repeat, [&] { run_dense(ctx, t); });
  const Tensor by_block = ctx.arena.empty(
      {1, shape.num_heads, layout.num_blocks(), ceil_div(layout.num_groups(), 32)}, DType::kU32);
  for (const double density : kDensities) {
    const Tensor bits = random_selection(ctx, layout, shape.num_heads, density, kSeed);
    transpose(ctx, bits, by_block);
    const double seconds =
        median_seconds(ctx, repeat, [&] { run_sparse(ctx, t, layout, bits, by_block); });
    point.sparse.push_back({.density = density, .seconds = seconds});
  }
  point.estimate = measure_estimate(ctx, attention, sparsity, shape, layout, t, by_block, repeat);
  return point;
}

}  // namespace dsv::sparsity
