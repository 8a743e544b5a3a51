#include "dsv/data/encoder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <set>
#include <unordered_map>

#include "dsv/data/atomic_file.h"
#include "dsv/data/captions.h"
#include "encode_pipeline.h"

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
  return Json(
      Json::Object{{"buckets", std::move(buckets)},
                   {"fps", options.fps},
                   {"clips_per_video", options.clips_per_video},
                   {"stride_s", options.stride_s},
                   {"scale", options.scale == LatentScale::kShared ? "shared" : "channel"}});
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
  ShardSetWriter writer(out, begin_index(out, options), options.shard_bytes, options.scale);

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
    EncodePipeline pipeline(folder, todo, options, captions);
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
