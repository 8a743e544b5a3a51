// Linear layers on CUDA: cuBLASLt for bf16, with bias and GELU in the product's epilogue; our plain
// product for f32 (parity: TF32 would not be f32) and for shapes that cuBLASLt has nothing for.
#include "linear/linear_cuda.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw_error(ExitCode::kEnvironment, "[linear] {}: {}", call, cublasLtGetStatusString(status));
}
#define DSV_CUBLAS(call) check((call), #call)

// What cuBLASLt pads and splits with; more did not give other kernels on an H100.
constexpr std::size_t kWorkspaceBytes = 64 << 20;

// A column-major matrix: (rows, columns) with `ld` elements from column to column.
struct Matrix {
  const void* data = nullptr;
  cudaDataType_t type = CUDA_R_16BF;
  std::int64_t rows = 0, columns = 0, ld = 0;
};

// d = op(a) * op(b) + beta * d, then the epilogue. Row-major tensors are given as their transposes.
struct Product {
  Matrix a, b, d;
  bool transpose_a = false, transpose_b = false;
  float beta = 0;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  void* aux = nullptr;  // the value before GELU, bf16
  std::int64_t aux_ld = 0;
};

std::uint32_t alignment_of(const Matrix& m, std::int64_t element) {
  const auto bits =
      reinterpret_cast<std::uintptr_t>(m.data) | static_cast<std::uintptr_t>(m.ld * element);
  for (std::uint32_t bytes = 256; bytes > 1; bytes /= 2) {
    if (bits % bytes == 0) return bytes;
  }
  return 1;
}

std::int64_t size_of(cudaDataType_t type) {
  return type == CUDA_R_16BF ? 2 : 4;
}

// Shapes, strides, alignments, epilogue: what an algorithm is chosen by.
using Key = std::array<std::int64_t, 17>;

template <typename T, cublasStatus_t (*destroy)(T)>
struct Handle {
  T value = nullptr;
  Handle() = default;
  Handle(Handle&& other) noexcept : value(std::exchange(other.value, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(value, other.value);
    return *this;
  }
  ~Handle() {
    if (value != nullptr) destroy(value);
  }
};
using Layout = Handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Desc = Handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Preference = Handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

struct Plan {
  Desc desc;
  Layout a, b, d;
  std::optional<cublasLtMatmulAlgo_t> algo;  // none: cuBLASLt has no kernel for it
};

Layout layout_of(const Matrix& m) {
  Layout layout;
  DSV_CUBLAS(cublasLtMatrixLayoutCreate(&layout.value, m.type, static_cast<std::uint64_t>(m.rows),
                                        static_cast<std::uint64_t>(m.columns), m.ld));
  return layout;
}

template <typename T>
void set(const Desc& desc, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  DSV_CUBLAS(cublasLtMatmulDescSetAttribute(desc.value, attribute, &value, sizeof value));
}
template <typename T>
void set(const Preference& p, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  DSV_CUBLAS(cublasLtMatmulPreferenceSetAttribute(p.value, attribute, &value, sizeof value));
}

bool has_bias(const Product& p) {
  return p.bias != nullptr;
}

}  // namespace

struct LinearPlans {
  cublasLtHandle_t handle = nullptr;
  std::map<Key, Plan> plans;

  LinearPlans() { DSV_CUBLAS(cublasLtCreate(&handle)); }
  ~LinearPlans() { cublasLtDestroy(handle); }
  LinearPlans(const LinearPlans&) = delete;
  LinearPlans& operator=(const LinearPlans&) = delete;
};

namespace {

// The first choice of cuBLASLt's heuristics, never a timed one: the same shapes must run the same
// kernel in every process, or a resumed run would not repeat its bits.
Plan make_plan(const LinearPlans& plans, const Product& p) {
  Plan plan;
  DSV_CUBLAS(cublasLtMatmulDescCreate(&plan.desc.value, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t op_a = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t op_b = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, op_a);
  set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSB, op_b);
  set(plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue);
  if (has_bias(p)) {
    set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_16BF);
    set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  }
  if (p.aux != nullptr) {
    set(plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.aux_ld);
    set(plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, CUDA_R_16BF);
    set(plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux);
  }
  plan.a = layout_of(p.a);
  plan.b = layout_of(p.b);
  plan.d = layout_of(p.d);
  Preference preference;
  DSV_CUBLAS(cublasLtMatmulPreferenceCreate(&preference.value));
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  // Parts of a split product may be added up only in f32 and in a fixed order.
  const std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
  const auto a = alignment_of(p.a, size_of(p.a.type)), b = alignment_of(p.b, size_of(p.b.type));
  const auto d = alignment_of(p.d, size_of(p.d.type));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d);
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      plans.handle, plan.desc.value, plan.a.value, plan.b.value, plan.d.value, plan.d.value,
      preference.value, 1, &found, &count);
  if (status == CUBLAS_STATUS_SUCCESS && count > 0) {
    plan.algo = found.algo;
  } else if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) {
    check(status, "cublasLtMatmulAlgoGetHeuristic");
  }
  return plan;
}

Key key_of(const Product& p) {
  return {p.a.rows,
          p.a.columns,
          p.a.ld,
          p.b.rows,
          p.b.columns,
          p.b.ld,
          p.d.rows,
          p.d.columns,
          p.d.ld,
          p.d.type,
          2 * p.transpose_a + p.transpose_b,
          p.epilogue,
          alignment_of(p.a, 2),
          alignment_of(p.b, 2),
          alignment_of(p.d, size_of(p.d.type)),
          p.aux_ld,
          p.beta != 0};
}

// cuBLASLt takes less aligned operands, too, but with kernels that round the product to bf16 before
// they add the bias, and slowly.
bool is_aligned(const Product& p) {
  return alignment_of(p.a, 2) >= 16 && alignment_of(p.b, 2) >= 16 &&
         alignment_of(p.d, size_of(p.d.type)) >= 16 && (p.aux == nullptr || p.aux_ld % 8 == 0);
}

// False, with nothing done, when cuBLASLt has no kernel for it that rounds once.
bool multiply(const Product& p, const Stream& stream) {
  if (!is_aligned(p)) return false;
  Session& session = session_of(stream);
  if (session.linear == nullptr) session.linear = std::make_shared<LinearPlans>();
  LinearPlans& plans = *session.linear;
  const Key key = key_of(p);
  auto it = plans.plans.find(key);
  if (it == plans.plans.end()) it = plans.plans.emplace(key, make_plan(plans, p)).first;
  const Plan& plan = it->second;
  if (!plan.algo.has_value()) return false;
  if (has_bias(p)) set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  if (p.aux != nullptr) set(plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux);
  const float alpha = 1;
  auto* d = const_cast<void*>(p.d.data);
  void* workspace = session.scratch(static_cast<std::int64_t>(kWorkspaceBytes));
  DSV_CUBLAS(cublasLtMatmul(plans.handle, plan.desc.value, &alpha, p.a.data, plan.a.value, p.b.data,
                            plan.b.value, &p.beta, d, plan.d.value, d, plan.d.value, &*plan.algo,
                            workspace, kWorkspaceBytes, native(stream)));
  return true;
}

// A row-major (rows, columns) tensor as cuBLASLt sees it: its transpose, column by column.
Matrix matrix(const Tensor& t) {
  return {.data = t.raw(),
          .type = t.dtype() == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF,
          .rows = t.dim(1),
          .columns = t.dim(0),
          .ld = t.dim(0) > 1 ? t.stride(0) : std::max<std::int64_t>(1, t.dim(1))};
}

SimtOperand rows_of(const Tensor& t) {
  return {t.raw(), t.dtype(), t.stride(0), 1};
}
SimtOperand columns_of(const Tensor& t) {
  return {t.raw(), t.dtype(), 1, t.stride(0)};
}

void product_forward(const LinearForward& args, const Tensor& y, const Stream& stream) {
  const std::int64_t rows = args.x.dim(0), K = args.x.dim(1), N = args.weight.dim(0);
  if (y.dtype() == DType::kBF16 && K > 0 &&
      multiply({.a = matrix(args.weight),
                .b = matrix(args.x),
                .d = matrix(y),
                .transpose_a = true,
                .epilogue = args.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT,
                .bias = args.bias.raw()},
               stream)) {
    return;
  }
  gemm_simt({.M = rows,
             .N = N,
             .K = K,
             .a = rows_of(args.x),
             .b = rows_of(args.weight),
             .bias = {.data = args.bias.raw(), .dtype = args.bias.dtype()},
             .c = y.raw(),
             .c_type = y.dtype(),
             .c_row = y.stride(0)},
            stream);
}

// The whole of y and pre_activation in one product; false where the epilogue does not fit.
bool gelu_in_epilogue(const LinearForward& args, const Stream& stream) {
  const Tensor& pre = args.pre_activation;
  const bool aligned =
      pre.stride(0) % 8 == 0 && reinterpret_cast<std::uintptr_t>(pre.raw()) % 16 == 0;
  if (args.activation != Activation::kGeluTanh || args.y.dtype() != DType::kBF16 || !aligned ||
      args.x.dim(1) == 0 || args.x.dim(0) < 2) {
    return false;
  }
  return multiply(
      {.a = matrix(args.weight),
       .b = matrix(args.x),
       .d = matrix(args.y),
       .transpose_a = true,
       .epilogue = args.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX,
       .bias = args.bias.raw(),
       .aux = pre.raw(),
       .aux_ld = pre.stride(0)},
      stream);
}

// y = act(pre) row by row where strides leave gaps.
void activate(const LinearForward& args, const Stream& stream) {
  const Tensor &pre = args.pre_activation, &y = args.y;
  if (pre.is_contiguous() && y.is_contiguous()) {
    cuda::activation_forward({.x = pre, .y = y, .kind = args.activation}, stream);
    return;
  }
  for (std::int64_t r = 0; r < y.dim(0); ++r) {
    cuda::activation_forward({.x = pre.select(0, r), .y = y.select(0, r), .kind = args.activation},
                             stream);
  }
}

}  // namespace

void linear_forward(const LinearForward& args, const Stream& stream) {
  require_f32_or_bf16("linear", {&args.x, &args.weight, &args.bias, &args.y, &args.pre_activation});
  const bool activates = args.activation != Activation::kNone;
  DSV_CHECK(!activates || args.pre_activation.defined(),
            "[linear] an activation needs a tensor for the value before it");
  if (args.y.num_elements() == 0) return;
  if (!activates) return product_forward(args, args.y, stream);
  if (gelu_in_epilogue(args, stream)) return;
  product_forward(args, args.pre_activation, stream);
  activate(args, stream);
}

void linear_backward(const LinearBackward& args, const Stream& stream) {
  require_f32_or_bf16("linear", {&args.x, &args.weight, &args.dy, &args.dx});
  require_f32("linear", {&args.dweight, &args.dbias});
  const std::int64_t rows = args.x.dim(0), K = args.x.dim(1), N = args.weight.dim(0);
  const bool lt = args.dy.dtype() == DType::kBF16 && rows > 0 && K > 0 && N > 0;
  if (args.dx && args.dx.num_elements() > 0) {
    const bool done = lt && multiply({.a = matrix(args.weight),
                                      .b = matrix(args.dy),
                                      .d = matrix(args.dx),
                                      .beta = args.accumulate_dx ? 1.0f : 0.0f},
                                     stream);
    if (!done) {
      gemm_simt({.M = rows,
                 .N = K,
                 .K = N,
                 .a = rows_of(args.dy),
                 .b = columns_of(args.weight),
                 .c = args.dx.raw(),
                 .c_type = args.dx.dtype(),
                 .c_row = args.dx.stride(0),
                 .accumulate = args.accumulate_dx},
                stream);
    }
  }
  if (args.dweight && rows > 0 && K > 0) {
    const bool done = lt && multiply({.a = matrix(args.x),
                                      .b = matrix(args.dy),
                                      .d = matrix(args.dweight),
                                      .transpose_b = true,
                                      .beta = 1},
                                     stream);
    if (!done) {
      gemm_simt({.M = N,
                 .N = K,
                 .K = rows,
                 .a = columns_of(args.dy),
                 .b = columns_of(args.x),
                 .c = args.dweight.f32(),
                 .c_row = K,
                 .accumulate = true},
                stream);
    }
  }
  if (args.dbias) add_column_sums(args.dy, args.dbias, stream);
}

}  // namespace dsv::kernels::cuda
