#include "cuda/cudnn_graph.h"

#include <algorithm>
#include <utility>

namespace dsv::kernels::cuda::cudnn {

void check(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 1024> reason{};
  cudnnGetLastErrorString(reason.data(), reason.size());
  throw CudnnError(ExitCode::kEnvironment,
                   format("[cudnn] {}: {} ({})", call, cudnnGetErrorString(status),
                          std::string_view(reason.data())));
}

Descriptor::Descriptor(cudnnBackendDescriptorType_t type) {
  DSV_CUDNN(cudnnBackendCreateDescriptor(type, &value_));
}
Descriptor::Descriptor(Descriptor&& other) noexcept
    : value_(std::exchange(other.value_, nullptr)) {}
Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(value_, other.value_);
  return *this;
}
Descriptor::~Descriptor() {
  if (value_ != nullptr) cudnnBackendDestroyDescriptor(value_);
}

void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                     std::int64_t count, const void* elements) {
  DSV_CUDNN(cudnnBackendSetAttribute(value_, name, type, count, elements));
}
void Descriptor::set(cudnnBackendAttributeName_t name, std::int64_t value) {
  set(name, CUDNN_TYPE_INT64, 1, &value);
}
void Descriptor::set(cudnnBackendAttributeName_t name, bool value) {
  set(name, CUDNN_TYPE_BOOLEAN, 1, &value);
}
void Descriptor::set(cudnnBackendAttributeName_t name, float value) {
  set(name, CUDNN_TYPE_FLOAT, 1, &value);
}
void Descriptor::set(cudnnBackendAttributeName_t name, cudnnDataType_t value) {
  set(name, CUDNN_TYPE_DATA_TYPE, 1, &value);
}
void Descriptor::set(cudnnBackendAttributeName_t name, std::span<const std::int64_t> values) {
  set(name, CUDNN_TYPE_INT64, static_cast<std::int64_t>(values.size()), values.data());
}
void Descriptor::set(cudnnBackendAttributeName_t name, const Descriptor& value) {
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.value_);
}

std::int64_t Descriptor::read(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                              std::int64_t capacity, void* elements) const {
  std::int64_t count = 0;
  DSV_CUDNN(cudnnBackendGetAttribute(value_, name, type, capacity, &count, elements));
  return count;
}

void Descriptor::finalize() {
  DSV_CUDNN(cudnnBackendFinalize(value_));
}

Dims contiguous_strides(const Dims& dims) {
  return {dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1};
}

void Graph::add(Id id, cudnnDataType_t dtype, const Dims& dims, const Dims& strides, bool is_inner,
                bool in_host_memory) {
  Descriptor t(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  t.set(CUDNN_ATTR_TENSOR_DATA_TYPE, dtype);
  t.set(CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
  t.set(CUDNN_ATTR_TENSOR_STRIDES, strides);
  t.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{dtype == CUDNN_DATA_FLOAT ? 4 : 16});
  if (is_inner) t.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
  if (in_host_memory) t.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
  t.finalize();
  DSV_CHECK(tensors_.emplace(id, std::move(t)).second, "[cudnn] two tensors have id {}", id);
}

void Graph::tensor(Id id, cudnnDataType_t dtype, const Dims& dims, const Dims& strides) {
  add(id, dtype, dims, strides, false, false);
}
void Graph::scalar(Id id) {
  add(id, CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, false, true);
}
Id Graph::inner(const Dims& dims, cudnnDataType_t dtype) {
  return inner(dims, contiguous_strides(dims), dtype);
}
Id Graph::inner(const Dims& dims, const Dims& strides, cudnnDataType_t dtype) {
  add(next_inner_, dtype, dims, strides, true, false);
  return next_inner_++;
}

Id Graph::matmul(Id a, Id b, Id c) {
  Descriptor product(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  product.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  product.finalize();
  Descriptor op(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, descriptor(a));
  op.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, descriptor(b));
  op.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, descriptor(c));
  op.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, product);
  operation(std::move(op));
  return c;
}

Id Graph::apply(cudnnPointwiseMode_t mode, Id x, const Id* b, Id y) {
  Descriptor function(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  function.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  function.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
  function.finalize();
  Descriptor op(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, function);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, descriptor(x));
  if (b != nullptr) op.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, descriptor(*b));
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, descriptor(y));
  operation(std::move(op));
  return y;
}
Id Graph::pointwise(cudnnPointwiseMode_t mode, Id x, Id y) {
  return apply(mode, x, nullptr, y);
}
Id Graph::pointwise(cudnnPointwiseMode_t mode, Id x, Id b, Id y) {
  return apply(mode, x, &b, y);
}

Id Graph::reduce(cudnnReduceTensorOp_t op, Id x, Id y) {
  Descriptor reduction(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  reduction.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &op);
  reduction.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  reduction.finalize();
  Descriptor node(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  node.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction);
  node.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, descriptor(x));
  node.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, descriptor(y));
  operation(std::move(node));
  return y;
}

Id Graph::reshape(Id x, Id y) {
  Descriptor op(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, descriptor(x));
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, descriptor(y));
  operation(std::move(op));
  return y;
}

void Graph::operation(Descriptor operation) {
  operation.finalize();
  operations_.push_back(std::move(operation));
}

Descriptor Graph::finalized(cudnnHandle_t handle) const {
  std::vector<cudnnBackendDescriptor_t> operations;
  for (const Descriptor& op : operations_) operations.push_back(op.get());
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
            static_cast<std::int64_t>(operations.size()), operations.data());
  if (handle != nullptr) {
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  }
  graph.finalize();
  return graph;
}

std::vector<Descriptor> engine_configs(const Descriptor& graph, cudnnBackendHeurMode_t mode,
                                       const Descriptor* device) {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (device != nullptr) heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *device);
  heuristics.finalize();
  std::int64_t count =
      heuristics.read(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, nullptr);
  std::vector<Descriptor> configs;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (std::int64_t i = 0; i < count; ++i) {
    raw.push_back(configs.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).get());
  }
  if (count > 0) {
    count = heuristics.read(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count,
                            raw.data());
  }
  configs.resize(static_cast<std::size_t>(count));
  return configs;
}

bool EngineInfo::has(cudnnBackendNumericalNote_t note) const {
  return std::ranges::find(numerical_notes, note) != numerical_notes.end();
}

EngineInfo engine_info(const Descriptor& config) {
  EngineInfo info;
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t raw = engine.get();
  config.read(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &raw);
  engine.read(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &info.engine);
  info.numerical_notes.resize(CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  info.numerical_notes.resize(static_cast<std::size_t>(
      engine.read(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                  CUDNN_NUMERICAL_NOTE_TYPE_COUNT, info.numerical_notes.data())));
  info.behavior_notes.resize(CUDNN_BEHAVIOR_NOTE_TYPE_COUNT);
  info.behavior_notes.resize(static_cast<std::size_t>(
      engine.read(CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE,
                  CUDNN_BEHAVIOR_NOTE_TYPE_COUNT, info.behavior_notes.data())));
  std::vector<Descriptor> knobs;
  std::vector<cudnnBackendDescriptor_t> raw_knobs;
  for (int i = 0; i < CUDNN_KNOB_TYPE_COUNTS; ++i) {
    raw_knobs.push_back(knobs.emplace_back(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR).get());
  }
  const std::int64_t num_knobs =
      config.read(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                  CUDNN_KNOB_TYPE_COUNTS, raw_knobs.data());
  for (std::int64_t i = 0; i < num_knobs; ++i) {
    const Descriptor& knob = knobs[static_cast<std::size_t>(i)];
    cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_COUNTS;
    std::int64_t choice = 0;
    knob.read(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
    knob.read(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &choice);
    info.knobs.push_back({static_cast<std::int64_t>(type), choice});
  }
  return info;
}

std::string to_string(const EngineInfo& info) {
  std::string text = format("engine {}", info.engine);
  for (const auto& [type, choice] : info.knobs) text += format(", knob {} = {}", type, choice);
  for (const auto note : info.numerical_notes) {
    text += format(", numerical note {}", static_cast<int>(note));
  }
  for (const auto note : info.behavior_notes) {
    text += format(", behavior note {}", static_cast<int>(note));
  }
  return text;
}

Plan::Plan(Descriptor config)
    : config_(std::move(config)), plan_(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
  plan_.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config_);
  plan_.finalize();
  plan_.read(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &workspace_bytes_);
  engine_ = engine_info(config_);
}

void Plan::execute(cudnnHandle_t handle, std::span<const Argument> arguments,
                   void* workspace) const {
  std::vector<std::int64_t> ids;
  std::vector<void*> pointers;
  for (const Argument& a : arguments) {
    ids.push_back(a.id);
    pointers.push_back(a.pointer);
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
           static_cast<std::int64_t>(pointers.size()), pointers.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids);
  pack.finalize();
  DSV_CUDNN(cudnnBackendExecute(handle, plan_.get(), pack.get()));
}

}  // namespace dsv::kernels::cuda::cudnn
