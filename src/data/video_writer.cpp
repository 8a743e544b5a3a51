#include "dsv/data/video_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "ffmpeg.h"

extern "C" {
#include <libavutil/opt.h>
}

namespace dsv::data {
namespace {

constexpr std::int64_t kMaxSide = 16384;
// Checked here, as libx264 prints its complaint past every log.
constexpr const char* kPresets[] = {"ultrafast", "superfast", "veryfast", "faster",   "fast",
                                    "medium",    "slow",      "slower",   "veryslow", "placebo"};

}  // namespace

struct VideoWriter::State {
  std::string path, temporary_path;
  AVFormatContext* format = nullptr;
  AVStream* stream = nullptr;
  AvCodecPtr codec;
  SwsPtr scaler;
  AvFramePtr frame = make_frame();
  AvPacketPtr packet = make_packet();
  std::vector<std::uint8_t> rgb;
  std::int64_t rgb_row_bytes = 0;
  std::int64_t num_frames = 0;
  std::int64_t last_pts = -1;
  bool variable_rate = false;
  bool finished = false;

  ~State() {
    if (format != nullptr) {
      if (format->pb != nullptr) avio_closep(&format->pb);
      avformat_free_context(format);
    }
    if (!finished && !temporary_path.empty()) ::unlink(temporary_path.c_str());
  }

  void check(int result, const char* action) const {
    if (result < 0) {
      throw_error(ExitCode::kIo, "[video] {}: cannot {}: {}", path, action, ffmpeg_error(result));
    }
  }

  void open_codec(std::int64_t height, std::int64_t width, const VideoWriterOptions& options);
  void open_file();
  void encode(AVFrame* picture);  // null: flush
};

void VideoWriter::State::open_codec(std::int64_t height, std::int64_t width,
                                    const VideoWriterOptions& options) {
  const AVCodec* encoder = avcodec_find_encoder_by_name("libx264");
  if (encoder == nullptr) {
    throw_error(ExitCode::kEnvironment,
                "[video] {}: this FFmpeg has no H.264 encoder libx264; install the distribution's "
                "libavcodec with x264 (Debian, Ubuntu: libavcodec-extra)",
                path);
  }
  codec.reset(avcodec_alloc_context3(encoder));
  codec->width = static_cast<int>(width);
  codec->height = static_cast<int>(height);
  const bool odd = height % 2 != 0 || width % 2 != 0;
  codec->pix_fmt = options.full_chroma || odd ? AV_PIX_FMT_YUV444P : AV_PIX_FMT_YUV420P;
  codec->framerate = av_d2q(options.fps, 1'001'000);
  codec->time_base = options.variable_rate ? AVRational{1, 90000} : av_inv_q(codec->framerate);
  codec->color_range = AVCOL_RANGE_MPEG;
  codec->colorspace = AVCOL_SPC_BT709;
  codec->color_primaries = AVCOL_PRI_BT709;
  codec->color_trc = AVCOL_TRC_BT709;
  codec->thread_count = options.threads;
  codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  const bool known =
      std::find(std::begin(kPresets), std::end(kPresets), options.preset) != std::end(kPresets);
  if (!known || options.crf < 0 || options.crf > 51 ||
      av_opt_set(codec->priv_data, "preset", options.preset.c_str(), 0) < 0 ||
      av_opt_set_double(codec->priv_data, "crf", options.crf, 0) < 0) {
    throw_error(ExitCode::kConfig, "[video] {}: libx264 does not know preset '{}' with crf {}",
                path, options.preset, options.crf);
  }
  // x264's macroblock tree with B-frames gives one of a few streams by chance for small pictures
  // (seen with version 164, one thread, equal input); without it equal clips are equal files.
  av_opt_set_int(codec->priv_data, "mbtree", 0, 0);
  const int opened = avcodec_open2(codec.get(), encoder, nullptr);
  if (opened < 0) {
    throw_error(ExitCode::kConfig, "[video] {}: libx264 refuses {}x{}, preset '{}', crf {}: {}",
                path, height, width, options.preset, options.crf, ffmpeg_error(opened));
  }

  scaler.reset(sws_getContext(
      codec->width, codec->height, AV_PIX_FMT_RGB24, codec->width, codec->height, codec->pix_fmt,
      SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP, nullptr, nullptr, nullptr));
  DSV_CHECK(scaler != nullptr, "[video] no conversion from RGB");
  const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
  sws_setColorspaceDetails(scaler.get(), bt709, 1, bt709, 0, 0, 1 << 16, 1 << 16);
  frame->format = codec->pix_fmt;
  frame->width = codec->width;
  frame->height = codec->height;
  frame->color_range = codec->color_range;
  frame->colorspace = codec->colorspace;
  check(av_frame_get_buffer(frame.get(), 0), "allocate a picture");
  // swscale reads whole vectors: what lies behind a row must be ours, and the same every time.
  rgb_row_bytes = round_up(3 * width + 64, 64);
  rgb.assign(static_cast<std::size_t>((height + 1) * rgb_row_bytes), 0);
}

void VideoWriter::State::open_file() {
  temporary_path = dsv::format("{}.tmp-{}", path, static_cast<std::int64_t>(::getpid()));
  check(avformat_alloc_output_context2(&format, nullptr, "mp4", temporary_path.c_str()),
        "open mp4");
  stream = avformat_new_stream(format, nullptr);
  DSV_CHECK(stream != nullptr, "[video] no stream");
  check(avcodec_parameters_from_context(stream->codecpar, codec.get()), "describe the stream");
  stream->time_base = codec->time_base;
  stream->avg_frame_rate = codec->framerate;
  // Without the encoder's version in the file, equal pictures make equal files.
  format->flags |= AVFMT_FLAG_BITEXACT;
  check(avio_open(&format->pb, ("file:" + temporary_path).c_str(), AVIO_FLAG_WRITE),
        "create the file");
  AVDictionary* options = nullptr;
  // The table of contents in front: a file that is cut off later still plays up to the cut.
  av_dict_set(&options, "movflags", "faststart", 0);
  const int written = avformat_write_header(format, &options);
  av_dict_free(&options);
  check(written, "write the header");
}

void VideoWriter::State::encode(AVFrame* picture) {
  check(avcodec_send_frame(codec.get(), picture), "encode a frame");
  for (;;) {
    const int received = avcodec_receive_packet(codec.get(), packet.get());
    if (received == AVERROR(EAGAIN) || received == AVERROR_EOF) return;
    check(received, "encode a frame");
    av_packet_rescale_ts(packet.get(), codec->time_base, stream->time_base);
    packet->stream_index = stream->index;
    check(av_interleaved_write_frame(format, packet.get()), "write a frame");
  }
}

VideoWriter::VideoWriter(const std::string& path, std::int64_t height, std::int64_t width,
                         const VideoWriterOptions& options)
    : state_(std::make_unique<State>()) {
  route_ffmpeg_log();
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide) {
    throw_error(ExitCode::kConfig, "[video] {}: expected sides in [1, {}], got {}x{}", path,
                kMaxSide, height, width);
  }
  if (!(options.fps >= 0.01 && options.fps <= 1000)) {
    throw_error(ExitCode::kConfig, "[video] {}: expected fps in [0.01, 1000], got {}", path,
                options.fps);
  }
  state_->path = path;
  state_->variable_rate = options.variable_rate;
  state_->open_codec(height, width, options);
  state_->open_file();
}

VideoWriter::~VideoWriter() = default;

void VideoWriter::add(const Tensor& frame) {
  DSV_CHECK(!state_->variable_rate, "[video] a variable rate needs the time of every frame");
  add(frame, static_cast<double>(state_->num_frames) * av_q2d(state_->codec->time_base));
}

void VideoWriter::add(const Tensor& frame, double time_s) {
  State& s = *state_;
  DSV_CHECK(!s.finished, "[video] {} is finished", s.path);
  DSV_CHECK(
      frame.num_dims() == 3 && frame.dim(1) == s.codec->height && frame.dim(2) == s.codec->width,
      "[video] expected a frame [3, {}, {}], got {}", s.codec->height, s.codec->width,
      frame.shape());
  pack_rgb24(frame, s.rgb.data(), s.rgb_row_bytes);
  s.check(av_frame_make_writable(s.frame.get()), "allocate a picture");
  const std::uint8_t* planes[4] = {s.rgb.data()};
  const int strides[4] = {static_cast<int>(s.rgb_row_bytes)};
  sws_scale(s.scaler.get(), planes, strides, 0, s.codec->height, s.frame->data, s.frame->linesize);
  s.frame->pts = std::llround(time_s / av_q2d(s.codec->time_base));
  DSV_CHECK(s.frame->pts > s.last_pts, "[video] frame times must rise, got {} s", time_s);
  s.last_pts = s.frame->pts;
  s.encode(s.frame.get());
  ++s.num_frames;
}

void VideoWriter::finish() {
  State& s = *state_;
  DSV_CHECK(!s.finished, "[video] {} is finished", s.path);
  DSV_CHECK(s.num_frames > 0, "[video] {} has no frames", s.path);
  s.encode(nullptr);
  s.check(av_write_trailer(s.format), "write the index");
  s.check(avio_closep(&s.format->pb), "close the file");
  if (std::rename(s.temporary_path.c_str(), s.path.c_str()) != 0) {
    throw_error(ExitCode::kIo, "[video] {}: cannot rename: {}", s.path, std::strerror(errno));
  }
  s.finished = true;
}

}  // namespace dsv::data
