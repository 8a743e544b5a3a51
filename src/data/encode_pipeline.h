// Files on their way to shards: several threads read and encode, one takes the clips in order.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dsv/data/captions.h"
#include "dsv/data/encoder.h"

namespace dsv::data {

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
class EncodePipeline {
 public:
  // The references must outlive the pipeline.
  EncodePipeline(std::string folder, const std::vector<std::string>& files,
                 const EncodeOptions& options, const Captions& captions);
  ~EncodePipeline();  // stops and joins
  EncodePipeline(const EncodePipeline&) = delete;
  EncodePipeline& operator=(const EncodePipeline&) = delete;

  void stop();
  // The next clip of job `j` (to be called with rising j), or false at its end. Throws what ended a
  // thread: anything but a bad file.
  bool next(std::size_t j, EncodedClip* clip);
  // After next(j) was false.
  const Job& job(std::size_t j) const { return jobs_[j]; }

 private:
  void work();
  std::string encode_file(Job& job);

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

}  // namespace dsv::data
