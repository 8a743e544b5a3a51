#include "dsv/data/png_writer.h"

#include "dsv/data/atomic_file.h"
#include "ffmpeg.h"

namespace dsv::data {

void write_png(const std::string& path, const Tensor& image) {
  DSV_CHECK(image.num_dims() == 3 && image.dim(0) == 3 && image.num_elements() > 0,
            "[png] expected an image [3, H, W], got {}", image.shape());
  route_ffmpeg_log();
  const AVCodec* encoder = avcodec_find_encoder(AV_CODEC_ID_PNG);
  if (encoder == nullptr) {
    throw_error(ExitCode::kEnvironment, "[png] {}: this FFmpeg has no PNG encoder", path);
  }
  const AvCodecPtr codec(avcodec_alloc_context3(encoder));
  codec->width = narrow<int>(image.dim(2));
  codec->height = narrow<int>(image.dim(1));
  codec->pix_fmt = AV_PIX_FMT_RGB24;
  codec->time_base = {1, 1};
  const auto check = [&](int result) {
    if (result < 0) throw_error(ExitCode::kIo, "[png] {}: {}", path, ffmpeg_error(result));
  };
  check(avcodec_open2(codec.get(), encoder, nullptr));
  const AvFramePtr frame = make_frame();
  frame->format = codec->pix_fmt;
  frame->width = codec->width;
  frame->height = codec->height;
  check(av_frame_get_buffer(frame.get(), 0));
  pack_rgb24(image, frame->data[0], frame->linesize[0]);
  check(avcodec_send_frame(codec.get(), frame.get()));
  const AvPacketPtr packet = make_packet();
  check(avcodec_receive_packet(codec.get(), packet.get()));
  write_file_atomic(
      path, {reinterpret_cast<const char*>(packet->data), static_cast<std::size_t>(packet->size)});
}

}  // namespace dsv::data
