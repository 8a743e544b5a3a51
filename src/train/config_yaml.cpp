#include "config_yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <unordered_map>

#include "dsv/base/error.h"
#include "dsv/base/printable.h"

namespace dsv::train {
namespace {

constexpr std::int64_t kMaxNodes = 10'000;
constexpr std::size_t kMaxDepth = 32;

YamlMark mark_of(const YAML::Mark& mark) {
  if (mark.is_null()) return {};
  return {mark.line + 1, mark.column + 1};
}

template <typename... Args>
[[noreturn]] void refuse(const std::string& file, YamlMark at, std::string_view pattern,
                         const Args&... args) {
  throw_error(ExitCode::kConfig, "{}: {}", to_string(file, at), format(pattern, args...));
}

std::int64_t count_nodes(const YamlNode& node) {
  std::int64_t count = 1;
  for (const YamlNode& item : node.items) count += count_nodes(item);
  for (const YamlMember& member : node.members) count += count_nodes(member.value);
  return count;
}

std::size_t depth_of(const YamlNode& node) {
  std::size_t below = 0;
  for (const YamlNode& item : node.items) below = std::max(below, depth_of(item));
  for (const YamlMember& member : node.members) below = std::max(below, depth_of(member.value));
  return below + 1;
}

// Builds the tree; every limit holds while parsing, not after.
class Builder : public YAML::EventHandler {
 public:
  explicit Builder(const std::string& file) : file_(file) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    YamlNode node;
    node.at = mark_of(mark);
    add(std::move(node), anchor);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag);
    check_escapes(mark, value);
    YamlNode node;
    node.kind = YamlNode::Kind::kScalar;
    node.at = mark_of(mark);
    node.text = value;
    node.quoted = tag == "!";
    add(std::move(node), anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchored_.find(anchor);
    if (found == anchored_.end()) refuse(file_, mark_of(mark), "an alias may not contain itself");
    if (open_.size() + depth_of(found->second) > kMaxDepth) too_deep(mark_of(mark));
    count(count_nodes(found->second) - 1, mark_of(mark));
    YamlNode copy = found->second;
    copy.at = mark_of(mark);
    add(std::move(copy), YAML::NullAnchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::kSequence, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::kMapping, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

  YamlNode take() { return std::move(root_); }

 private:
  struct Open {
    YamlNode node;
    YAML::anchor_t anchor;
    bool has_key = false;
    std::string key;
    YamlMark key_at;
    std::unordered_map<std::string, YamlMark> keys{};
  };

  void check_tag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    refuse(file_, mark_of(mark), "YAML tags are not supported, got {}", quote(tag));
  }
  // The text is UTF-8, but yaml-cpp makes \N and \_ single bytes, which no reader would take back.
  void check_escapes(const YAML::Mark& mark, std::string_view value) {
    while (!value.empty()) {
      const std::size_t size = utf8_length(value);
      if (size == 0) refuse(file_, mark_of(mark), "the escapes \\N and \\_ are not supported");
      value.remove_prefix(size);
    }
  }
  void count(std::int64_t nodes, YamlMark at) {
    num_nodes_ += nodes;
    if (num_nodes_ > kMaxNodes) {
      refuse(file_, at, "expected at most {} values, aliases expanded", kMaxNodes);
    }
  }
  [[noreturn]] void too_deep(YamlMark at) {
    refuse(file_, at, "nested deeper than {} levels", kMaxDepth);
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor) {
    check_tag(mark, tag);
    if (expects_key())
      refuse(file_, mark_of(mark),
             "expected a plain key, got a list or mapping; is a bracket left open?");
    if (open_.size() >= kMaxDepth) too_deep(mark_of(mark));
    Open opened{.node = {}, .anchor = anchor};
    opened.node.kind = kind;
    opened.node.at = mark_of(mark);
    open_.push_back(std::move(opened));
  }
  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    add(std::move(done.node), done.anchor);
  }
  bool expects_key() const {
    return !open_.empty() && open_.back().node.kind == YamlNode::Kind::kMapping &&
           !open_.back().has_key;
  }

  void add(YamlNode node, YAML::anchor_t anchor) {
    count(1, node.at);
    if (expects_key()) {
      if (anchor != YAML::NullAnchor) anchored_[anchor] = node;
      return add_key(std::move(node));
    }
    if (anchor != YAML::NullAnchor) anchored_[anchor] = node;
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::kSequence) {
      parent.node.items.push_back(std::move(node));
      return;
    }
    // yaml-cpp finds a missing value where the next token is.
    if (node.kind == YamlNode::Kind::kNull && node.at.line != parent.key_at.line) {
      node.at = parent.key_at;
    }
    parent.node.members.push_back({std::move(parent.key), parent.key_at, std::move(node)});
    parent.has_key = false;
  }
  void add_key(YamlNode node) {
    if (node.kind != YamlNode::Kind::kScalar) {
      refuse(file_, node.at, "expected a plain key, got {}", describe(node));
    }
    if (node.text == "<<" && !node.quoted) {
      refuse(file_, node.at,
             "merge keys (<<) are not supported; give several files, later ones win");
    }
    Open& parent = open_.back();
    const auto [first, is_new] = parent.keys.emplace(node.text, node.at);
    if (!is_new) {
      refuse(file_, node.at, "duplicate key {}, first given on line {}", quote(node.text),
             first->second.line);
    }
    parent.key = std::move(node.text);
    parent.key_at = node.at;
    parent.has_key = true;
  }

  const std::string& file_;
  YamlNode root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, YamlNode> anchored_;
  std::int64_t num_nodes_ = 0;
};

// yaml-cpp guesses encodings, takes byte 4 for the end, and is lax about tabs: this is checked
// first.
void check_text(std::string_view text, const std::string& file) {
  YamlMark at{1, 1};
  bool indenting = true;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t size = utf8_length(text.substr(i));
    const auto c = static_cast<unsigned char>(text[i]);
    if (size == 0) refuse(file, at, "expected UTF-8, got byte 0x{:02x}", static_cast<unsigned>(c));
    if ((c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7f) {
      refuse(file, at, "expected text, got control character 0x{:02x}", static_cast<unsigned>(c));
    }
    if (c == '\t' && indenting) refuse(file, at, "expected spaces for indentation, got a tab");
    if (c != ' ') indenting = false;
    ++at.column;
    if (c == '\n') {
      at = {at.line + 1, 1};
      indenting = true;
    }
    i += size;
  }
}

}  // namespace

std::string to_string(const std::string& file, const YamlMark& at) {
  return at.line == 0 ? file : format("{}:{}:{}", file, at.line, at.column);
}

std::string printable(std::string_view text) {
  constexpr std::size_t kMaxBytes = 63;
  return dsv::printable(text, kMaxBytes);
}

std::string quote(std::string_view text) {
  return format("'{}'", printable(text));
}

std::string describe(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kSequence:
      return "a list";
    case YamlNode::Kind::kMapping:
      return "a mapping";
    case YamlNode::Kind::kScalar:
      break;
  }
  return node.quoted ? "text " + quote(node.text) : quote(node.text);
}

YamlNode parse_yaml(std::string_view text, const std::string& file) {
  if (text.size() > kMaxConfigBytes) {
    refuse(file, {}, "expected at most {} bytes of configuration, got more", kMaxConfigBytes);
  }
  check_text(text, file);
  try {
    // yaml-cpp closes a quote that is still open at the end; it refuses a document's end inside of
    // one.
    std::istringstream stream{std::string(text) + "\n...\n"};
    YAML::Parser parser(stream);
    Builder builder(file);
    if (!parser.HandleNextDocument(builder)) return {};
    Builder second(file);
    if (parser.HandleNextDocument(second)) {
      refuse(file, {}, "expected one YAML document, got several");
    }
    return builder.take();
  } catch (const YAML::Exception& e) {
    const auto lines = 1 + std::count(text.begin(), text.end(), '\n');
    if (e.mark.line >= lines) {  // at the end that was added
      refuse(file, {}, "malformed YAML: the text ends within quotes, brackets, or an indentation");
    }
    refuse(file, mark_of(e.mark), "malformed YAML: {}", dsv::printable(e.msg, 200));
  }
}

}  // namespace dsv::train
