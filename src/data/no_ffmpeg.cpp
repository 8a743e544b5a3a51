// In place of everything that reads or writes videos and pictures where the build has no FFmpeg.
#include "dsv/data/png_writer.h"
#include "dsv/data/video_reader.h"
#include "dsv/data/video_writer.h"

namespace dsv::data {
namespace {

[[noreturn]] void refuse(const std::string& path) {
  throw_error(
      ExitCode::kEnvironment,
      "[video] {}: this build reads and writes no videos or pictures: configure with "
      "-DDSV_FFMPEG=ON, which needs FFmpeg's libraries (libavformat, libavcodec, libavutil, "
      "libswscale)",
      path);
}

}  // namespace

struct VideoReader::State {
  VideoInfo info;
};
VideoReader::VideoReader(const std::string& path, const VideoLimits&, int) {
  refuse(path);
}
VideoReader::~VideoReader() = default;
const VideoInfo& VideoReader::info() const {
  return state_->info;
}
ReadOutcome VideoReader::read_clips(const std::vector<double>&, std::int64_t, double, std::int64_t,
                                    std::int64_t,
                                    const std::function<bool(std::size_t, const Tensor&)>&) {
  return {};  // no reader was ever made
}

struct VideoWriter::State {};
VideoWriter::VideoWriter(const std::string& path, std::int64_t, std::int64_t,
                         const VideoWriterOptions&) {
  refuse(path);
}
VideoWriter::~VideoWriter() = default;
void VideoWriter::add(const Tensor&) {}
void VideoWriter::add(const Tensor&, double) {}
void VideoWriter::finish() {}

void write_png(const std::string& path, const Tensor&) {
  refuse(path);
}

}  // namespace dsv::data
