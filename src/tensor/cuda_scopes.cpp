// Trace scopes on a CUDA stream: an event at each end, read when somebody asks for the times.
#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <string>
#include <vector>

#include "dsv/tensor/cuda_device.h"

namespace dsv {
namespace {

class CudaScopes : public ScopeObserver {
 public:
  explicit CudaScopes(const Stream& stream) : stream_(static_cast<cudaStream_t>(stream.native)) {}
  ~CudaScopes() override {
    for (const cudaEvent_t event : free_) cudaEventDestroy(event);
    for (const Scope& scope : ended_) {
      cudaEventDestroy(scope.begin);
      cudaEventDestroy(scope.end);
    }
    for (const cudaEvent_t event : open_) cudaEventDestroy(event);
  }

  void begin(std::string_view name) override {
    nvtxRangePushA(std::string(name).c_str());
    open_.push_back(mark());
  }

  void end(std::string_view name) override {
    // Scopes are nested: the innermost one ends first. Errors surface at the next real call.
    ended_.push_back({std::string(name), open_.back(), mark()});
    open_.pop_back();
    nvtxRangePop();
  }

  void collect(Tracer& tracer) override {
    if (ended_.empty()) return;
    cudaStreamSynchronize(stream_);
    for (const Scope& scope : ended_) {
      float ms = 0;
      if (cudaEventElapsedTime(&ms, scope.begin, scope.end) == cudaSuccess) {
        tracer.add(scope.name, 1e-3 * static_cast<double>(ms));
      }
      free_.push_back(scope.begin);
      free_.push_back(scope.end);
    }
    ended_.clear();
  }

 private:
  struct Scope {
    std::string name;
    cudaEvent_t begin, end;
  };

  cudaEvent_t mark() {
    cudaEvent_t event = nullptr;
    if (free_.empty()) {
      cudaEventCreate(&event);
    } else {
      event = free_.back();
      free_.pop_back();
    }
    cudaEventRecord(event, stream_);
    return event;
  }

  cudaStream_t stream_;
  std::vector<cudaEvent_t> open_, free_;
  std::vector<Scope> ended_;
};

}  // namespace

std::unique_ptr<ScopeObserver> make_cuda_scopes(const Stream& stream) {
  return std::make_unique<CudaScopes>(stream);
}

}  // namespace dsv
