// --device and --compute, for commands that run the model without a configuration that names them.
#pragma once

#include <string>

#include "dsv/train/runtime.h"

namespace CLI {
class App;
}

namespace dsv::cli {

struct DeviceOption {
  std::string device = "auto", compute;
  int threads = 0;  // of the cpu; 0: all cores
};

// `compute` is the default of --compute: "auto" (bf16 on cuda) or "f32".
void add_device_option(CLI::App* command, DeviceOption* option, const char* compute);
// What the options ask for; Error(kConfig) for other words.
train::Runtime::Options runtime_options(const DeviceOption& option);

}  // namespace dsv::cli
