// Finds the caption of a clip: videos2caption.json, a text file of the same name, or the folder's
// name.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dsv::data {

enum class CaptionSource { kList, kTextFile, kFolder };

struct Caption {
  std::string text;
  CaptionSource source = CaptionSource::kFolder;
};

class Captions {
 public:
  // Reads FOLDER/videos2caption.json where it exists: [{"path": "a.mp4", "cap": "…" or ["…", …]},
  // …]. Error(kCorruptInput) naming the entry when it is not that.
  explicit Captions(const std::string& folder);

  // The caption of clip `clip` of a file, by its path relative to the folder: from the list (also
  // listed without a leading "videos/"; several captions take turns by clip number), else from
  // same_name.txt beside it, else the name of the folder it lies in, with spaces for '_' and '-'.
  Caption find(const std::string& relative_path, std::int64_t clip) const;
  // Listed paths that are not among `relative_paths`.
  std::vector<std::string> missing(const std::vector<std::string>& relative_paths) const;

 private:
  const std::vector<std::string>* listed(const std::string& relative_path) const;

  std::string folder_;
  std::map<std::string, std::vector<std::string>> list_;
};

}  // namespace dsv::data
