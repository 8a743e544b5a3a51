// cuDNN's fused attention for bf16. Building a plan compiles a kernel, about a second: once per
// shape and session, and what cuDNN cannot do is remembered as well.
#include <nvrtc.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "attention/attention_cuda.h"
#include "cuda/cudnn_attention.h"
#include "dsv/base/check_math.h"
#include "dsv/base/log.h"

namespace dsv::kernels::cuda {

using cudnn::AttentionGraph;
using cudnn::AttentionShape;
using cudnn::Descriptor;
using cudnn::Plan;
using cudnn::Strides;
using enum cudnn::AttentionId;

namespace {

// Before 9.16 cuDNN's backward reads keys past the end unless a mask of lengths hides them.
constexpr std::size_t kMinVersion = 91600;
// Before 9.26 the backward on sm_90 leaves the second half of its last block of 128 keys unmasked
// when Skv is an odd multiple of 64: exp(0 - lse) overflows for rows whose lse is below -88, and dq
// is NaN (github.com/NVIDIA/cudnn-frontend/pull/628).
constexpr std::size_t kVersionWithKeyTail = 92600;

}  // namespace

struct AttentionPlans {
  cudnnHandle_t handle = nullptr;
  std::map<std::pair<AttentionGraph, AttentionShape>, std::optional<Plan>> plans;

  explicit AttentionPlans(cudaStream_t stream) {
    // cuDNN compiles its kernels with NVRTC, which it looks up by name while it runs. Naming it here
    // links it, so that it is found wherever this program is.
    int major = 0, minor = 0;
    nvrtcVersion(&major, &minor);
    DSV_CUDNN(cudnnCreate(&handle));
    log_debug("[attention] cuDNN {}, NVRTC {}.{}", cudnnGetVersion(), major, minor);
    if (cudnnGetVersion() < kMinVersion) {
      log_warn("[attention] cuDNN {} is installed, {} or later is needed: our own kernels take "
               "attention, more slowly",
               cudnnGetVersion(), kMinVersion);
    }
    DSV_CUDNN(cudnnSetStream(handle, stream));
  }
  ~AttentionPlans() {
    plans.clear();
    cudnnDestroy(handle);
  }
  AttentionPlans(const AttentionPlans&) = delete;
  AttentionPlans& operator=(const AttentionPlans&) = delete;
};

namespace {

constexpr std::int64_t kAlignment = 256;  // of the parts of a workspace

AttentionPlans& plans_of(const Stream& stream) {
  Session& session = session_of(stream);
  if (!session.attention) session.attention = std::make_shared<AttentionPlans>(session.stream);
  return *session.attention;
}

// The first engine of cuDNN's list that can be built.
std::optional<Plan> build(cudnnHandle_t handle, AttentionGraph kind, const AttentionShape& shape) {
  std::optional<Plan> plan;
  std::string reason = "no engine";
  const auto attempt = [&](const auto& step) {
    try {
      step();
    } catch (const cudnn::CudnnError& error) {
      reason = error.what();
    }
  };
  attempt([&] {
    const cudnn::Graph graph = attention_graph(kind, shape);
    const Descriptor operations = graph.finalized(handle);
    for (Descriptor& config : engine_configs(operations, CUDNN_HEUR_MODE_A, nullptr)) {
      attempt([&] {
        const bool varies = engine_info(config).has(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
        if (!varies || kind == AttentionGraph::kBackwardAtomic) plan.emplace(std::move(config));
      });
      if (plan) return;
    }
  });
  if (plan) {
    log_debug("[attention] cuDNN, {}, {}: {}, workspace {} bytes", kind, shape, plan->engine(),
              plan->workspace_bytes());
  } else {
    log_warn("[attention] cuDNN has no plan for {}, {} ({}): our own kernel takes it, more slowly",
             kind, shape, reason);
  }
  return plan;
}

// Null: cuDNN has none.
const Plan* plan_for(AttentionPlans& plans, AttentionGraph kind, const AttentionShape& shape) {
  const auto [at, is_new] = plans.plans.try_emplace({kind, shape});
  if (is_new) at->second = build(plans.handle, kind, shape);
  return at->second ? &*at->second : nullptr;
}

bool is_aligned(const Tensor& t) {
  const auto is_pack = [](std::int64_t stride) { return stride > 0 && stride % 8 == 0; };
  return reinterpret_cast<std::uintptr_t>(t.raw()) % 16 == 0 && t.stride(3) == 1 &&
         is_pack(t.stride(2)) && is_pack(t.stride(1)) && (t.dim(0) == 1 || is_pack(t.stride(0)));
}

// bf16, no empty dimension, and what cuDNN's 16-byte copies need.
bool is_supported(std::initializer_list<const Tensor*> tensors) {
  return cudnnGetVersion() >= kMinVersion && std::ranges::all_of(tensors, [](const Tensor* t) {
           return t->dtype() == DType::kBF16 && t->num_elements() > 0 && t->dim(3) % 8 == 0 &&
                  t->dim(3) <= 256 && is_aligned(*t);
         });
}

// The strides of `num_samples` samples of t. That of one sample is never used: its value is made
// the same for all, so that they share a plan.
Strides strides_of(const Tensor& t, std::int64_t num_samples) {
  const std::int64_t sample = num_samples == 1 ? t.dim(1) * t.stride(1) : t.stride(0);
  return {sample, t.stride(1), t.stride(2)};
}

AttentionShape shape_of(const AttentionForward& a) {
  const std::int64_t B = a.q.dim(0);
  return {.B = B,
          .H = a.q.dim(2),
          .Sq = a.q.dim(1),
          .Skv = a.k.dim(1),
          .D = a.q.dim(3),
          .q = strides_of(a.q, B),
          .k = strides_of(a.k, B),
          .v = strides_of(a.v, B),
          .o = strides_of(a.o, B)};
}

// Of `B` samples and `H` heads of the call.
AttentionShape shape_of(const AttentionBackward& a, std::int64_t B, std::int64_t H) {
  return {.B = B,
          .H = H,
          .Sq = a.q.dim(1),
          .Skv = a.k.dim(1),
          .D = a.q.dim(3),
          .q = strides_of(a.q, B),
          .k = strides_of(a.k, B),
          .v = strides_of(a.v, B),
          .o = strides_of(a.o, B),
          .d_o = strides_of(a.d_o, B),
          .dq = strides_of(a.dq, B),
          .dk = strides_of(a.dk, B),
          .dv = strides_of(a.dv, B)};
}

// The backward from sample b and head h on; how many of both is the plan's. `dq_sum` null: none.
void execute_backward(const AttentionPlans& plans, const Plan& plan, const AttentionBackward& a,
                      std::int64_t b, std::int64_t h, void* dq_sum, void* workspace) {
  const auto rows = [&](const Tensor& t) {
    return static_cast<void*>(t.bf16() + b * t.stride(0) + h * t.stride(2));
  };
  const std::int64_t column = (b * a.q.dim(2) + h) * a.q.dim(1);
  float scale = a.scale, one = 1;
  std::vector<cudnn::Argument> arguments{{kQ, rows(a.q)},
                                         {kK, rows(a.k)},
                                         {kV, rows(a.v)},
                                         {kO, rows(a.o)},
                                         {kLse, a.lse.f32() + column},
                                         {kScale, &scale},
                                         {kDO, rows(a.d_o)},
                                         {kDQ, rows(a.dq)},
                                         {kDK, rows(a.dk)},
                                         {kDV, rows(a.dv)},
                                         {kDelta, a.delta.f32() + column},
                                         {kOne, &one}};
  if (dq_sum != nullptr) arguments.push_back({kDQSum, dq_sum});
  plan.execute(plans.handle, arguments, workspace);
}

bool backward_atomic(const AttentionBackward& a, const Stream& stream) {
  AttentionPlans& plans = plans_of(stream);
  const Plan* plan =
      plan_for(plans, AttentionGraph::kBackwardAtomic, shape_of(a, a.q.dim(0), a.q.dim(2)));
  if (plan == nullptr) return false;
  const std::int64_t sum_bytes = round_up(4 * a.q.num_elements(), kAlignment);
  std::uint8_t* const room = scratch<std::uint8_t>(stream, sum_bytes + plan->workspace_bytes());
  execute_backward(plans, *plan, a, 0, 0, room, room + sum_bytes);
  return true;
}

// As many heads at once as there is room for, since few heads leave a device idle; the bits are the
// same for any number.
bool backward_deterministic(const AttentionBackward& a, const Stream& stream,
                            const DeterministicRoom& room) {
  const std::int64_t B = a.q.dim(0), H = a.q.dim(2);
  const std::int64_t head_bytes = ds_bytes(shape_of(a, 1, 1));
  if (head_bytes > room.most_for_one_head) return false;
  const std::int64_t fit = std::max<std::int64_t>(1, (room.bytes - kAlignment) / head_bytes);
  const bool in_one_call = fit >= B * H;
  const std::int64_t samples = in_one_call ? B : 1;
  const std::int64_t heads = in_one_call ? H : ceil_div(H, ceil_div(H, fit));
  const std::int64_t last_heads = H - (ceil_div(H, heads) - 1) * heads;

  AttentionPlans& plans = plans_of(stream);
  const auto plan_of = [&](std::int64_t num_heads) {
    return plan_for(plans, AttentionGraph::kBackwardDeterministic, shape_of(a, samples, num_heads));
  };
  const Plan* plan = plan_of(heads);
  const Plan* last = plan_of(last_heads);
  if (plan == nullptr || last == nullptr) return false;
  const std::int64_t bytes = std::max(plan->workspace_bytes(), last->workspace_bytes());
  std::uint8_t* const workspace = scratch<std::uint8_t>(stream, bytes);
  for (std::int64_t b = 0; b < B; b += samples) {
    for (std::int64_t h = 0; h < H; h += heads) {
      execute_backward(plans, h + heads <= H ? *plan : *last, a, b, h, nullptr, workspace);
    }
  }
  return true;
}

}  // namespace

bool attention_forward_cudnn(const AttentionForward& args, const Stream& stream) {
  AttentionPlans& plans = plans_of(stream);
  if (args.key_bias || !is_supported({&args.q, &args.k, &args.v, &args.o})) return false;
  const Plan* plan = plan_for(plans, AttentionGraph::kForward, shape_of(args));
  if (plan == nullptr) return false;
  float scale = args.scale;
  const std::array<cudnn::Argument, 6> arguments{{{kQ, args.q.raw()},
                                                  {kK, args.k.raw()},
                                                  {kV, args.v.raw()},
                                                  {kO, args.o.raw()},
                                                  {kLse, args.lse.f32()},
                                                  {kScale, &scale}}};
  plan->execute(plans.handle, arguments, scratch<std::uint8_t>(stream, plan->workspace_bytes()));
  return true;
}

bool attention_backward_cudnn(const AttentionBackward& args, const Stream& stream,
                              const DeterministicRoom& room) {
  if (args.key_bias || !is_supported({&args.q, &args.k, &args.v, &args.o, &args.d_o, &args.dq,
                                      &args.dk, &args.dv})) {
    return false;
  }
  if (args.k.dim(1) % 128 == 64 && cudnnGetVersion() < kVersionWithKeyTail) return false;
  // dk and dv of a single query come out NaN for an lse below -88, up to 9.26 at least
  // (github.com/NVIDIA/cudnn-frontend/issues/1072).
  if (args.q.dim(1) == 1) return false;
  if (!session_of(stream).options.deterministic) return backward_atomic(args, stream);
  return backward_deterministic(args, stream, room);
}

}  // namespace dsv::kernels::cuda
