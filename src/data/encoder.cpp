#include "dsv/data/encoder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>

#include "dsv/base/log.h"
#include "dsv/data/atomic_file.h"
#include "dsv/data/captions.h"
#include "dsv/data/host_tensor.h"

namespace dsv::data {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Files that go with videos and are none.
bool is_companion(const fs::path& path) {
  static const std::set<std::string> kExtensions = {".txt",         ".json",   ".jsonl", ".csv",
                                                    ".md",          ".yaml",   ".yml",   ".html",
                                                    ".safetensors", ".parquet"};
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return kExtensions.count(extension) != 0;
}

// Relative paths of all candidates, sorted by their bytes. Linked folders are not entered.
std::vector<std::string> list_files(const std::string& folder, const std::string& out) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw_error(ExitCode::kConfig, "[encode] '{}' is not a folder", folder);
  }
  std::vector<std::string> files;
  fs::recursive_directory_iterator it(folder, fs::directory_options::skip_permission_denied, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    const bool hidden = !name.empty() && name[0] == '.';
    if (it->is_directory(ignored)) {
      if (hidden || fs::equivalent(it->path(), out, ignored)) it.disable_recursion_pending();
    } else if (!hidden && it->is_regular_file(ignored) && !is_companion(it->path())) {
      files.push_back(it->path().lexically_relative(folder).generic_string());
    }
  }
  if (error) throw_error(ExitCode::kIo, "[encode] cannot list '{}': {}", folder, error.message());
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    throw_error(ExitCode::kConfig, "[encode] '{}' holds no files that could be videos", folder);
  }
  return files;
}

// Two encoders must not write one set.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder) {
    const std::string path = folder + "/.lock";
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0)
      throw_error(ExitCode::kIo, "[encode] cannot write to '{}': {}", folder, std::strerror(errno));
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      ::close(fd_);
      throw_error(ExitCode::kConfig, "[encode] another process is encoding into '{}'", folder);
    }
  }
  ~FolderLock() { ::close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

Json settings_of(const EncodeOptions& options) {
  Json buckets = Json::array();
  for (const Bucket& b : options.buckets)
    buckets.push_back(format("{}x{}x{}", b.height, b.width, b.frames));
  return Json(Json::Object{{"buckets", std::move(buckets)},
                           {"fps", options.fps},
                           {"clips_per_video", options.clips_per_video},
                           {"stride_s", options.stride_s}});
}

// The set to continue, or a new one. Options that differ from the set's are refused one by one.
ShardIndex begin_index(const std::string& out, const EncodeOptions& options) {
  ShardIndex fresh;
  fresh.latent.wavelet = options.wavelet;
  fresh.latent.channels = options.wavelet.channels();
  fresh.latent_dtype = options.dtype;
  fresh.text = options.text;
  fresh.settings = settings_of(options);
  if (!fs::exists(out + "/index.json")) return fresh;

  ShardIndex old = read_index(out);
  const auto same = [&](const char* what, const auto& had, const auto& wants) {
    if (had == wants) return;
    throw_error(
        ExitCode::kConfig,
        "[encode] '{}' was encoded with {} {}, now {} is asked for: use the same or another folder",
        out, what, had, wants);
  };
  same("latents of kind", old.latent.kind, std::string("haar"));
  same("wavelet levels in time", old.latent.wavelet.levels_t, options.wavelet.levels_t);
  same("wavelet levels in space", old.latent.wavelet.levels_s, options.wavelet.levels_s);
  same("dtype", to_string(old.latent_dtype), to_string(options.dtype));
  same("text of kind", old.text_kind, std::string("hash"));
  same("text width", old.text.dim, options.text.dim);
  same("text length", old.text.max_len, options.text.max_len);
  for (const auto& [key, value] : fresh.settings.as_object()) {
    const Json* had = old.settings.find(key);
    same(key.c_str(), had == nullptr ? std::string("nothing") : had->dump(), value.dump());
  }
  if (!old.statistics) {
    throw_error(ExitCode::kConfig, "[encode] '{}' has no 'statistics' and cannot be extended", out);
  }
  return old;
}

struct EncodedClip {
  SampleRecord record;
  CaptionSource caption_source;
  Tensor latent, text;
};

// One file on its way: clips come from a worker, in order, and are taken by the writer.
struct Job {
  std::string path;
  std::deque<EncodedClip> clips;
  bool done = false;
  std::string problem;
};

// Reads files with several threads and gives the clips out in the order of files.
class Pipeline {
 public:
  Pipeline(std::string folder, std::vector<std::string> files, const EncodeOptions& options,
           const Captions& captions)
      : folder_(std::move(folder)), options_(options), captions_(captions), jobs_(files.size()) {
    for (std::size_t i = 0; i < files.size(); ++i) jobs_[i].path = std::move(files[i]);
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    const auto wanted =
        static_cast<std::size_t>(options.threads > 0 ? options.threads : static_cast<int>(cores));
    const std::size_t count = std::max<std::size_t>(1, std::min(wanted, jobs_.size()));
    // Few files: the decoder may use the threads that are left over.
    decoder_threads_ = static_cast<int>(std::max<std::size_t>(1, wanted / count));
    lookahead_ = 4 * count;
    for (std::size_t t = 0; t < count; ++t) threads_.emplace_back([this] { work(); });
  }
  ~Pipeline() {
    stop();
    for (std::thread& t : threads_) t.join();
  }

  void stop() {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }

  // The next clip of job `j` (to be called with rising j), or false at its end.
  bool next(std::size_t j, EncodedClip* clip) {
    std::unique_lock lock(mutex_);
    head_ = j;
    changed_.notify_all();
    Job& job = jobs_[j];
    changed_.wait(lock, [&] { return !job.clips.empty() || job.done; });
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    if (job.clips.empty()) return false;
    *clip = std::move(job.clips.front());
    job.clips.pop_front();
    changed_.notify_all();
    return true;
  }
  const Job& job(std::size_t j) const { return jobs_[j]; }

 private:
  static constexpr std::size_t kMaxQueued = 8;  // clips of a file: bounds memory on long files

  void work() {
    for (;;) {
      std::size_t j = 0;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock,
                      [&] { return stop_ || next_ >= jobs_.size() || next_ < head_ + lookahead_; });
        if (stop_ || next_ >= jobs_.size()) return;
        j = next_++;
      }
      std::string problem;
      std::exception_ptr failure;
      try {
        problem = read_file_of(jobs_[j]);
      } catch (const Error& e) {
        // What is wrong with one file concerns it alone; a full memory or a defect ends the run.
        if (e.code() == ExitCode::kCorruptInput || e.code() == ExitCode::kIo) {
          problem = e.what();
        } else {
          failure = std::current_exception();
        }
      } catch (...) {
        failure = std::current_exception();
      }
      const std::lock_guard lock(mutex_);
      jobs_[j].problem = std::move(problem);
      jobs_[j].done = true;
      if (failure != nullptr) {
        failure_ = failure;
        for (Job& job : jobs_) job.done = true;
      }
      changed_.notify_all();
    }
  }

  // The problem of the file, or "".
  std::string read_file_of(Job& job) {
    VideoReader reader(folder_ + "/" + job.path, options_.limits, decoder_threads_);
    const VideoInfo& info = reader.info();
    const int chosen = choose_bucket(info, options_.buckets, options_.fps);
    if (chosen < 0) {
      std::int64_t least = INT64_MAX;
      for (const Bucket& b : options_.buckets) least = std::min(least, b.frames);
      return format(
          "too short: {:.2f} s ({} frames), the shortest bucket needs {} frames at {} fps",
          info.duration_s, info.num_frames, least, options_.fps);
    }
    const Bucket& bucket = options_.buckets[static_cast<std::size_t>(chosen)];
    const std::vector<double> starts = clip_starts(info, bucket, options_);
    const Shape shape = latent_shape(options_.wavelet, bucket.frames, bucket.height, bucket.width);
    const auto take = [&](std::size_t index, const Tensor& clip) {
      EncodedClip encoded;
      SampleRecord& r = encoded.record;
      r.clip = static_cast<std::int64_t>(index);
      r.id = sample_id(job.path, r.clip);
      r.source = clean_text(job.path);
      r.start_s = starts[index];
      const Caption caption = captions_.find(job.path, r.clip);
      r.caption = caption.text;
      encoded.caption_source = caption.source;
      r.height = bucket.height;
      r.width = bucket.width;
      r.frames = bucket.frames;
      r.fps = options_.fps;
      encoded.latent = host_tensor(shape);
      wavelet_encode(options_.wavelet, clip, encoded.latent);
      encoded.text = hashed_text(r.caption, options_.text);
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || job.clips.size() < kMaxQueued; });
      if (stop_) return false;
      job.clips.push_back(std::move(encoded));
      changed_.notify_all();
      return true;
    };
    const ReadOutcome outcome =
        reader.read_clips(starts, bucket.frames, options_.fps, bucket.height, bucket.width, take);
    return outcome.problem.empty() ? info.damage : outcome.problem;
  }

  std::string folder_;
  const EncodeOptions& options_;
  const Captions& captions_;
  int decoder_threads_ = 1;
  std::size_t lookahead_ = 1;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  std::size_t next_ = 0, head_ = 0;
  bool stop_ = false;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

void write_skipped(const std::string& out, const std::vector<SkippedFile>& skipped) {
  Json list = Json::array();
  for (const SkippedFile& s : skipped) {
    list.push_back(
        Json(Json::Object{{"path", s.path}, {"reason", s.reason}, {"clips_kept", s.clips_kept}}));
  }
  write_file_atomic(out + "/skipped.json", list.dump(1) + "\n");
}

// What an earlier run said about files that it encoded in part: they are not read again.
std::vector<SkippedFile> earlier_skipped(const std::string& out,
                                         const std::set<std::string>& kept) {
  std::vector<SkippedFile> skipped;
  const std::string path = out + "/skipped.json";
  if (!fs::exists(path)) return skipped;
  const Json root = parse_json(read_file(path, 1 << 30), path);
  for (const Json& entry : root.as_array()) {
    SkippedFile s{entry.at("path").as_string(), entry.at("reason").as_string(),
                  entry.at("clips_kept").as_int()};
    if (s.clips_kept > 0 && kept.count(s.path) != 0) skipped.push_back(std::move(s));
  }
  return skipped;
}

// A reason without the prefix that names the file again.
std::string bare_reason(const std::string& reason, const std::string& path) {
  const auto at = reason.find(path + ": ");
  return clean_text(at == std::string::npos ? reason : reason.substr(at + path.size() + 2));
}

}  // namespace

EncodeReport encode_folder(const std::string& folder, const std::string& out,
                           const EncodeOptions& options,
                           const std::function<bool(const EncodeProgress&)>& progress) {
  validate(options);
  const auto begin = Clock::now();
  std::error_code error;
  fs::create_directories(out, error);
  if (error) throw_error(ExitCode::kIo, "[encode] cannot create '{}': {}", out, error.message());
  const FolderLock lock(out);
  const Captions captions(folder);
  std::vector<std::string> files = list_files(folder, out);
  ShardSetWriter writer(out, begin_index(out, options), options.shard_bytes);

  const auto clips_before = static_cast<std::int64_t>(writer.index().samples.size());

  // Files of the set by the part of their ids that all clips share.
  std::unordered_map<std::uint64_t, std::string> owners;
  for (const SampleRecord& r : writer.index().samples) owners.emplace(r.id >> 16, r.source);
  EncodeReport report;
  report.files_total = static_cast<std::int64_t>(files.size());
  std::vector<SkippedFile> skipped;
  for (const std::string& path : captions.missing(files)) {
    skipped.push_back(
        {printable(path), "listed in videos2caption.json, but there is no such file"});
  }
  std::vector<std::string> todo;
  std::set<std::string> kept;
  for (std::string& path : files) {
    const auto [owner, added] = owners.emplace(sample_id(path, 0) >> 16, clean_text(path));
    if (added) {
      todo.push_back(std::move(path));
    } else if (owner->second == clean_text(path)) {
      kept.insert(owner->second);
    } else {
      skipped.push_back(
          {clean_text(path), format("its id is that of '{}': rename it", owner->second)});
    }
  }
  report.files_kept = static_cast<std::int64_t>(kept.size());
  for (SkippedFile& s : earlier_skipped(out, kept)) skipped.push_back(std::move(s));

  EncodeProgress state;
  state.files_total = report.files_total;
  state.files_done = report.files_total - static_cast<std::int64_t>(todo.size());
  const auto say = [&] {
    state.seconds = seconds_since(begin);
    state.skipped = static_cast<std::int64_t>(skipped.size());
    return !progress || progress(state);
  };
  bool running = say();
  auto last_flush = Clock::now();
  double flush_s = 0;
  if (!todo.empty()) {
    Pipeline pipeline(folder, todo, options, captions);
    for (std::size_t j = 0; running && j < todo.size(); ++j) {
      EncodedClip clip;
      std::int64_t clips = 0;
      while (running && pipeline.next(j, &clip)) {
        switch (clip.caption_source) {
          case CaptionSource::kList:
            ++report.captions_from_list;
            break;
          case CaptionSource::kTextFile:
            ++report.captions_from_text;
            break;
          case CaptionSource::kFolder:
            ++report.captions_from_folder;
            break;
        }
        writer.add(std::move(clip.record), clip.latent, clip.text);
        ++clips;
        ++state.clips;
        running = say();
      }
      if (!running) break;  // the file is not complete: the next run reads it again
      writer.complete_source();
      ++state.files_done;
      if (const std::string& problem = pipeline.job(j).problem; !problem.empty()) {
        skipped.push_back({clean_text(todo[j]), bare_reason(problem, todo[j]), clips});
      }
      // Writing the index takes longer as the set grows: a twentieth of the time at most.
      if (writer.wants_flush() && seconds_since(last_flush) > 20 * flush_s) {
        const auto flush_begin = Clock::now();
        writer.flush(false);
        flush_s = seconds_since(flush_begin);
        last_flush = Clock::now();
      }
      running = say();
    }
    pipeline.stop();
  }
  writer.flush(true);
  std::sort(skipped.begin(), skipped.end(),
            [](const SkippedFile& a, const SkippedFile& b) { return a.path < b.path; });
  write_skipped(out, skipped);
  report.skipped = std::move(skipped);
  report.clips_total = static_cast<std::int64_t>(read_index(out).samples.size());
  report.clips_new = report.clips_total - clips_before;
  report.seconds = seconds_since(begin);
  report.stopped = !running && state.files_done < state.files_total;
  if (report.clips_total == 0 && !report.stopped) {
    throw_error(
        ExitCode::kCorruptInput,
        "[encode] none of {} files gave a clip; {}/skipped.json has the reasons, the first: {}",
        report.files_total, out,
        report.skipped.empty() ? "none" : report.skipped[0].path + ": " + report.skipped[0].reason);
  }
  return report;
}

}  // namespace dsv::data
