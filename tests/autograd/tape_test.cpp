#include "dsv/autograd/tape.h"

#include "dsv/autograd/functions.h"
#include "support/catch.h"
#include "support/engine.h"

using namespace dsv;
using namespace dsv::autograd;
using dsv::testing::Engine;
using dsv::testing::to_vector;

namespace {

// A little model with every kind of edge: shared inputs, parameters, attention that can be kept.
struct Model {
  ParamStore store;
  explicit Model(const Context& ctx) {
    store.add_unit("u", {{.name = "qkv.q", .shape = {8, 8}},
                         {.name = "qkv.k", .shape = {8, 8}},
                         {.name = "qkv.v", .shape = {8, 8}},
                         {.name = "norm", .shape = {8}, .init = Init::kOnes, .decay = false},
                         {.name = "row", .shape = {3, 8}, .init = Init::kNormal, .decay = false}});
    store.allocate(ctx, {.grad = true});
    store.initialize(ctx, 3);
  }
  Variable block(const Context& ctx, const Variable& x, const Variable& mod_in,
                 int* forwards) const {
    ctx.side_effect([&] { ++*forwards; });
    const Variable mod = broadcast_add(ctx, mod_in, store.get("row"));
    const Variable h =
        layer_norm(ctx, x, {}, {}, {.table = mod, .shift_idx = 0, .scale_idx = 1}, 1e-6f);
    const Variable qkv = linear(ctx, h, store.fused({"qkv.q", "qkv.k", "qkv.v"}), {});
    const Variable o = attention(
        ctx, qkv, qkv,
        {.num_heads = 2, .norm_q = store.get("norm"), .norm_k = store.get("norm"), .keep = true});
    return gated_residual(ctx, x, o, mod, 2);
  }
};

struct Result {
  std::vector<float> y, dx, dmod, dparams;
  int forwards = 0;
};

enum class Mode { kRecorded, kBlock, kKeepAttention };

Result run(Mode mode) {
  Engine engine;
  Tape tape;
  const Context ctx = engine.context(&tape);
  const Model model(ctx);
  const Variable x(dsv::testing::normal(engine, {2, 5, 8}, 1), true);
  const Variable mod(dsv::testing::normal(engine, {2, 3, 8}, 2), true);
  Result result;
  Variable y = x;
  for (int layer = 0; layer < 3; ++layer) {
    if (mode == Mode::kRecorded) {
      y = model.block(ctx, y, mod, &result.forwards);
    } else {
      y = checkpoint(
          ctx, {y, mod},
          [&](const Context& c, const std::vector<Variable>& in) {
            return model.block(c, in[0], in[1], &result.forwards);
          },
          mode == Mode::kKeepAttention);
    }
  }
  result.y = to_vector(y.value());
  y.add_grad(ctx, dsv::testing::normal(engine, y.shape(), 3));
  tape.backward(ctx);
  result.dx = to_vector(x.grad());
  result.dmod = to_vector(mod.grad());
  result.dparams = to_vector(model.store.units()[0].grad);
  return result;
}

}  // namespace

TEST_CASE("checkpoint: values and gradients are bitwise those of the recorded region", "[tape]") {
  const Result recorded = run(Mode::kRecorded);
  for (const Mode mode : {Mode::kBlock, Mode::kKeepAttention}) {
    const Result again = run(mode);
    CHECK(again.y == recorded.y);
    CHECK(again.dx == recorded.dx);
    CHECK(again.dmod == recorded.dmod);
    CHECK(again.dparams == recorded.dparams);
    CHECK(again.forwards == 3);  // side effects run once a micro-batch, never in a recompute
  }
}

TEST_CASE("checkpoint: keep_attention does not run attention again", "[tape]") {
  static int calls = 0;
  kernels::KernelTable counting = kernels::reference_kernels();
  counting.attention_forward = [](const kernels::AttentionForward& args, const Stream& stream) {
    ++calls;
    kernels::reference_kernels().attention_forward(args, stream);
  };
  for (const bool keep : {false, true}) {
    calls = 0;
    Engine engine(counting);
    Tape tape;
    const Context ctx = engine.context(&tape);
    const Model model(ctx);
    int forwards = 0;
    const Variable x(dsv::testing::normal(engine, {1, 4, 8}, 1), true);
    const Variable mod(dsv::testing::normal(engine, {1, 3, 8}, 2), true);
    const Variable y = checkpoint(
        ctx, {x, mod},
        [&](const Context& c, const std::vector<Variable>& in) {
          return model.block(c, in[0], in[1], &forwards);
        },
        keep);
    y.add_grad(ctx, dsv::testing::normal(engine, y.shape(), 3));
    tape.backward(ctx);
    CHECK(calls == (keep ? 1 : 2));
  }
}

TEST_CASE("tape: releases everything, and a repeated step allocates nothing", "[tape]") {
  Engine engine;
  Tape tape;
  const Context ctx = engine.context(&tape);
  const Model model(ctx);
  const Tensor input = dsv::testing::normal(engine, {2, 5, 8}, 1);
  const Tensor mod_in = dsv::testing::normal(engine, {2, 3, 8}, 2);
  const Tensor dy = dsv::testing::normal(engine, {2, 5, 8}, 3);
  const auto step = [&] {
    int forwards = 0;
    const Variable y = model.block(ctx, Variable(input, true), Variable(mod_in, true), &forwards);
    const Tensor seed = ctx.arena.like(dy);
    ctx.kernels.axpby({.x = dy, .y = seed, .a = 1, .b = 0}, ctx.stream);
    y.add_grad(ctx, seed);
    tape.backward(ctx);
  };
  step();
  const ArenaStats first = engine.arena.stats();
  for (int i = 0; i < 3; ++i) step();
  const ArenaStats last = engine.arena.stats();
  CHECK(tape.size() == 0);
  CHECK(last.in_use_bytes == first.in_use_bytes);
  CHECK(last.num_device_allocations == first.num_device_allocations);
}

TEST_CASE("params: fused views need neighbours, unknown names are named", "[params]") {
  Engine engine;
  const Context ctx = engine.context();
  const Model model(ctx);
  CHECK(model.store.fused({"qkv.q", "qkv.k"}).master.shape() == Shape{16, 8});
  CHECK_THROWS_WITH(model.store.fused({"qkv.q", "qkv.v"}), Contains("does not follow"));
  CHECK_THROWS_WITH(model.store.get("nope"), Contains("'nope'"));
  ParamStore twice;
  twice.add_unit("a", {{.name = "w", .shape = {1}}});
  CHECK_THROWS_WITH(twice.add_unit("b", {{.name = "w", .shape = {1}}}), Contains("declared twice"));
}

TEST_CASE("params: initial values depend on the seed and the name alone", "[params]") {
  Engine engine;
  const Context ctx = engine.context();
  const auto values = [&](bool extra, std::uint64_t seed) {
    ParamStore store;
    if (extra) store.add_unit("first", {{.name = "other", .shape = {3, 3}}});
    store.add_unit("u", {{.name = "w", .shape = {4, 6}}});
    store.allocate(ctx, {});
    store.initialize(ctx, seed);
    return to_vector(store.get("w").master);
  };
  CHECK(values(false, 1) == values(true, 1));
  CHECK(values(false, 1) != values(false, 2));
}

TEST_CASE("params: swapping in the EMA and back changes no bit", "[params]") {
  Engine engine;
  const Context ctx = engine.context();
  ParamStore store;
  store.add_unit("u", {{.name = "w", .shape = {4, 6}}});
  store.allocate(ctx, {.ema = true});
  store.initialize(ctx, 1);
  const Tensor w = store.get("w").master;
  ctx.kernels.fill({.y = store.units()[0].ema, .value = 2}, ctx.stream);
  const auto before = to_vector(w);
  store.swap_ema(ctx);
  CHECK(w.f32()[5] == 2);
  store.swap_ema(ctx);
  CHECK(to_vector(w) == before);
}
