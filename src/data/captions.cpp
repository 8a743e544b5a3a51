#include "dsv/data/captions.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "dsv/base/json.h"
#include "dsv/data/atomic_file.h"
#include "dsv/data/text.h"

namespace dsv::data {
namespace {

constexpr std::int64_t kMaxListBytes = std::int64_t{1} << 30, kMaxTextBytes = 1 << 20;

std::string without_dot(const std::string& path) {
  std::size_t begin = 0;
  while (path.compare(begin, 2, "./") == 0) begin += 2;
  return path.substr(begin);
}

}  // namespace

Captions::Captions(const std::string& folder) : folder_(folder) {
  const std::string path = folder + "/videos2caption.json";
  if (!std::filesystem::exists(path)) return;
  JsonLimits limits;
  limits.max_depth = 8;
  limits.max_bytes = static_cast<std::size_t>(kMaxListBytes);
  const Json root = parse_json(read_file(path, kMaxListBytes), path, limits);
  const auto fail = [&](std::size_t entry, const std::string& why) {
    throw_error(ExitCode::kCorruptInput, "[captions] {}: entry {}: {}", path, entry, why);
  };
  if (!root.is_array()) {
    throw_error(ExitCode::kCorruptInput,
                "[captions] {}: expected a list of {{path, cap}}, got a {}", path,
                root.type_name());
  }
  for (std::size_t i = 0; i < root.size(); ++i) {
    const Json& entry = root.as_array()[i];
    if (!entry.is_object()) fail(i, format("expected an object, got a {}", entry.type_name()));
    const Json* file = entry.find("path");
    const Json* cap = entry.find("cap");
    if (file == nullptr || !file->is_string()) fail(i, "expected a string 'path'");
    if (cap == nullptr || !(cap->is_string() || cap->is_array())) {
      fail(i, "expected a string or a list of strings 'cap'");
    }
    std::vector<std::string> texts;
    if (cap->is_string()) texts.push_back(clean_text(cap->as_string()));
    if (cap->is_array()) {
      for (const Json& text : cap->as_array()) {
        if (!text.is_string()) fail(i, "expected a string or a list of strings 'cap'");
        texts.push_back(clean_text(text.as_string()));
      }
    }
    if (texts.empty()) texts.emplace_back();
    if (!list_.emplace(without_dot(file->as_string()), std::move(texts)).second) {
      fail(i, format("path '{}' is listed twice", printable(file->as_string())));
    }
  }
}

const std::vector<std::string>* Captions::listed(const std::string& relative_path) const {
  auto it = list_.find(relative_path);
  if (it == list_.end() && relative_path.rfind("videos/", 0) == 0) {
    it = list_.find(relative_path.substr(7));
  }
  return it == list_.end() ? nullptr : &it->second;
}

Caption Captions::find(const std::string& relative_path, std::int64_t clip) const {
  if (const auto* texts = listed(relative_path)) {
    return {(*texts)[static_cast<std::size_t>(clip) % texts->size()], CaptionSource::kList};
  }
  const std::filesystem::path path = std::filesystem::path(folder_) / relative_path;
  std::filesystem::path text_path = path;
  text_path.replace_extension(".txt");
  std::error_code ignored;
  if (std::filesystem::is_regular_file(text_path, ignored)) {
    return {clean_text(read_file(text_path.string(), kMaxTextBytes)), CaptionSource::kTextFile};
  }
  std::string name =
      std::filesystem::absolute(path).lexically_normal().parent_path().filename().string();
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '_' || c == '-'; }, ' ');
  return {clean_text(name), CaptionSource::kFolder};
}

std::vector<std::string> Captions::missing(const std::vector<std::string>& relative_paths) const {
  std::set<const std::vector<std::string>*> found;
  for (const std::string& path : relative_paths) found.insert(listed(path));
  std::vector<std::string> out;
  for (const auto& [path, texts] : list_) {
    if (found.count(&texts) == 0) out.push_back(path);
  }
  return out;
}

}  // namespace dsv::data
