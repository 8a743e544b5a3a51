// What a person sees of training: an updating bar on a terminal, now and then a line elsewhere.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "dsv/train/config.h"

namespace dsv::train {

class Progress {
 public:
  struct Options {
    ProgressMode mode = ProgressMode::kAuto;  // auto: bar where fd is a terminal, else lines
    std::string name;                         // of the run
    std::int64_t steps_done = 0;              // where this process begins
    std::int64_t num_steps = 1;
    int fd = 2;                                  // stderr
    std::function<double()> clock_seconds = {};  // steady; replaced in tests
    int columns = 0;                             // of the bar; 0: the terminal's
  };
  explicit Progress(Options options);
  ~Progress();  // leaves the cursor on a new line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // After each step: `status` is shown behind progress, speed, and time left ("loss 0.123  lr
  // 1e-4"). Never throws and never waits: with nowhere to write to, or a reader that has stopped,
  // it shows nothing.
  void update(std::int64_t steps_done, std::string_view status);

  // The text without cursor control, as the last update had it.
  const std::string& line() const { return line_; }

 private:
  void write(std::string_view text) const;
  std::string bar(double share) const;
  int columns() const;

  Options options_;
  bool is_bar_ = false;
  bool is_drawn_ = false;
  double started_ = 0;
  double last_update_ = 0;
  double next_output_ = 0;
  double seconds_per_step_ = 0;
  std::int64_t num_updates_ = 0;
  std::int64_t last_steps_ = 0;
  std::string line_;
};

// "0:07", "12:34", "3:25:45", "4 d 03:25".
std::string duration_text(double seconds);

// Opens /dev/null in the place of a standard stream that the process was started without, so that
// no file of the run gets its number and then its messages, and makes a closed pipe an error of
// write, not the end of the process. Call first in main.
void secure_standard_streams();

}  // namespace dsv::train
