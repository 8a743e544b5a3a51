#include "dsv/data/synth.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <filesystem>
#include <mutex>
#include <thread>

#include "dsv/base/json.h"
#include "dsv/data/atomic_file.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/video_writer.h"

namespace dsv::data {
namespace {

namespace fs = std::filesystem;

Json settings_of(const SynthOptions& o) {
  return Json(Json::Object{{"count", o.count},
                           {"seed", o.seed},
                           {"height", o.height},
                           {"width", o.width},
                           {"fps", o.fps},
                           {"seconds", o.seconds},
                           {"crf", o.crf}});
}

void check(const SynthOptions& o) {
  const auto in_range = [](const char* what, double value, double low, double high) {
    if (!(value >= low && value <= high)) {
      throw_error(ExitCode::kConfig, "[synth] expected {} in [{}, {}], got {}", what, low, high,
                  value);
    }
  };
  in_range("a count", static_cast<double>(o.count), 1, 1e6);
  in_range("a height", static_cast<double>(o.height), 16, 4096);
  in_range("a width", static_cast<double>(o.width), 16, 4096);
  in_range("fps", o.fps, 1, 240);
  in_range("seconds", o.seconds, 1 / o.fps, 3600);
  in_range("crf", o.crf, 0, 51);
  in_range("threads", o.threads, 0, 1024);
}

std::string clip_name(std::int64_t i) {
  return format("clip_{:05d}.mp4", i);
}

void write_clip(const std::string& folder, std::int64_t i, const SynthOptions& o) {
  const std::string path = folder + "/" + clip_name(i);
  if (fs::exists(path)) return;  // written whole or not at all
  const SynthScene scene = synth_scene(o.seed, static_cast<std::uint64_t>(i));
  const std::int64_t frames = std::max<std::int64_t>(1, std::llround(o.seconds * o.fps));
  VideoWriter writer(path, o.height, o.width, {.fps = o.fps, .crf = o.crf});
  const Tensor frame = host_tensor({3, o.height, o.width});
  for (std::int64_t f = 0; f < frames; ++f) {
    render(scene, (static_cast<double>(f) + 0.5) / static_cast<double>(frames), frame);
    writer.add(frame);
  }
  writer.finish();
}

void begin_folder(const std::string& folder, const SynthOptions& options) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw_error(ExitCode::kIo, "[synth] cannot create '{}': {}", folder, error.message());
  const std::string settings = settings_of(options).dump(2) + "\n", path = folder + "/synth.json";
  if (fs::exists(path)) {
    if (read_file(path, 1 << 20) != settings) {
      throw_error(
          ExitCode::kConfig,
          "[synth] '{}' was made with other settings (see synth.json there): choose another folder",
          folder);
    }
    return;
  }
  if (fs::exists(folder + "/videos2caption.json")) {
    throw_error(
        ExitCode::kConfig,
        "[synth] '{}' has a videos2caption.json that this command did not write: choose another "
        "folder",
        folder);
  }
  write_file_atomic(path, settings);
}

}  // namespace

std::int64_t synth(const std::string& folder, const SynthOptions& options,
                   const std::function<bool(std::int64_t done)>& progress) {
  check(options);
  begin_folder(folder, options);
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const std::int64_t count =
      std::min<std::int64_t>(options.threads > 0 ? options.threads : cores, options.count);
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::int64_t done = 0;
  std::exception_ptr failure;
  const auto work = [&] {
    for (std::int64_t i = next++; i < options.count && !stop; i = next++) {
      try {
        write_clip(folder, i, options);
        const std::lock_guard lock(mutex);
        if (progress && !progress(++done)) stop = true;
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (failure == nullptr) failure = std::current_exception();
        stop = true;
      }
    }
  };
  std::vector<std::thread> threads;
  for (std::int64_t t = 0; t < count; ++t) threads.emplace_back(work);
  for (std::thread& t : threads) t.join();
  if (failure != nullptr) std::rethrow_exception(failure);

  Json captions = Json::array();
  for (std::int64_t i = 0; i < options.count; ++i) {
    if (!fs::exists(folder + "/" + clip_name(i))) continue;
    captions.push_back(Json(
        Json::Object{{"path", clip_name(i)},
                     {"cap", describe(synth_scene(options.seed, static_cast<std::uint64_t>(i)))}}));
  }
  write_file_atomic(folder + "/videos2caption.json", captions.dump(1) + "\n");
  return static_cast<std::int64_t>(captions.size());
}

}  // namespace dsv::data
