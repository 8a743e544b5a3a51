// TensorBoard event files, written without TensorFlow: scalars, images, and text.
// Source: the TFRecord framing and the Event, Summary, and TensorProto messages of TensorFlow.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "dsv/base/json.h"
#include "dsv/train/append_file.h"

namespace dsv::train {

class TensorboardWriter {
 public:
  // Opens a new event file in `folder` (made when absent), named so that it sorts after those that
  // are there. When there are any, it begins by telling TensorBoard to forget what they hold from
  // first_new_step on. Throws Error(kIo). The other calls never throw for I/O; see AppendFile.
  TensorboardWriter(const std::string& folder, std::int64_t first_new_step);

  // One scalar "prefix/name" for each number in the object `values`; other values are left out.
  void scalars(std::int64_t step, std::string_view prefix, const Json& values);
  // A whole PNG file.
  void image(std::int64_t step, std::string_view tag, std::string_view png);
  // Markdown.
  void text(std::int64_t step, std::string_view tag, std::string_view markdown);

  const std::string& path() const { return file_->path(); }
  std::int64_t num_lost() const { return file_->num_lost(); }

 private:
  void write_event(std::int64_t step, std::string_view payload);
  std::unique_ptr<AppendFile> file_;
};

}  // namespace dsv::train
