// How long each phase of a run may go without a sign of life.
#pragma once

namespace dsv {

struct WatchdogConfig {
  bool enabled = true;
  double init_seconds = 600;      // start-up, until the first step begins
  double load_seconds = 1800;     // reading a checkpoint
  double step_seconds = 600;      // between two beats of a training step
  double first_step_factor = 10;  // × step_seconds: the first step also warms caches and allocates
  double save_seconds = 1800;     // writing a checkpoint
  double sample_seconds = 1800;   // evaluation and sampling
};

}  // namespace dsv
