#include "dsv/data/video_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "clip_sampler.h"

extern "C" {
#include <libavutil/display.h>
}

namespace dsv::data {
namespace {

// Formats that only point to other files or the network, or that accept any text.
constexpr const char* kRefusedFormats[] = {"hls", "concat", "dash", "imf", "sdp",  "rtsp",
                                           "tty", "webvtt", "ass",  "srt", "lavfi"};

template <typename... Args>
[[noreturn]] void refuse(const std::string& path, std::string_view pattern, const Args&... args) {
  throw_error(ExitCode::kCorruptInput, "[video] {}: {}", path, format(pattern, args...));
}

bool lists_name(const std::string& comma_list, const std::string& name) {
  return ("," + comma_list + ",").find("," + name + ",") != std::string::npos;
}

const AVInputFormat* probe(const std::string& path, const std::string& url) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    throw_error(ExitCode::kIo, "[video] {}: {}", path, std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) throw_error(ExitCode::kIo, "[video] {}: not a regular file", path);
  if (status.st_size == 0) refuse(path, "the file is empty");
  AVIOContext* io = nullptr;
  const int opened = avio_open(&io, url.c_str(), AVIO_FLAG_READ);
  if (opened < 0) throw_error(ExitCode::kIo, "[video] {}: {}", path, ffmpeg_error(opened));
  const AVInputFormat* input = nullptr;
  const int probed = av_probe_input_buffer2(io, &input, url.c_str(), nullptr, 0, 0);
  avio_closep(&io);
  if (probed < 0 || input == nullptr) refuse(path, "not a video file that FFmpeg knows");
  for (const char* name : kRefusedFormats) {
    if (lists_name(input->name, name)) refuse(path, "files of format '{}' are not read", name);
  }
  return input;
}

// Quarter turns counter-clockwise for display, from the stream's display matrix.
int quarter_turns_of(const AVStream& stream) {
  const std::int32_t* matrix = nullptr;
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(60, 31, 102)
  const AVPacketSideData* side =
      av_packet_side_data_get(stream.codecpar->coded_side_data, stream.codecpar->nb_coded_side_data,
                              AV_PKT_DATA_DISPLAYMATRIX);
  if (side != nullptr && side->size >= 36)
    matrix = reinterpret_cast<const std::int32_t*>(side->data);
#else
  std::size_t size = 0;
  const std::uint8_t* side = av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
  if (side != nullptr && size >= 36) matrix = reinterpret_cast<const std::int32_t*>(side);
#endif
  if (matrix == nullptr) return 0;
  const double degrees = av_display_rotation_get(matrix);
  if (!std::isfinite(degrees)) return 0;
  return static_cast<int>((std::llround(degrees / 90.0) % 4 + 4) % 4);
}

}  // namespace

struct VideoReader::State {
  std::string path, url;
  VideoLimits limits;
  int threads = 1;
  const AVInputFormat* input = nullptr;
  AVFormatContext* format = nullptr;
  AVStream* stream = nullptr;  // of format
  VideoInfo info;
  double unit_s = 0;  // of timestamps
  std::int64_t first_pts = 0;
  int quarter_turns = 0;
  AVRational pixel_aspect{1, 1};

  ~State() { close(); }
  void close() {
    if (format != nullptr) avformat_close_input(&format);
  }
  void open();
  void scan();
  AvCodecPtr open_decoder() const;
};

void VideoReader::State::open() {
  close();
  AVDictionary* options = nullptr;
  av_dict_set(&options, "protocol_whitelist", "file", 0);
  av_dict_set(&options, "pattern_type", "none", 0);  // '%' and '*' in names of images are letters
  const int opened = avformat_open_input(&format, url.c_str(), input, &options);
  av_dict_free(&options);
  if (opened < 0) refuse(path, "cannot be opened as {}: {}", input->name, ffmpeg_error(opened));
  const int found = avformat_find_stream_info(format, nullptr);
  if (found < 0) refuse(path, "no stream information: {}", ffmpeg_error(found));
  const int index = av_find_best_stream(format, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  if (index < 0) {
    const bool sound = av_find_best_stream(format, AVMEDIA_TYPE_AUDIO, -1, -1, nullptr, 0) >= 0;
    refuse(path, "{}", sound ? "only sound, no video stream" : "no video stream");
  }
  stream = format->streams[index];
  if ((stream->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0) {
    refuse(path, "only sound with a cover picture, no video stream");
  }
  for (unsigned i = 0; i < format->nb_streams; ++i) {
    if (static_cast<int>(i) != index) format->streams[i]->discard = AVDISCARD_ALL;
  }
}

// Collects the times of all frames without decoding.
void VideoReader::State::scan() {
  const AVCodecParameters& p = *stream->codecpar;
  if (p.width < 1 || p.height < 1) refuse(path, "pictures have no size");
  if (p.width > limits.max_side || p.height > limits.max_side ||
      static_cast<std::int64_t>(p.width) * p.height > limits.max_pixels) {
    refuse(path, "pictures of {}x{} exceed the limits of {} per side and {} pixels", p.height,
           p.width, limits.max_side, limits.max_pixels);
  }
  info.codec = avcodec_get_name(p.codec_id);
  unit_s = av_q2d(stream->time_base);
  quarter_turns = quarter_turns_of(*stream);
  const AVRational aspect = av_guess_sample_aspect_ratio(format, stream, nullptr);
  // Pixels far from square are mistakes in the file, not a wish.
  if (aspect.num > 0 && aspect.den > 0 && av_q2d(aspect) > 0.1 && av_q2d(aspect) < 10) {
    pixel_aspect = aspect;
  }
  info.width = std::max<std::int64_t>(1, std::llround(p.width * av_q2d(pixel_aspect)));
  info.height = p.height;
  if (quarter_turns % 2 != 0) std::swap(info.width, info.height);
  info.aspect = static_cast<double>(info.width) / static_cast<double>(info.height);

  const AvPacketPtr packet = make_packet();
  std::int64_t first = INT64_MAX, last = INT64_MIN;
  int result = 0;
  std::int64_t num_packets = 0;  // also those that are decoded but not shown
  while ((result = av_read_frame(format, packet.get())) >= 0) {
    const bool ours =
        packet->stream_index == stream->index && (packet->flags & AV_PKT_FLAG_CORRUPT) == 0;
    num_packets += ours ? 1 : 0;
    if (ours && (packet->flags & AV_PKT_FLAG_DISCARD) == 0) {
      const std::int64_t pts = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
      if (pts != AV_NOPTS_VALUE) {
        first = std::min(first, pts);
        last = std::max(last, pts);
      }
      if (++info.num_frames > limits.max_frames) {
        refuse(path, "more than {} frames", limits.max_frames);
      }
    }
    av_packet_unref(packet.get());
  }
  if (info.num_frames == 0) refuse(path, "no frames: {}", ffmpeg_error(result));
  if (stream->nb_frames > num_packets) {
    info.damage =
        dsv::format("cut off: {} of {} frames are in the file", num_packets, stream->nb_frames);
  } else if (result != AVERROR_EOF) {
    info.damage = dsv::format("damaged after {} frames: {}", num_packets, ffmpeg_error(result));
  }
  if (info.num_frames > 1 && first < last) {
    first_pts = first;
    info.last_frame_s = (static_cast<double>(last) - static_cast<double>(first)) * unit_s;
    info.period_s = info.last_frame_s / static_cast<double>(info.num_frames - 1);
  } else if (info.num_frames > 1) {
    // No times in the file: the nominal rate counts.
    const double rate = av_q2d(av_guess_frame_rate(format, stream, nullptr));
    if (!(rate > 0)) refuse(path, "neither frame times nor a frame rate");
    first_pts = AV_NOPTS_VALUE;
    info.period_s = 1 / rate;
    info.last_frame_s = info.period_s * static_cast<double>(info.num_frames - 1);
  } else {
    first_pts = first == INT64_MAX ? AV_NOPTS_VALUE : first;
  }
  info.duration_s = info.last_frame_s + info.period_s;
  if (!std::isfinite(info.duration_s) || info.duration_s > 1e7) {
    refuse(path, "frame times span {} s", info.duration_s);
  }
}

AvCodecPtr VideoReader::State::open_decoder() const {
  const AVCodec* decoder = avcodec_find_decoder(stream->codecpar->codec_id);
  if (decoder == nullptr) refuse(path, "this FFmpeg has no decoder for {}", info.codec);
  AvCodecPtr codec(avcodec_alloc_context3(decoder));
  int result = avcodec_parameters_to_context(codec.get(), stream->codecpar);
  codec->thread_count = threads;
  codec->max_pixels = limits.max_pixels;
  codec->pkt_timebase = stream->time_base;
  if (result >= 0) result = avcodec_open2(codec.get(), decoder, nullptr);
  if (result < 0) refuse(path, "decoder {}: {}", info.codec, ffmpeg_error(result));
  return codec;
}

VideoReader::VideoReader(const std::string& path, const VideoLimits& limits, int threads)
    : state_(std::make_unique<State>()) {
  route_ffmpeg_log();
  state_->path = path;
  state_->url = "file:" + path;  // so that no name is taken for a protocol
  state_->limits = limits;
  state_->threads = threads;
  state_->input = probe(path, state_->url);
  state_->open();
  state_->scan();
}

VideoReader::~VideoReader() = default;

const VideoInfo& VideoReader::info() const {
  return state_->info;
}

ReadOutcome VideoReader::read_clips(const std::vector<double>& starts_s, std::int64_t frames,
                                    double fps, std::int64_t height, std::int64_t width,
                                    const std::function<bool(std::size_t, const Tensor&)>& done) {
  State& s = *state_;
  DSV_CHECK(frames > 0 && fps > 0 && height > 0 && width > 0,
            "[video] expected a clip of positive size, got {}x{}x{} at {} fps", height, width,
            frames, fps);
  s.open();  // back to the beginning, whatever the format can seek
  const AvCodecPtr codec = s.open_decoder();
  FrameConverter converter(height, width, s.quarter_turns, s.limits.max_pixels);
  ClipSampler sampler(starts_s, frames, fps, height, width, converter, s.pixel_aspect, done);
  const AvPacketPtr packet = make_packet();
  const AvFramePtr picture = make_frame();
  std::int64_t num_pictures = 0, num_damaged = 0;
  double last_s = 0;
  ReadOutcome outcome;

  const auto drain = [&] {
    while (!sampler.finished() && avcodec_receive_frame(codec.get(), picture.get()) >= 0) {
      if (picture->decode_error_flags != 0 || (picture->flags & AV_FRAME_FLAG_CORRUPT) != 0) {
        ++num_damaged;
        av_frame_unref(picture.get());
        continue;
      }
      const std::int64_t pts = picture->best_effort_timestamp;
      double time_s =
          pts == AV_NOPTS_VALUE || s.first_pts == AV_NOPTS_VALUE
              ? static_cast<double>(num_pictures) * s.info.period_s
              : (static_cast<double>(pts) - static_cast<double>(s.first_pts)) * s.unit_s;
      // Times that do not rise are a fault of the file; the order of pictures is not.
      if (num_pictures > 0 && !(time_s > last_s)) time_s = last_s + std::max(s.info.period_s, 1e-6);
      last_s = time_s;
      ++num_pictures;
      sampler.add(*picture, time_s);
      av_frame_unref(picture.get());
    }
  };
  try {
    while (!sampler.finished() && av_read_frame(s.format, packet.get()) >= 0) {
      if (packet->stream_index == s.stream->index) {
        const int sent = avcodec_send_packet(codec.get(), packet.get());
        if (sent < 0 && sent != AVERROR(EAGAIN)) ++num_damaged;
        drain();
      }
      av_packet_unref(packet.get());
    }
    if (!sampler.finished()) {
      avcodec_send_packet(codec.get(), nullptr);
      drain();
      sampler.finish(s.info.period_s / 2 + 1e-6);
    }
  } catch (const Error& e) {
    if (e.code() != ExitCode::kCorruptInput) throw;
    outcome.problem = e.what();
  }
  outcome.num_clips = sampler.num_clips();
  if (outcome.problem.empty() && !sampler.finished()) {
    outcome.problem =
        num_pictures == 0
            ? dsv::format("none of {} frames could be decoded", s.info.num_frames)
            : dsv::format("pictures end at {:.2f} s of {:.2f} s ({} of {} frames damaged)", last_s,
                          s.info.duration_s, num_damaged, s.info.num_frames);
  }
  return outcome;
}

}  // namespace dsv::data
