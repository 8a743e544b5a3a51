#include "dsv/train/progress.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>

#include "dsv/base/format.h"
#include "dsv/base/log.h"

namespace dsv::train {
namespace {

constexpr double kBarSeconds = 0.1;       // between two drawings of the bar
constexpr double kFirstLineSeconds = 10;  // between two lines; grows by a tenth of the time so far
constexpr double kLastLineSeconds = 120;  // up to this
constexpr int kBarWidth = 20;

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string speed_text(double seconds_per_step) {
  if (seconds_per_step <= 0) return "";
  if (seconds_per_step < 0.1) return format("{:.1f} steps/s", 1 / seconds_per_step);
  return format("{:.2f} s/step", seconds_per_step);
}

// Cut to a number of terminal columns; characters of several bytes count as one.
std::string fit(const std::string& text, int columns) {
  int used = 0;
  std::size_t i = 0;
  while (i < text.size()) {
    const bool starts = (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80;
    if (starts && ++used > columns) break;
    ++i;
  }
  return text.substr(0, i);
}

}  // namespace

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s < 3600) return format("{}:{:02d}", s / 60, s % 60);
  if (s < 86400) return format("{}:{:02d}:{:02d}", s / 3600, s / 60 % 60, s % 60);
  return format("{} d {:02d}:{:02d}", s / 86400, s / 3600 % 24, s / 60 % 60);
}

Progress::Progress(Options options) : options_(std::move(options)) {
  if (!options_.clock_seconds) options_.clock_seconds = steady_seconds;
  is_bar_ = options_.mode == ProgressMode::kBar ||
            (options_.mode == ProgressMode::kAuto && isatty(options_.fd) == 1);
  if (is_bar_) erase_line_before_messages(true);
  started_ = last_update_ = options_.clock_seconds();
  last_steps_ = options_.steps_done;
}

Progress::~Progress() {
  if (is_drawn_) write("\n");
  if (is_bar_) erase_line_before_messages(false);
}

void Progress::update(std::int64_t steps_done, std::string_view status) {
  const double now = options_.clock_seconds();
  const std::int64_t new_steps = steps_done - last_steps_;
  if (new_steps > 0) {
    // A running mean that forgets: the first step, which also warms up, soon weighs nothing.
    const double latest = (now - last_update_) / static_cast<double>(new_steps);
    const double weight =
        std::max(0.05, 1.0 / static_cast<double>(std::max<std::int64_t>(1, num_updates_)));
    seconds_per_step_ += (latest - seconds_per_step_) * std::min(1.0, weight);
    ++num_updates_;
    last_update_ = now;
    last_steps_ = steps_done;
  }
  const bool is_last = steps_done >= options_.num_steps;
  if (options_.mode == ProgressMode::kOff || (now < next_output_ && !is_last)) return;

  const double share = static_cast<double>(steps_done) /
                       static_cast<double>(std::max<std::int64_t>(1, options_.num_steps));
  const double left = seconds_per_step_ * static_cast<double>(options_.num_steps - steps_done);
  const std::string time =
      is_last ? "took " + duration_text(now - started_) : "ETA " + duration_text(left);
  const std::string speed = speed_text(seconds_per_step_);
  line_ = format("{} {}/{}{}  {:.0f} %{}{}  {}  {}", options_.name, steps_done, options_.num_steps,
                 is_bar_ ? format(" {}", bar(share)) : "", std::floor(100 * share),
                 speed.empty() ? "" : "  ", speed, time, status);
  if (is_bar_) {
    // The cursor rests at the start, so that a message of the log takes the bar's place.
    write("\x1b[K" + fit(line_, columns() - 1) + "\r");
    is_drawn_ = true;
    next_output_ = now + kBarSeconds;
    if (is_last) {
      write("\n");
      is_drawn_ = false;
    }
  } else {
    write(line_ + "\n");
    next_output_ = now + std::clamp((now - started_) / 10, kFirstLineSeconds, kLastLineSeconds);
  }
}

std::string Progress::bar(double share) const {
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * kBarWidth);
  std::string out(static_cast<std::size_t>(full), '=');
  if (full < kBarWidth) out += '>';
  out.resize(kBarWidth, ' ');
  return format("[{}]", out);
}

int Progress::columns() const {
  if (options_.columns > 0) return options_.columns;
  winsize size{};
  const bool known = ioctl(options_.fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

void Progress::write(std::string_view text) const {
  pollfd ready{.fd = options_.fd, .events = POLLOUT, .revents = 0};
  if (poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0) return;
  // What does not fit is left out: the next line says more.
  [[maybe_unused]] const ssize_t written = ::write(options_.fd, text.data(), text.size());
}

void secure_standard_streams() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    // open takes the lowest free number, which is fd: those below are open by now.
    [[maybe_unused]] const int opened = open("/dev/null", O_RDWR);
  }
  std::signal(SIGPIPE, SIG_IGN);
}

}  // namespace dsv::train
