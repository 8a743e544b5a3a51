// Utilisation, memory, power, and clock of a GPU, from the driver's management library. It comes
// with the driver, not with the toolkit, so it is looked up when first asked for and never linked.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <array>

#include "dsv/tensor/cuda_device.h"

namespace dsv {
namespace {

// The part of the library's stable C interface that is used here.
using NvmlDevice = void*;
struct NvmlUtilization {
  unsigned gpu, memory;
};
struct NvmlMemory {
  unsigned long long total, free, used;
};
constexpr int kOk = 0;
constexpr int kClockSm = 1;
constexpr int kTemperatureGpu = 0;

struct Nvml {
  int (*init)() = nullptr;
  int (*by_bus_id)(const char*, NvmlDevice*) = nullptr;
  int (*utilization)(NvmlDevice, NvmlUtilization*) = nullptr;
  int (*memory)(NvmlDevice, NvmlMemory*) = nullptr;
  int (*power)(NvmlDevice, unsigned*) = nullptr;
  int (*clock)(NvmlDevice, int, unsigned*) = nullptr;
  int (*temperature)(NvmlDevice, int, unsigned*) = nullptr;
  bool works = false;

  Nvml() {
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == nullptr) return;
    const auto find = [library](auto& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    works = find(init, "nvmlInit_v2") && find(by_bus_id, "nvmlDeviceGetHandleByPciBusId_v2") &&
            find(utilization, "nvmlDeviceGetUtilizationRates") &&
            find(memory, "nvmlDeviceGetMemoryInfo") && find(power, "nvmlDeviceGetPowerUsage") &&
            find(clock, "nvmlDeviceGetClockInfo") &&
            find(temperature, "nvmlDeviceGetTemperature") && init() == kOk;
  }
};

}  // namespace

CudaUsage cuda_usage(int index) {
  static const Nvml nvml;
  CudaUsage out;
  std::array<char, 64> bus_id{};
  NvmlDevice device = nullptr;
  if (!nvml.works ||
      cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), index) != cudaSuccess ||
      nvml.by_bus_id(bus_id.data(), &device) != kOk) {
    return out;
  }
  NvmlUtilization utilization{};
  if (nvml.utilization(device, &utilization) == kOk) out.utilisation_percent = utilization.gpu;
  NvmlMemory memory{};
  if (nvml.memory(device, &memory) == kOk) out.memory_used_bytes = static_cast<double>(memory.used);
  unsigned value = 0;
  if (nvml.power(device, &value) == kOk) out.power_watts = 1e-3 * value;
  if (nvml.clock(device, kClockSm, &value) == kOk) out.sm_clock_mhz = value;
  if (nvml.temperature(device, kTemperatureGpu, &value) == kOk) out.temperature_c = value;
  return out;
}

}  // namespace dsv
