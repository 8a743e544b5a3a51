#include "data_text.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>

#include "dsv/base/format.h"
#include "dsv/data/text.h"

namespace dsv::cli {
namespace {

using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t stop_signals = 0;

void on_signal(int signal) {
  stop_signals = stop_signals + 1;
  std::signal(signal, SIG_DFL);
}

std::string time_text(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds + 0.5);
  if (s < 3600) return format("{}:{:02d}", s / 60, s % 60);
  return format("{}:{:02d}:{:02d}", s / 3600, s / 60 % 60, s % 60);
}

std::string bytes_text(std::int64_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (bytes < 10'000) return format("{} bytes", bytes);
  if (b < 1e7) return format("{:.1f} kB", b / 1e3);
  if (b < 1e10) return format("{:.1f} MB", b / 1e6);
  return format("{:.1f} GB", b / 1e9);
}

std::string plural(std::int64_t count, const char* noun) {
  return format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace

WorkProgress::WorkProgress(std::string name)
    : name_(std::move(name)),
      is_terminal_(::isatty(2) == 1),
      begin_(Clock::now()),
      next_output_(begin_) {
  if (!is_terminal_) next_output_ += std::chrono::seconds(10);
}

WorkProgress::~WorkProgress() {
  if (is_drawn_) std::fputs("\n", stderr);
}

void WorkProgress::update(std::int64_t done, std::int64_t total, const std::string& unit,
                          const std::string& status, std::int64_t done_before) {
  const auto now = Clock::now();
  const bool is_last = done >= total;
  if (now < next_output_ && !(is_last && is_terminal_)) return;
  next_output_ = now + (is_terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(10));
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  const std::int64_t fresh = done - done_before;
  std::string line = format("{} {}/{} {}", name_, done, total, unit);
  if (is_terminal_) {
    const auto filled = static_cast<std::size_t>(share * 24);
    line += " [" + std::string(filled, '#') + std::string(24 - filled, '.') + "]";
  }
  line += format(" {:.0f} %", 100 * share);
  if (is_last) {
    line += "  " + time_text(seconds);
  } else if (fresh > 0 && seconds > 0.5) {
    line += "  " +
            time_text(seconds * static_cast<double>(total - done) / static_cast<double>(fresh)) +
            " left";
  }
  if (!status.empty()) line += "  " + status;
  // \r and "erase to the end of the line".
  std::fprintf(stderr, is_terminal_ ? "\r%s\x1b[K" : "%s\n", line.c_str());
  std::fflush(stderr);
  is_drawn_ = is_terminal_;
}

StopRequest::StopRequest() {
  stop_signals = 0;
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}
StopRequest::~StopRequest() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}
bool StopRequest::requested() const {
  return stop_signals != 0;
}

std::string encode_text(const data::EncodeReport& r, const std::string& out) {
  std::string text = format("{} from {} in {:.1f} s", plural(r.clips_new, "new clip"),
                            plural(r.files_total - r.files_kept, "file"), r.seconds);
  if (r.clips_new > 0 && r.seconds > 0) {
    text += format(" ({:.1f} clips/s)", static_cast<double>(r.clips_new) / r.seconds);
  }
  if (r.files_kept > 0) text += format("; {} were encoded before", plural(r.files_kept, "file"));
  text += format("\n{} holds {}\n", out, plural(r.clips_total, "clip"));
  if (r.clips_new > 0) {
    text +=
        format("captions: {} from videos2caption.json, {} from text files, {} from folder names\n",
               r.captions_from_list, r.captions_from_text, r.captions_from_folder);
  }
  if (!r.skipped.empty()) {
    constexpr std::size_t kShown = 20;
    text += format("{} skipped or cut (all in {}/skipped.json):\n",
                   plural(static_cast<std::int64_t>(r.skipped.size()), "file"), out);
    for (std::size_t i = 0; i < std::min(kShown, r.skipped.size()); ++i) {
      const data::SkippedFile& s = r.skipped[i];
      text += format("  {}: {}{}\n", s.path, s.reason,
                     s.clips_kept > 0 ? format(" ({} kept)", plural(s.clips_kept, "clip")) : "");
    }
    if (r.skipped.size() > kShown) text += format("  … and {} more\n", r.skipped.size() - kShown);
  }
  if (r.stopped) text += "stopped before the end; the same command continues\n";
  return text;
}

std::string check_text(const data::CheckReport& r, const std::string& folder) {
  std::string text;
  for (const data::ShardProblem& p : r.problems) {
    text += format("{}: {}: {}\n", p.is_note ? "note" : "BAD", p.where, p.what);
  }
  text += format("{}: {} of {} good, {}, {} in {:.1f} s\n", folder, r.num_good,
                 plural(r.num_samples, "sample"), plural(r.num_shards, "shard"),
                 bytes_text(r.num_bytes), r.seconds);
  return text;
}

Json check_json(const data::CheckReport& r) {
  Json problems = Json::array();
  for (const data::ShardProblem& p : r.problems) {
    problems.push_back(
        Json(Json::Object{{"where", p.where}, {"what", p.what}, {"note", p.is_note}}));
  }
  return Json(Json::Object{{"good", r.good()},
                           {"samples", r.num_samples},
                           {"good_samples", r.num_good},
                           {"shards", r.num_shards},
                           {"bytes", r.num_bytes},
                           {"seconds", r.seconds},
                           {"problems", std::move(problems)}});
}

std::string stats_text(const Json& s, const std::string& folder) {
  std::string text =
      format("{}: {} from {}, {}, {}\n", folder, plural(s.at("samples").as_int(), "sample"),
             plural(s.at("sources").as_int(), "file"), plural(s.at("shards").as_int(), "shard"),
             bytes_text(s.at("bytes").as_int()));
  text += "  height width frames   samples  files   seconds  latent [C, T, H, W]\n";
  for (const Json& b : s.at("buckets").as_array()) {
    text +=
        format("  {:>6} {:>5} {:>6} {:>9} {:>6} {:>9.1f}  {}\n", b.at("height").as_int(),
               b.at("width").as_int(), b.at("frames").as_int(), b.at("samples").as_int(),
               b.at("sources").as_int(), b.at("seconds").as_double(), b.at("latent_shape").dump());
  }
  const Json& latent = s.at("latent");
  text += format("latents: {}", data::printable(latent.at("kind").as_string()));
  if (const Json* levels = latent.find("levels_t")) {
    text += format(", levels {} in time and {} in space", levels->as_int(),
                   latent.at("levels_s").as_int());
  }
  text += format(", {} channels, {}; mean {:.3g} to {:.3g}, deviation {:.3g} to {:.3g}\n",
                 latent.at("channels").as_int(), latent.at("dtype").as_string(),
                 latent.at("mean").at("min").as_double(), latent.at("mean").at("max").as_double(),
                 latent.at("std").at("min").as_double(), latent.at("std").at("max").as_double());
  const Json& embeddings = s.at("text");
  const Json& captions = s.at("captions");
  text += format("text: {}, width {}, {:.1f} rows on average, {} at most, null text {}\n",
                 data::printable(embeddings.at("kind").as_string()), embeddings.at("dim").as_int(),
                 embeddings.at("mean_rows").as_double(), embeddings.at("max_rows").as_int(),
                 embeddings.at("null_text").as_bool() ? "stored" : "zero");
  text += format("captions: {} distinct, {} empty, {:.1f} words on average, {} at most\n",
                 captions.at("distinct").as_int(), captions.at("empty").as_int(),
                 captions.at("mean_words").as_double(), captions.at("max_words").as_int());
  return text;
}

}  // namespace dsv::cli
