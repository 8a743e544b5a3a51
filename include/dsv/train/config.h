// The configuration of a training run: plain structs with defaults. Names, ranges, help, and drift
// classes of the fields are declared in src/train/config_fields.cpp, docs/config.md is made from
// there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dsv/comm/watchdog_config.h"
#include "dsv/data/data_config.h"
#include "dsv/diffusion/flow_config.h"
#include "dsv/model/dit_config.h"
#include "dsv/optim/optim_config.h"
#include "dsv/sparsity/sparsity_config.h"

namespace dsv::train {

enum class DeviceChoice { kAuto, kCpu, kCuda };
// What stays bitwise equal: kLayout promises it for one layout (ranks, threads, device); kFast
// promises nothing on CUDA, whose libraries are faster with sums in arbitrary order.
enum class Determinism { kLayout, kFast };
enum class Compute { kAuto, kF32, kBF16 };
enum class ResumeMode { kAuto, kRequired, kNever };
enum class ResumeFallback { kNewestValid, kStrict };
enum class ProgressMode { kAuto, kBar, kLines, kOff };
enum class LogVerbosity { kDebug, kInfo, kWarn, kError, kOff };

struct RunConfig {
  std::string name = "run";  // load_config: stem of the first file where no layer names the run
  std::string dir = "runs";
  std::uint64_t seed = 0;
  std::int64_t steps = 1000;
  DeviceChoice device = DeviceChoice::kAuto;
  Determinism determinism = Determinism::kLayout;
  std::int64_t threads = 0;  // per rank; 0: this rank's share of the host's cores
};

struct PrecisionConfig {
  Compute compute = Compute::kAuto;  // GEMM and attention operands; auto: f32 on cpu, bf16 on cuda
};

struct CheckpointConfig {
  std::int64_t every_steps = 100;  // 0: only at the end and when stopped on request
  std::int64_t keep = 3;
  bool async = true;
  bool verify_after_save = true;
};

struct ResumeConfig {
  ResumeMode mode = ResumeMode::kAuto;
  std::vector<std::string> allow;  // kTraining fields that may differ from the checkpoint
  ResumeFallback fallback = ResumeFallback::kNewestValid;
};

struct LogConfig {
  std::int64_t every_steps = 1;
  bool tensorboard = true;
  ProgressMode progress = ProgressMode::kAuto;
  LogVerbosity level = LogVerbosity::kInfo;
  bool all_ranks = false;
};

// The held-out loss.
struct EvalConfig {
  std::int64_t every_steps = 100;  // 0: never
  std::int64_t max_samples = 64;   // 0: the whole held-out set
  std::int64_t quantiles = 8;
};

// Videos generated while training runs.
struct SampleConfig {
  std::int64_t every_steps = 0;      // 0: never
  std::vector<std::string> prompts;  // empty: captions of held-out samples
  std::int64_t steps = 20;
  double cfg_scale = 3.0;  // 1: no guidance
  std::int64_t count = 4;
  double fps = 8.0;
};

struct ParallelConfig {
  std::int64_t dp = 0;  // 0: the world
  std::int64_t cp = 1;
};

struct Config {
  RunConfig run;
  PrecisionConfig precision;
  model::DitConfig model;
  sparsity::AttentionConfig attention;
  sparsity::SparsityConfig sparsity;
  diffusion::FlowConfig diffusion;
  data::DataConfig data;
  optim::OptimConfig optim;
  CheckpointConfig checkpoint;
  ResumeConfig resume;
  LogConfig log;
  EvalConfig eval;
  SampleConfig sample;
  ParallelConfig parallel;
  WatchdogConfig watchdog;
};

}  // namespace dsv::train
