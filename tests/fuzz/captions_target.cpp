// data/captions: videos2caption.json of somebody's folder of videos.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>

#include "dsv/data/captions.h"
#include "json_text.h"
#include "target.h"

namespace dsv::fuzz {
namespace {

using data::Captions;

// One folder for all inputs, as the class reads files.
const std::string& folder() {
  struct Folder {
    Folder() {
      std::string pattern = std::filesystem::temp_directory_path() / "dsv-fuzz-XXXXXX";
      if (::mkdtemp(pattern.data()) == nullptr) throw std::logic_error("cannot make " + pattern);
      path = pattern;
    }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
    std::string path;
  };
  static const Folder kFolder;
  return kFolder.path;
}

Check parse(std::string_view input) {
  std::ofstream(folder() + "/videos2caption.json", std::ios::binary) << input;
  const auto captions = std::make_shared<Captions>(folder());
  return [captions] {
    for (const std::string& path : captions->missing({})) {
      const data::Caption caption = captions->find(path, 7);
      promise(caption.source == data::CaptionSource::kList, "'{}' is listed and not found", path);
      promise(caption.text.find_first_of(std::string("\0\n\x1b\x7f", 4)) == std::string::npos,
              "a caption with control characters: {}", caption.text);
    }
  };
}

std::vector<Case> cases() {
  const std::string where = "/videos2caption.json: ";
  return {
      accepted("one", R"([{"path": "a.mp4", "cap": "a dog"}])"),
      accepted("several captions",
               R"([{"path": "./a/b.mp4", "cap": ["a", "b\u001b[2J", ""], "fps": 8}])"),
      accepted("no captions", R"([{"path": "a.mp4", "cap": []}])"),
      accepted("nothing", "[]"),
      accepted("paths that lead elsewhere",
               R"([{"path": "../../etc/passwd", "cap": ""}, {"path": "/", "cap": ""}])"),
      accepted("path of a million bytes",
               "[{\"path\": \"" + repeat("x/", 500'000) + "\", \"cap\": \"\"}]"),
      accepted("path of many dots",
               "[{\"path\": \"" + repeat("./", 500'000) + "a\", \"cap\": \"\"}]"),
      accepted("caption of a million bytes",
               "[{\"path\": \"a\", \"cap\": \"" + repeat("x \\n", 250'000) + "\"}]"),
      accepted("10,000 captions", "[{\"path\": \"a\", \"cap\": [" +
                                      list_of(10'000, [](int) { return "\"b\""; }) + "]}]"),
      accepted("5,000 entries", "[" +
                                    list_of(5'000,
                                            [](std::size_t i) {
                                              return "{\"path\":\"" + std::to_string(i) +
                                                     "\",\"cap\":\"\"}";
                                            }) +
                                    "]"),
      {"empty", "", {"[json] ", where}},
      {"an object",
       R"({"path": "a", "cap": "b"})",
       {where, "expected a list of {path, cap}, got a object"}},
      {"entry a text", R"(["a.mp4"])", {"entry 0: expected an object, got a string"}},
      {"no path", R"([{"cap": "b"}])", {"entry 0: expected a string 'path'"}},
      {"path a number", R"([{"path": 1, "cap": "b"}])", {"expected a string 'path'"}},
      {"no caption", R"([{"path": "a"}])", {"expected a string or a list of strings 'cap'"}},
      {"caption a number",
       R"([{"path": "a", "cap": 1}])",
       {"expected a string or a list of strings 'cap'"}},
      {"captions of numbers",
       R"([{"path": "a", "cap": [1]}])",
       {"expected a string or a list of strings"}},
      {"path twice",
       R"([{"path": "a", "cap": ""}, {"path": "./a", "cap": ""}])",
       {"entry 1: path './a' is listed twice"}},
      {"path with an escape twice",
       R"([{"path": "\u001b[2J", "cap": ""}, {"path": "\u001b[2J", "cap": ""}])",
       {"is listed twice"}},
      {"deep",
       "[{\"path\": \"a\", \"cap\": " + repeat("[", 100) + repeat("]", 100) + "}]",
       {"nested deeper than 8"}},
      {"not UTF-8", "[{\"path\": \"a\", \"cap\": \"\xff\"}]", {"byte"}},
  };
}

}  // namespace

Target captions_target() {
  return {
      .name = "captions",
      .parse = parse,
      .codes = {ExitCode::kCorruptInput},
      .cases = cases,
      .seeds =
          [] {
            return std::vector<std::string>{
                R"([{"path": "./a/b.mp4", "cap": ["a", "b"]}, {"path": "c.mp4", "cap": "d e", "x": 1}])"};
          },
      .words = {"\"path\"", "\"cap\"", "\"./\"", "\"\\u0000\"", "[]", "{}", ",", ":", "null",
                "\"a\""},
      .repair = {},
      .bytes_per_byte = 64,
      .fixed_bytes = 64 << 10,
      .min_reasons = 8};
}

}  // namespace dsv::fuzz
