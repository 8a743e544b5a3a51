// What the three users of FFmpeg share: ownership, error texts, and its log led into ours.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/frame.h>
#include <libswscale/swscale.h>
}

#include <memory>
#include <string>

#include "dsv/tensor/tensor.h"

namespace dsv::data {

struct AvDeleter {
  void operator()(AVFrame* p) const { av_frame_free(&p); }
  void operator()(AVPacket* p) const { av_packet_free(&p); }
  void operator()(AVCodecContext* p) const { avcodec_free_context(&p); }
  void operator()(SwsContext* p) const { sws_freeContext(p); }
};
using AvFramePtr = std::unique_ptr<AVFrame, AvDeleter>;
using AvPacketPtr = std::unique_ptr<AVPacket, AvDeleter>;
using AvCodecPtr = std::unique_ptr<AVCodecContext, AvDeleter>;
using SwsPtr = std::unique_ptr<SwsContext, AvDeleter>;

// FFmpeg's own messages go to log_debug("[ffmpeg] …") from the first call on.
void route_ffmpeg_log();

std::string ffmpeg_error(int code);

AvFramePtr make_frame();
AvPacketPtr make_packet();

// Writes frame [3, H, W] f32 (rows contiguous) as packed 8-bit RGB: clamped to [0, 1], rounded; NaN
// is black.
void pack_rgb24(const Tensor& frame, std::uint8_t* out, std::int64_t row_stride_bytes);

}  // namespace dsv::data
