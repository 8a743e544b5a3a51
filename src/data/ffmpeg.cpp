#include "ffmpeg.h"

#include <cmath>
#include <mutex>
#include <new>

#include "dsv/base/log.h"

namespace dsv::data {
namespace {

void log_callback(void* object, int level, const char* pattern, va_list args) {
  if (level > AV_LOG_INFO || !log_enabled(LogLevel::kDebug)) return;
  static thread_local int print_prefix = 1;
  char line[1024];
  av_log_format_line2(object, level, pattern, args, line, sizeof(line), &print_prefix);
  std::string_view text(line);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  if (!text.empty()) log_debug("[ffmpeg] {}", text);
}

}  // namespace

void route_ffmpeg_log() {
  static std::once_flag once;
  std::call_once(once, [] { av_log_set_callback(log_callback); });
}

std::string ffmpeg_error(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(code, text, sizeof(text));
  return text;
}

AvFramePtr make_frame() {
  AvFramePtr frame(av_frame_alloc());
  if (frame == nullptr) throw std::bad_alloc();
  return frame;
}

AvPacketPtr make_packet() {
  AvPacketPtr packet(av_packet_alloc());
  if (packet == nullptr) throw std::bad_alloc();
  return packet;
}

void pack_rgb24(const Tensor& frame, std::uint8_t* out, std::int64_t row_stride_bytes) {
  DSV_CHECK(frame.num_dims() == 3 && frame.dim(0) == 3 && frame.stride(2) == 1,
            "[video] expected a frame [3, H, W] with contiguous rows, got {}", frame.shape());
  for (std::int64_t rgb = 0; rgb < 3; ++rgb) {
    for (std::int64_t y = 0; y < frame.dim(1); ++y) {
      const float* from = frame.f32() + rgb * frame.stride(0) + y * frame.stride(1);
      std::uint8_t* to = out + y * row_stride_bytes + rgb;
      for (std::int64_t x = 0; x < frame.dim(2); ++x) {
        // NaN fails both comparisons and so becomes 0.
        const float v = from[x] > 0.0f ? (from[x] < 1.0f ? from[x] : 1.0f) : 0.0f;
        to[3 * x] = static_cast<std::uint8_t>(v * 255.0f + 0.5f);
      }
    }
  }
}

}  // namespace dsv::data
