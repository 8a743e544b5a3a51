#include "dsv/data/png_writer.h"

#include <algorithm>

#include "dsv/data/atomic_file.h"
#include "dsv/data/host_tensor.h"
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

Tensor contact_sheet(const std::vector<Tensor>& clips, std::int64_t columns, std::int64_t gap) {
  DSV_CHECK(!clips.empty() && columns > 0 && gap >= 0,
            "[png] a contact sheet needs clips and columns");
  std::int64_t height = gap, cell_width = 0;
  for (const Tensor& clip : clips) {
    DSV_CHECK(clip.num_dims() == 4 && clip.dim(0) == 3 && clip.stride(3) == 1,
              "[png] expected a clip [3, F, H, W], got {}", clip.shape());
    height += clip.dim(2) + gap;
    cell_width = std::max(cell_width, clip.dim(3));
  }
  const std::int64_t width = columns * (cell_width + gap) + gap;
  const Tensor sheet = host_tensor({3, height, width});
  std::fill_n(sheet.f32(), sheet.num_elements(), 1.0f);
  std::int64_t top = gap;
  for (const Tensor& clip : clips) {
    const std::int64_t shown = std::min(columns, clip.dim(1));
    for (std::int64_t column = 0; column < shown; ++column) {
      const std::int64_t f = shown == 1 ? 0 : column * (clip.dim(1) - 1) / (shown - 1);
      for (std::int64_t rgb = 0; rgb < 3; ++rgb) {
        for (std::int64_t y = 0; y < clip.dim(2); ++y) {
          std::copy_n(
              clip.f32() + rgb * clip.stride(0) + f * clip.stride(1) + y * clip.stride(2),
              clip.dim(3),
              sheet.f32() + (rgb * height + top + y) * width + gap + column * (cell_width + gap));
        }
      }
    }
    top += clip.dim(2) + gap;
  }
  return sheet;
}

}  // namespace dsv::data
