// Turns a folder of video files into a shard set.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dsv/data/data_config.h"
#include "dsv/data/shard_format.h"
#include "dsv/data/video_reader.h"

namespace dsv::data {

struct EncodeOptions {
  WaveletSpec wavelet;
  TextSettings text;
  // Shapes of clips; each file goes to the one that fits best (choose_bucket). Only height, width
  // and frames count.
  std::vector<Bucket> buckets = {{.height = 64, .width = 64, .frames = 16}};
  double fps = 16;  // of clips; files are sampled at this rate
  // Clips taken from a file: 0 all that fit, otherwise at most this many, spread evenly over the
  // file.
  std::int64_t clips_per_video = 0;
  // Time between the starts of clips; 0: a clip's length (one second for still images), so that
  // they do not overlap. With a stride, clips_per_video takes the first ones.
  double stride_s = 0;
  LatentScale scale = LatentScale::kPerChannel;
  DType dtype = DType::kF32;             // of stored latents: F32, BF16, F16
  std::int64_t shard_bytes = 256 << 20;  // a shard is closed when it has this many
  int threads = 0;                       // 0: as many as the machine has
  VideoLimits limits;
};

// Throws Error(kConfig) "[encode] …" for values out of range and shapes that the wavelet cannot
// divide.
void validate(const EncodeOptions& options);
// "64x64x16,64x64x1" (height x width x frames). Error(kConfig) naming the piece that is not.
std::vector<Bucket> parse_buckets(const std::string& text);

// The bucket for a file, or -1 when it is too short for all. Of the buckets that it can fill:
// nearest aspect ratio, then most frames, then the largest that is not larger than the file's
// pictures.
int choose_bucket(const VideoInfo& info, const std::vector<Bucket>& buckets, double fps);
// Starts of the clips of a file, rising.
std::vector<double> clip_starts(const VideoInfo& info, const Bucket& bucket,
                                const EncodeOptions& options);

struct EncodeProgress {
  std::int64_t files_done = 0, files_total = 0;
  std::int64_t clips = 0;    // encoded in this run
  std::int64_t skipped = 0;  // files
  double seconds = 0;
};

struct SkippedFile {
  std::string path;  // relative, printable
  std::string reason;
  std::int64_t clips_kept = 0;  // good clips before the damage
};

struct EncodeReport {
  std::int64_t files_total = 0, files_kept = 0;  // kept: encoded by an earlier run
  std::int64_t clips_new = 0, clips_total = 0;   // in the set
  std::int64_t captions_from_list = 0, captions_from_text = 0,
               captions_from_folder = 0;  // new clips
  std::vector<SkippedFile> skipped;
  double seconds = 0;
  bool stopped = false;  // by the callback, before the end
};

// Encodes every file under `folder` (recursively, in the order of their paths; hidden files and
// texts are left out) into `out`. Files that the set already holds are kept, so a run that was cut
// off continues, and new files extend a set; other options than the set's are Error(kConfig). Bad
// files are skipped and listed with the reason in out/skipped.json. Files are read by several
// threads; samples, statistics and shards are the same for any number of them. `progress` is called
// after every clip and file from the calling thread and returns false to stop in good order.
EncodeReport encode_folder(const std::string& folder, const std::string& out,
                           const EncodeOptions& options,
                           const std::function<bool(const EncodeProgress&)>& progress = {});

}  // namespace dsv::data
