#include "encode_pipeline.h"

#include <algorithm>

#include "dsv/data/host_tensor.h"

namespace dsv::data {
namespace {

constexpr std::size_t kMaxQueued = 8;  // clips of a file: bounds memory on long files

}  // namespace

EncodePipeline::EncodePipeline(std::string folder, const std::vector<std::string>& files,
                               const EncodeOptions& options, const Captions& captions)
    : folder_(std::move(folder)), options_(options), captions_(captions), jobs_(files.size()) {
  for (std::size_t i = 0; i < files.size(); ++i) jobs_[i].path = files[i];
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const auto wanted = static_cast<std::size_t>(
      options.threads > 0 ? static_cast<unsigned>(options.threads) : cores);
  const std::size_t count = std::max<std::size_t>(1, std::min(wanted, jobs_.size()));
  // Few files: the decoder may use the threads that are left over.
  decoder_threads_ = static_cast<int>(std::max<std::size_t>(1, wanted / count));
  lookahead_ = 4 * count;
  for (std::size_t t = 0; t < count; ++t) threads_.emplace_back([this] { work(); });
}

EncodePipeline::~EncodePipeline() {
  stop();
  for (std::thread& t : threads_) t.join();
}

void EncodePipeline::stop() {
  const std::lock_guard lock(mutex_);
  stop_ = true;
  changed_.notify_all();
}

bool EncodePipeline::next(std::size_t j, EncodedClip* clip) {
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

void EncodePipeline::work() {
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
      problem = encode_file(jobs_[j]);
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
std::string EncodePipeline::encode_file(Job& job) {
  VideoReader reader(folder_ + "/" + job.path, options_.limits, decoder_threads_);
  const VideoInfo& info = reader.info();
  const int chosen = choose_bucket(info, options_.buckets, options_.fps);
  if (chosen < 0) {
    std::int64_t least = INT64_MAX;
    for (const Bucket& b : options_.buckets) least = std::min(least, b.frames);
    return format("too short: {:.2f} s ({} frames), the shortest bucket needs {} frames at {} fps",
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

}  // namespace dsv::data
