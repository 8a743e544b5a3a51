#include "frame_converter.h"

#include <algorithm>
#include <cmath>

extern "C" {
#include <libavutil/pixdesc.h>
}

namespace dsv::data {
namespace {

const int* coefficients_of(const AVFrame& picture) {
  switch (picture.colorspace) {
    case AVCOL_SPC_BT709:
      return sws_getCoefficients(SWS_CS_ITU709);
    case AVCOL_SPC_FCC:
      return sws_getCoefficients(SWS_CS_FCC);
    case AVCOL_SPC_BT470BG:
    case AVCOL_SPC_SMPTE170M:
      return sws_getCoefficients(SWS_CS_ITU601);
    case AVCOL_SPC_SMPTE240M:
      return sws_getCoefficients(SWS_CS_SMPTE240M);
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
      return sws_getCoefficients(SWS_CS_BT2020);
    default:
      break;
  }
  // What players assume of files that do not say.
  const bool high_definition = picture.height >= 720 || picture.width >= 1280;
  return sws_getCoefficients(high_definition ? SWS_CS_ITU709 : SWS_CS_ITU601);
}

// The yuvj formats are full range by name only.
bool is_full_range(const AVFrame& picture) {
  if (picture.color_range != AVCOL_RANGE_UNSPECIFIED)
    return picture.color_range == AVCOL_RANGE_JPEG;
  switch (picture.format) {
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ444P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ411P:
      return true;
    default:
      return false;
  }
}

}  // namespace

void FrameConverter::prepare(const AVFrame& picture, AVRational pixel_aspect) {
  const bool full_range = is_full_range(picture);
  if (scaler_ != nullptr && picture.height == source_height_ && picture.width == source_width_ &&
      picture.format == source_format_ && full_range == source_range_ &&
      picture.colorspace == source_space_ && av_cmp_q(pixel_aspect, source_aspect_) == 0) {
    return;
  }
  const bool sideways = quarter_turns_ % 2 != 0;
  const auto target_height = static_cast<double>(sideways ? width_ : height_);
  const auto target_width = static_cast<double>(sideways ? height_ : width_);
  const double shown_width = picture.width * av_q2d(pixel_aspect);
  const double scale = std::max(target_width / shown_width, target_height / picture.height);
  const double cover_width = std::max(target_width, std::round(shown_width * scale));
  const double cover_height = std::max(target_height, std::round(picture.height * scale));
  if (!(cover_width * cover_height <= static_cast<double>(max_pixels_))) {
    throw_error(ExitCode::kCorruptInput,
                "pictures of {}x{} would have to be scaled to {}x{} to cover {}x{}", picture.height,
                picture.width, cover_height, cover_width, height_, width_);
  }
  cover_width_ = static_cast<std::int64_t>(cover_width);
  cover_height_ = static_cast<std::int64_t>(cover_height);
  const bool shrinks = cover_width_ < picture.width || cover_height_ < picture.height;
  scaler_.reset(sws_getContext(
      picture.width, picture.height, static_cast<AVPixelFormat>(picture.format),
      static_cast<int>(cover_width_), static_cast<int>(cover_height_), AV_PIX_FMT_RGB24,
      (shrinks ? SWS_AREA : SWS_BICUBIC) | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT |
          SWS_FULL_CHR_H_INP,
      nullptr, nullptr, nullptr));
  if (scaler_ == nullptr) {
    const char* name = av_get_pix_fmt_name(static_cast<AVPixelFormat>(picture.format));
    throw_error(ExitCode::kCorruptInput, "no conversion from pixel format {} at {}x{}",
                name == nullptr ? "?" : name, picture.height, picture.width);
  }
  // Fails for RGB sources, which have no matrix: nothing to set then.
  sws_setColorspaceDetails(scaler_.get(), coefficients_of(picture), full_range ? 1 : 0,
                           sws_getCoefficients(SWS_CS_ITU709), 1, 0, 1 << 16, 1 << 16);
  source_height_ = picture.height;
  source_width_ = picture.width;
  source_format_ = picture.format;
  source_range_ = full_range ? 1 : 0;
  source_space_ = picture.colorspace;
  source_aspect_ = pixel_aspect;
  // swscale writes whole vectors: rows are padded, and one more row keeps the last one's excess
  // inside.
  row_bytes_ = round_up(3 * cover_width_ + 64, 64);
  rgb_.resize(static_cast<std::size_t>((cover_height_ + 1) * row_bytes_));
}

void FrameConverter::convert(const AVFrame& picture, AVRational pixel_aspect, const Tensor& out) {
  prepare(picture, pixel_aspect);
  std::uint8_t* planes[4] = {rgb_.data()};
  const int strides[4] = {static_cast<int>(row_bytes_)};
  const int rows =
      sws_scale(scaler_.get(), picture.data, picture.linesize, 0, picture.height, planes, strides);
  if (rows != cover_height_) throw_error(ExitCode::kCorruptInput, "a picture could not be scaled");

  const bool sideways = quarter_turns_ % 2 != 0;
  const std::int64_t crop_height = sideways ? width_ : height_;
  const std::int64_t crop_width = sideways ? height_ : width_;
  const std::uint8_t* origin = rgb_.data() + (cover_height_ - crop_height) / 2 * row_bytes_ +
                               (cover_width_ - crop_width) / 2 * 3;
  // Position (y, x) shown is begin + y·step_y + x·step_x of the stored picture.
  const std::int64_t row = row_bytes_;
  std::int64_t begin = 0, step_y = row, step_x = 3;
  if (quarter_turns_ == 1) {
    begin = (crop_width - 1) * 3, step_y = -3, step_x = row;
  } else if (quarter_turns_ == 2) {
    begin = (crop_height - 1) * row + (crop_width - 1) * 3, step_y = -row, step_x = -3;
  } else if (quarter_turns_ == 3) {
    begin = (crop_height - 1) * row, step_y = 3, step_x = -row;
  }
  for (std::int64_t rgb = 0; rgb < 3; ++rgb) {
    for (std::int64_t y = 0; y < height_; ++y) {
      const std::uint8_t* from = origin + begin + y * step_y + rgb;
      float* to = out.f32() + rgb * out.stride(0) + y * out.stride(1);
      for (std::int64_t x = 0; x < width_; ++x) {
        to[x] = static_cast<float>(from[x * step_x]) * (1.0f / 255.0f);
      }
    }
  }
}

}  // namespace dsv::data
