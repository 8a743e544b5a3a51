// cuDNN's backend API with owners: operations on tensors make a graph, cuDNN's heuristics name
// engine configurations for it in the order of expected speed, and one of them is built into a
// plan.
#pragma once

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "dsv/base/error.h"

namespace dsv::kernels::cuda::cudnn {

class CudnnError : public Error {
 public:
  using Error::Error;
};
// Throws CudnnError(kEnvironment) naming the call, the status, and cuDNN's own reason.
void check(cudnnStatus_t status, const char* call);
#define DSV_CUDNN(call) ::dsv::kernels::cuda::cudnn::check((call), #call)

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(cudnnBackendDescriptorType_t type);
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();

  cudnnBackendDescriptor_t get() const { return value_; }

  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
           const void* elements);
  // The type follows from the value's.
  void set(cudnnBackendAttributeName_t name, std::int64_t value);
  void set(cudnnBackendAttributeName_t name, bool value);
  void set(cudnnBackendAttributeName_t name, float value);
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t value);
  void set(cudnnBackendAttributeName_t name, std::span<const std::int64_t> values);
  void set(cudnnBackendAttributeName_t name, const Descriptor& value);
  // Into `elements`, at most `capacity` of them; returns how many there are.
  std::int64_t read(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                    std::int64_t capacity, void* elements) const;
  void finalize();

 private:
  cudnnBackendDescriptor_t value_ = nullptr;
};

using Id = std::int64_t;
using Dims = std::array<std::int64_t, 4>;
Dims contiguous_strides(const Dims& dims);

// Tensors and the operations between them. A tensor is known by an id: the caller's where a pointer
// is given at execution, a number from kFirstInner on where it never leaves the kernel.
class Graph {
 public:
  static constexpr Id kFirstInner = 1000;

  // Pointers of bf16 tensors must be multiples of 16, those of f32 tensors of 4.
  void tensor(Id id, cudnnDataType_t dtype, const Dims& dims, const Dims& strides);
  // One f32 in host memory, read when the plan is executed.
  void scalar(Id id);
  Id inner(const Dims& dims, cudnnDataType_t dtype = CUDNN_DATA_FLOAT);
  Id inner(const Dims& dims, const Dims& strides, cudnnDataType_t dtype);

  // Each returns the id of its result, the last argument. Arithmetic is f32.
  Id matmul(Id a, Id b, Id c);
  Id pointwise(cudnnPointwiseMode_t mode, Id x, Id y);
  Id pointwise(cudnnPointwiseMode_t mode, Id x, Id b, Id y);
  Id reduce(cudnnReduceTensorOp_t op, Id x, Id y);
  Id reshape(Id x, Id y);
  // An operation that this class has no word for; it names tensors with descriptor().
  void operation(Descriptor operation);

  const Descriptor& descriptor(Id id) const { return tensors_.at(id); }
  // The operation graph, finalized; `handle` null: for a device that is described elsewhere.
  Descriptor finalized(cudnnHandle_t handle) const;

 private:
  void add(Id id, cudnnDataType_t dtype, const Dims& dims, const Dims& strides, bool is_inner,
           bool in_host_memory);
  Id apply(cudnnPointwiseMode_t mode, Id x, const Id* b, Id y);

  std::map<Id, Descriptor> tensors_;
  std::vector<Descriptor> operations_;
  Id next_inner_ = kFirstInner;
};

// Engine configurations for the graph, best first; none where cuDNN knows no engine for the graph.
// `device` null: for the current device; otherwise for the device that it describes.
std::vector<Descriptor> engine_configs(const Descriptor& graph, cudnnBackendHeurMode_t mode,
                                       const Descriptor* device);

// What cuDNN says about an engine configuration.
struct EngineInfo {
  std::int64_t engine = -1;
  std::vector<cudnnBackendNumericalNote_t> numerical_notes;
  std::vector<cudnnBackendBehaviorNote_t> behavior_notes;
  std::vector<std::array<std::int64_t, 2>> knobs;  // type, choice

  bool has(cudnnBackendNumericalNote_t note) const;
};
EngineInfo engine_info(const Descriptor& config);
std::string to_string(const EngineInfo& info);

struct Argument {
  Id id;
  void* pointer;  // of the device, or of the host for a scalar
};

class Plan {
 public:
  // Builds; may compile a kernel, which takes up to seconds.
  explicit Plan(Descriptor config);

  std::int64_t workspace_bytes() const { return workspace_bytes_; }
  const EngineInfo& engine() const { return engine_; }
  // Asynchronous on the handle's stream.
  void execute(cudnnHandle_t handle, std::span<const Argument> arguments, void* workspace) const;

 private:
  Descriptor config_, plan_;
  std::int64_t workspace_bytes_ = 0;
  EngineInfo engine_;
};

}  // namespace dsv::kernels::cuda::cudnn
