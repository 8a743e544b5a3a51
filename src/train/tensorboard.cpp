#include "dsv/train/tensorboard.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "dsv/base/crc32c.h"

namespace dsv::train {
namespace {

// Protocol buffers by hand: a field is (number << 3 | wire type) and its value.
enum WireType : std::uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

class Message {
 public:
  Message& varint(std::uint64_t field, std::int64_t value) {
    key(field, kVarint);
    put_varint(static_cast<std::uint64_t>(value));
    return *this;
  }
  Message& fixed64(std::uint64_t field, double value) {
    key(field, kFixed64);
    put_little_endian(std::bit_cast<std::uint64_t>(value), 8);
    return *this;
  }
  Message& fixed32(std::uint64_t field, float value) {
    key(field, kFixed32);
    put_little_endian(std::bit_cast<std::uint32_t>(value), 4);
    return *this;
  }
  Message& bytes(std::uint64_t field, std::string_view value) {
    key(field, kBytes);
    put_varint(value.size());
    data_ += value;
    return *this;
  }
  Message& message(std::uint64_t field, const Message& value) { return bytes(field, value.data_); }
  const std::string& data() const { return data_; }

 private:
  void key(std::uint64_t field, WireType type) { put_varint(field << 3 | type); }
  void put_varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) data_ += static_cast<char>(value | 0x80);
    data_ += static_cast<char>(value);
  }
  void put_little_endian(std::uint64_t value, int size) {
    for (int i = 0; i < size; ++i) data_ += static_cast<char>(value >> (8 * i));
  }
  std::string data_;
};

// Field numbers of tensorflow/core/util/event.proto and framework/{summary,tensor}.proto.
namespace event {
constexpr std::uint64_t kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
}
namespace session_log {
constexpr std::uint64_t kStatus = 1;
constexpr std::int64_t kStart = 1;
}  // namespace session_log
namespace summary {
constexpr std::uint64_t kValue = 1;
constexpr std::uint64_t kTag = 1, kSimpleValue = 2, kImage = 4, kTensor = 8, kMetadata = 9;
constexpr std::uint64_t kImageHeight = 1, kImageWidth = 2, kImageColorspace = 3, kImageBytes = 4;
constexpr std::uint64_t kPluginData = 1, kPluginName = 1;
}  // namespace summary
namespace tensor {
constexpr std::uint64_t kDtype = 1, kShape = 2, kStringValue = 8;
constexpr std::uint64_t kShapeDim = 2, kDimSize = 1;
constexpr std::int64_t kDtString = 7;
}  // namespace tensor

double wall_time_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::uint32_t masked_crc(std::string_view data) {
  const std::uint32_t crc = crc32c(data.data(), data.size());
  return std::rotr(crc, 15) + 0xa282ead8u;
}

std::string little_endian(std::uint64_t value, int size) {
  std::string out;
  for (int i = 0; i < size; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

// A TFRecord: length, its CRC, data, its CRC.
std::string framed(std::string_view data) {
  const std::string length = little_endian(data.size(), 8);
  return length + little_endian(masked_crc(length), 4) + std::string(data) +
         little_endian(masked_crc(data), 4);
}

constexpr std::string_view kFilePrefix = "events.out.tfevents.";

// Seconds in the newest name; 0 when there is no event file.
std::int64_t newest_time(const std::string& folder) {
  std::int64_t newest = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kFilePrefix)) continue;
    std::int64_t time = 0;
    std::from_chars(name.data() + kFilePrefix.size(), name.data() + name.size(), time);
    newest = std::max(newest, std::max<std::int64_t>(time, 1));
  }
  return newest;
}

std::string host_name() {
  char name[256] = "";
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "host";
  return name;
}

std::uint32_t big_endian_at(std::string_view data, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(data[at + i]);
  return value;
}

}  // namespace

TensorboardWriter::TensorboardWriter(const std::string& folder, std::int64_t first_new_step) {
  std::int64_t newest = 0;
  try {
    std::filesystem::create_directories(folder);
    newest = newest_time(folder);
  } catch (const std::filesystem::filesystem_error& e) {
    throw_error(ExitCode::kIo, "[tensorboard] cannot use {}: {}", folder, e.code().message());
  }
  // TensorBoard reads files in the order of their names, which a clock set back must not turn
  // round.
  const auto now = static_cast<std::int64_t>(wall_time_seconds());
  const std::int64_t time = std::max(now, newest + 1);
  file_ = std::make_unique<AppendFile>(
      format("{}/{}{:010d}.{}.{}", folder, kFilePrefix, time, host_name(), getpid()));
  Message version;
  version.fixed64(event::kWallTime, wall_time_seconds())
      .bytes(event::kFileVersion, "brain.Event:2");
  file_->append(framed(version.data()));
  if (newest == 0) return;
  Message start;
  start.varint(session_log::kStatus, session_log::kStart);
  Message restart;
  restart.fixed64(event::kWallTime, wall_time_seconds())
      .varint(event::kStep, first_new_step)
      .message(event::kSessionLog, start);
  file_->append(framed(restart.data()));
}

void TensorboardWriter::write_event(std::int64_t step, std::string_view payload) {
  Message event;
  event.fixed64(event::kWallTime, wall_time_seconds())
      .varint(event::kStep, step)
      .bytes(event::kSummary, payload);
  file_->append(framed(event.data()));
}

void TensorboardWriter::scalars(std::int64_t step, std::string_view prefix, const Json& values) {
  Message all;
  for (const auto& [name, value] : values.as_object()) {
    if (!value.is_number()) continue;
    Message one;
    one.bytes(summary::kTag, format("{}/{}", prefix, name))
        .fixed32(summary::kSimpleValue, static_cast<float>(value.as_double()));
    all.message(summary::kValue, one);
  }
  if (!all.data().empty()) write_event(step, all.data());
}

void TensorboardWriter::image(std::int64_t step, std::string_view tag, std::string_view png) {
  constexpr std::string_view kSignature = "\x89PNG\r\n\x1a\n";
  constexpr std::size_t kWidthAt = 16, kHeightAt = 20;
  constexpr std::int64_t kRgb = 3;
  DSV_CHECK(png.size() >= 24 && png.starts_with(kSignature), "[tensorboard] {} is not a PNG file",
            tag);
  Message image;
  image.varint(summary::kImageHeight, big_endian_at(png, kHeightAt))
      .varint(summary::kImageWidth, big_endian_at(png, kWidthAt))
      .varint(summary::kImageColorspace, kRgb)
      .bytes(summary::kImageBytes, png);
  Message value;
  value.bytes(summary::kTag, tag).message(summary::kImage, image);
  write_event(step, Message().message(summary::kValue, value).data());
}

void TensorboardWriter::text(std::int64_t step, std::string_view tag, std::string_view markdown) {
  Message dim, shape, plugin, metadata, tensor, value;
  dim.varint(tensor::kDimSize, 1);
  shape.message(tensor::kShapeDim, dim);
  tensor.varint(tensor::kDtype, tensor::kDtString)
      .message(tensor::kShape, shape)
      .bytes(tensor::kStringValue, markdown);
  metadata.message(summary::kPluginData, plugin.bytes(summary::kPluginName, "text"));
  value.bytes(summary::kTag, tag)
      .message(summary::kTensor, tensor)
      .message(summary::kMetadata, metadata);
  write_event(step, Message().message(summary::kValue, value).data());
}

}  // namespace dsv::train
