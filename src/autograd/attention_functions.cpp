#include <cmath>

#include "dsv/autograd/functions.h"
#include "dsv/base/check_math.h"

namespace dsv::autograd {
namespace {

// Columns [begin, begin + width) of [B, S, n] as (B * S, width), and as heads (B, S, H, D).
Tensor columns(const Tensor& x, std::int64_t begin, std::int64_t width) {
  return x.slice(2, begin, begin + width);
}
Tensor flat_columns(const Tensor& x, std::int64_t begin, std::int64_t width) {
  return x.reshape({x.dim(0) * x.dim(1), x.dim(2)}).slice(1, begin, begin + width);
}

struct Projected {
  Tensor value;  // (B, S, C) after norm and rotation, or the raw columns of the source
  Tensor rstd;   // of the norm; undefined without one
};

// RMSNorm over the full width, then rotation, into a new tensor; the raw columns when neither
// applies.
Projected norm_and_rotate(const Context& ctx, const Tensor& source, std::int64_t begin,
                          std::int64_t width, const Param& norm, const AttentionOptions& options) {
  const bool rotates = options.rope.cos.defined();
  if (!norm.defined() && !rotates) return {columns(source, begin, width), Tensor()};
  Projected out;
  out.value = ctx.arena.empty({source.dim(0), source.dim(1), width}, source.dtype());
  const Tensor heads = out.value.as_heads(options.num_heads);
  if (norm.defined()) {
    out.rstd = ctx.arena.empty({source.dim(0) * source.dim(1)});
    ctx.kernels.rms_norm_forward({.x = flat_columns(source, begin, width),
                                  .weight = norm.master,
                                  .y = flat_columns(out.value, 0, width),
                                  .rstd = out.rstd,
                                  .eps = options.norm_eps},
                                 ctx.stream);
  }
  if (rotates) {
    const Tensor from =
        norm.defined() ? heads : columns(source, begin, width).as_heads(options.num_heads);
    ctx.kernels.rope({.x = from, .y = heads, .cos = options.rope.cos, .sin = options.rope.sin},
                     ctx.stream);
  }
  return out;
}

// The gradient of norm_and_rotate, in place on dsource's columns.
void norm_and_rotate_backward(const Context& ctx, const Tensor& source, const Tensor& dsource,
                              std::int64_t begin, std::int64_t width, const Param& norm,
                              const Tensor& rstd, const AttentionOptions& options) {
  if (options.rope.cos.defined()) {
    const Tensor heads = columns(dsource, begin, width).as_heads(options.num_heads);
    ctx.kernels.rope(
        {.x = heads, .y = heads, .cos = options.rope.cos, .sin = options.rope.sin, .inverse = true},
        ctx.stream);
  }
  if (norm.defined()) {
    const Tensor d = flat_columns(dsource, begin, width);
    ctx.kernels.rms_norm_backward({.x = flat_columns(source, begin, width),
                                   .weight = norm.master,
                                   .rstd = rstd,
                                   .dy = d,
                                   .dx = d,
                                   .dweight = norm.grad},
                                  ctx.stream);
  }
}

void check_shapes(const Variable& q_source, const Variable& kv_source, bool is_self,
                  const AttentionOptions& options) {
  const Shape& q = q_source.shape();
  const Shape& kv = kv_source.shape();
  DSV_CHECK(q.num_dims() == 3 && kv.num_dims() == 3 && q[0] == kv[0],
            "[attention] expected sources [B, S, n] of one batch, got {} and {}", q, kv);
  const std::int64_t width = is_self ? div_exact(q[2], 3) : q[2];
  DSV_CHECK(kv[2] == (is_self ? 3 : 2) * width, "[attention] k and v need {} columns, got {}",
            (is_self ? 3 : 2) * width, kv[2]);
  DSV_CHECK(width % options.num_heads == 0, "[attention] width {} is no multiple of {} heads",
            width, options.num_heads);
  if (options.rope.cos.defined()) {
    DSV_CHECK(is_self && options.rope.cos.shape() == Shape({q[1], width / options.num_heads / 2}),
              "[attention] rotation table {} does not fit q {} with {} heads",
              options.rope.cos.shape(), q, options.num_heads);
  }
  DSV_CHECK(!options.select || (is_self && !options.key_bias.defined()),
            "[attention] keys are selected in self-attention without a key bias only");
  DSV_CHECK(!options.key_bias.defined() || options.key_bias.shape() == Shape({kv[0], kv[1]}),
            "[attention] key bias {} does not fit keys {}", options.key_bias.shape(), kv);
}

// The selection of the forward pass, kept over a recompute: estimating it again with weights or
// statistics that have moved could choose other keys.
KeySelection choose_keys(const Context& ctx, const AttentionOptions& options, const Tensor& q,
                         const Tensor& k) {
  if (!options.select) return {};
  KeySelection selected;
  if (ctx.saved != nullptr && ctx.pass == Pass::kRecompute) {
    selected.bits = ctx.saved->take();
    selected.block_start = ctx.saved->take();
    selected.group_start = ctx.saved->take();
    return selected;
  }
  selected = options.select(ctx, q, k);
  if (ctx.saved != nullptr) {
    ctx.saved->put(selected.bits);
    ctx.saved->put(selected.block_start);
    ctx.saved->put(selected.group_start);
  }
  return selected;
}

// Dense blocks run the dense kernel, never the sparse one with everything selected.
void attend(const Context& ctx, const kernels::AttentionForward& args, const KeySelection& selected,
            bool is_self) {
  if (selected.dense()) {
    const TraceScope trace(ctx.tracer, is_self ? "attention_forward" : "cross_attention_forward");
    ctx.kernels.attention_forward(args, ctx.stream);
    return;
  }
  const TraceScope trace(ctx.tracer, "sparse_attention_forward");
  ctx.kernels.sparse_attention_forward({.q = args.q,
                                        .k = args.k,
                                        .v = args.v,
                                        .bits = selected.bits,
                                        .block_start = selected.block_start,
                                        .group_start = selected.group_start,
                                        .o = args.o,
                                        .lse = args.lse,
                                        .scale = args.scale},
                                       ctx.stream);
}

void attend_backward(const Context& ctx, const kernels::AttentionBackward& args,
                     const KeySelection& selected, bool is_self) {
  if (selected.dense()) {
    const TraceScope trace(ctx.tracer, is_self ? "attention_backward" : "cross_attention_backward");
    ctx.kernels.attention_backward(args, ctx.stream);
    return;
  }
  const Shape& bits = selected.bits.shape();  // (B, H, G, W)
  const std::int64_t groups = bits[2];
  const std::int64_t blocks =
      selected.block_start.defined() ? selected.block_start.dim(0) - 1 : args.k.dim(1);
  const Tensor by_block =
      ctx.arena.empty({bits[0], bits[1], blocks, ceil_div(groups, 32)}, DType::kU32);
  {
    const TraceScope trace(ctx.tracer, "selection_lists");
    ctx.kernels.bit_transpose(
        {.in = selected.bits.reshape({bits[0] * bits[1], groups, bits[3]}),
         .out = by_block.reshape({bits[0] * bits[1], blocks, by_block.dim(3)})},
        ctx.stream);
  }
  const TraceScope trace(ctx.tracer, "sparse_attention_backward");
  ctx.kernels.sparse_attention_backward({.q = args.q,
                                         .k = args.k,
                                         .v = args.v,
                                         .bits = selected.bits,
                                         .by_block = by_block,
                                         .block_start = selected.block_start,
                                         .group_start = selected.group_start,
                                         .o = args.o,
                                         .lse = args.lse,
                                         .d_o = args.d_o,
                                         .dq = args.dq,
                                         .dk = args.dk,
                                         .dv = args.dv,
                                         .delta = args.delta,
                                         .scale = args.scale},
                                        ctx.stream);
}

}  // namespace

Variable attention(const Context& ctx, const Variable& q_source, const Variable& kv_source,
                   const AttentionOptions& given) {
  AttentionOptions options = given;
  options.select = {};  // what the tape keeps must not hold what the choice was made from
  const bool is_self = q_source.same_as(kv_source);
  check_shapes(q_source, kv_source, is_self, given);
  const std::int64_t width = is_self ? q_source.dim(2) / 3 : q_source.dim(2);
  const std::int64_t k_begin = is_self ? width : 0, v_begin = k_begin + width;
  const std::int64_t batch = q_source.dim(0), num_queries = q_source.dim(1), H = options.num_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width / H));

  const Projected q = norm_and_rotate(ctx, q_source.value(), 0, width, options.norm_q, options);
  const Projected k =
      norm_and_rotate(ctx, kv_source.value(), k_begin, width, options.norm_k, options);
  const Tensor v = columns(kv_source.value(), v_begin, width);

  const KeySelection selected = choose_keys(ctx, given, q.value, k.value);
  const bool keeps = options.keep && ctx.saved != nullptr && ctx.saved->keeps_optional();
  Tensor o, lse;
  if (keeps && ctx.pass == Pass::kRecompute) {
    o = ctx.saved->take();
    lse = ctx.saved->take();
  } else {
    o = ctx.arena.empty({batch, num_queries, width}, q_source.value().dtype());
    lse = ctx.arena.empty({batch, H, num_queries});
    attend(ctx,
           {.q = q.value.as_heads(H),
            .k = k.value.as_heads(H),
            .v = v.as_heads(H),
            .key_bias = options.key_bias,
            .o = o.as_heads(H),
            .lse = lse,
            .scale = scale},
           selected, is_self);
    if (keeps) {
      ctx.saved->put(o);
      ctx.saved->put(lse);
    }
  }
  const Variable out(o, ctx.tape != nullptr);
  if (ctx.tape == nullptr) return out;

  ctx.tape->record([=](const Context& c) {
    const Tensor d_o = out.take_grad();
    if (!d_o.defined()) return;
    const Tensor dq_all = c.arena.like(q_source.value());
    const Tensor dkv_all = is_self ? dq_all : c.arena.like(kv_source.value());
    attend_backward(c,
                    {.q = q.value.as_heads(H),
                     .k = k.value.as_heads(H),
                     .v = v.as_heads(H),
                     .key_bias = options.key_bias,
                     .o = o.as_heads(H),
                     .lse = lse,
                     .d_o = d_o.as_heads(H),
                     .dq = columns(dq_all, 0, width).as_heads(H),
                     .dk = columns(dkv_all, k_begin, width).as_heads(H),
                     .dv = columns(dkv_all, v_begin, width).as_heads(H),
                     .delta = c.arena.like(lse),
                     .scale = scale},
                    selected, is_self);
    norm_and_rotate_backward(c, q_source.value(), dq_all, 0, width, options.norm_q, q.rstd,
                             options);
    norm_and_rotate_backward(c, kv_source.value(), dkv_all, k_begin, width, options.norm_k, k.rstd,
                             options);
    q_source.add_grad(c, dq_all);
    if (!is_self) kv_source.add_grad(c, dkv_all);
  });
  return out;
}

}  // namespace dsv::autograd
