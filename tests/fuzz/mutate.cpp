#include "mutate.h"

#include <algorithm>
#include <string_view>

namespace dsv::fuzz {
namespace {

constexpr std::string_view kNumbers[] = {"0",
                                         "-0",
                                         "1",
                                         "-1",
                                         "2",
                                         "3",
                                         "7",
                                         "64",
                                         "255",
                                         "256",
                                         "65535",
                                         "65536",
                                         "65537",
                                         "1000000",
                                         "1000001",
                                         "2147483647",
                                         "2147483648",
                                         "-2147483648",
                                         "-2147483649",
                                         "4294967295",
                                         "4294967296",
                                         "1099511627776",
                                         "4611686018427387904",
                                         "9007199254740993",
                                         "9223372036854775807",
                                         "9223372036854775808",
                                         "-9223372036854775808",
                                         "-9223372036854775809",
                                         "18446744073709551615",
                                         "18446744073709551616",
                                         "99999999999999999999999999",
                                         "0.5",
                                         "-1.5",
                                         "1.0",
                                         "1e3",
                                         "1e38",
                                         "1e39",
                                         "1e308",
                                         "1e309",
                                         "-1e309",
                                         "5e-324",
                                         "1e-400",
                                         "00",
                                         "01",
                                         "0x10",
                                         "+1",
                                         "1.",
                                         ".5",
                                         "1e",
                                         "-",
                                         "NaN",
                                         ".nan",
                                         "-.inf",
                                         "Infinity",
                                         "null",
                                         "true",
                                         "\"1\"",
                                         "[]",
                                         "{}"};
// Bytes that mean something in JSON, YAML, or UTF-8.
constexpr char kBytes[] =
    "\x01\x04\x07\x1b\x20\x7f\x80\xa0\xbf\xc0\xc2\xe0\xed\xef\xf0\xf4\xff"
    "\"'{}[]:,\\/-+.eE#&*!|>%@`~?<= \n\r\t09azAZ_";  // and the NUL at its end

struct Span {
  std::size_t begin = 0, end = 0;
  std::size_t size() const { return end - begin; }
};

bool is_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         c == '.' || c == '-' || c == '+' || static_cast<unsigned char>(c) >= 0x80;
}

bool is_numeric(std::string_view token) {
  const std::size_t first = !token.empty() && token[0] == '-' ? 1 : 0;
  return token.size() > first && token[first] >= '0' && token[first] <= '9';
}

// The token at `at`: a quoted text, a word or number, a line's indentation, or a single byte.
Span token_at(std::string_view text, std::size_t at) {
  std::size_t end = at + 1;
  if (text[at] == '"') {
    while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
    end = std::min(end + 1, text.size());
  } else if (is_word(text[at])) {
    while (end < text.size() && is_word(text[end])) ++end;
  } else if (text[at] == ' ') {
    while (end < text.size() && text[end] == ' ') ++end;
  }
  return {at, end};
}

std::vector<Span> tokens_of(std::string_view text) {
  std::vector<Span> out;
  for (std::size_t at = 0; at < text.size(); at = out.back().end) out.push_back(token_at(text, at));
  return out;
}

// The bracketed group that begins at token i, or the token alone.
Span group_at(std::string_view text, const std::vector<Span>& tokens, std::size_t i) {
  int depth = 0;
  for (std::size_t k = i; k < tokens.size(); ++k) {
    const char c = text[tokens[k].begin];
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (depth <= 0) return {tokens[i].begin, tokens[k].end};
  }
  return tokens[i];
}

class Mutation {
 public:
  Mutation(const std::vector<std::string>& seeds, const std::vector<std::string>& words,
           Random& random)
      : seeds_(seeds), words_(words), random_(random), text_(random.pick(seeds)) {}

  std::string run() {
    std::size_t changes = 1;
    while (changes < 8 && random_.one_in(2)) ++changes;
    for (std::size_t i = 0; i < changes; ++i) {
      change();
      if (text_.size() > kMaxMutatedBytes) text_.resize(kMaxMutatedBytes);
    }
    return std::move(text_);
  }

 private:
  void change() {
    if (text_.empty()) {
      text_ = random_.pick(seeds_);
      return;
    }
    switch (random_.below(14)) {
      case 0:
        return flip_bit();
      case 1:
        return set_byte();
      case 2:
        return cut();
      case 3:
        return repeat_range();
      case 4:
        return splice();
      case 5:
      case 6:
      case 7:
        return replace_number();
      case 8:
        return drop_group();
      case 9:
        return double_group();
      case 10:
        return swap_groups();
      case 11:
        return wrap_group();
      case 12:
        return insert_word();
      default:
        return replace_by_word();
    }
  }

  void flip_bit() {
    char& c = text_[random_.below(text_.size())];
    c = static_cast<char>(c ^ (1 << random_.below(8)));
  }
  void set_byte() { text_[random_.below(text_.size())] = random_.pick(kBytes); }
  void cut() {
    const Span range = short_range();
    switch (random_.below(3)) {
      case 0:
        text_.resize(range.begin);
        break;
      case 1:
        text_.erase(0, range.begin);
        break;
      default:
        text_.erase(range.begin, range.size());
    }
  }
  void repeat_range() {
    const Span range = short_range();
    const std::string piece = text_.substr(range.begin, range.size());
    std::size_t times = std::size_t{1} << random_.below(random_.one_in(8) ? 12 : 3);
    times = std::min(times, kMaxMutatedBytes / std::max<std::size_t>(1, piece.size()));
    std::string run;
    for (std::size_t i = 0; i < times; ++i) run += piece;
    text_.insert(range.begin, run);
  }
  // The beginning of this text and the end of another, or a group of another.
  void splice() {
    const std::string& other = random_.pick(seeds_);
    const std::vector<Span> mine = tokens_of(text_), theirs = tokens_of(other);
    if (theirs.empty()) return;
    const std::size_t from = random_.below(theirs.size()), at = random_.below(mine.size());
    if (random_.one_in(2)) {
      text_ = text_.substr(0, mine[at].begin) + other.substr(theirs[from].begin);
      return;
    }
    const Span group = group_at(other, theirs, from), hole = group_at(text_, mine, at);
    text_.replace(hole.begin, hole.size(), other.substr(group.begin, group.size()));
  }
  void replace_number() {
    std::vector<Span> numbers = tokens_of(text_);
    std::erase_if(numbers, [&](const Span& s) {
      return !is_numeric(std::string_view(text_).substr(s.begin, s.size()));
    });
    if (numbers.empty()) return set_byte();
    const Span at = random_.pick(numbers);
    std::string value(random_.pick(kNumbers));
    if (random_.one_in(3)) value = neighbour(text_.substr(at.begin, at.size()));
    text_.replace(at.begin, at.size(), value);
  }
  // One more or less, half, or double: mistakes that ranges alone do not catch.
  std::string neighbour(const std::string& number) {
    long long value = 0;
    for (const char c : number) {
      if (c < '0' || c > '9' || value > 1'000'000'000'000) break;
      value = 10 * value + (c - '0');
    }
    const long long values[] = {value - 1, value + 1, value / 2, 2 * value, value + 8, -value};
    return std::to_string(random_.pick(values));
  }
  void drop_group() {
    const Span group = random_group();
    text_.erase(group.begin, group.size());
  }
  void double_group() {
    const Span group = random_group();
    const std::string piece = text_.substr(group.begin, group.size());
    text_.insert(group.end, random_.one_in(2) ? "," + piece : piece);
  }
  // Two values change places, or one takes the place of the other.
  void swap_groups() {
    Span a = random_group(), b = random_group();
    if (a.begin > b.begin) std::swap(a, b);
    if (a.end > b.begin) return;
    const std::string first = text_.substr(a.begin, a.size());
    const std::string second = text_.substr(b.begin, b.size());
    text_.replace(b.begin, b.size(), first);
    if (random_.one_in(2)) text_.replace(a.begin, a.size(), second);
  }
  void wrap_group() {
    const Span group = random_group();
    const std::size_t times = std::size_t{1} << random_.below(random_.one_in(8) ? 10 : 2);
    const bool list = random_.one_in(2);
    std::string open, close;
    for (std::size_t i = 0; i < times; ++i) {
      open += list ? "[" : "{\"a\":";
      close += list ? "]" : "}";
    }
    text_.insert(group.end, close);
    text_.insert(group.begin, open);
  }
  void insert_word() {
    if (words_.empty()) return set_byte();
    text_.insert(random_.below(text_.size() + 1), random_.pick(words_));
  }
  void replace_by_word() {
    if (words_.empty()) return set_byte();
    const Span group = random_group();
    text_.replace(group.begin, group.size(), random_.pick(words_));
  }

  Span short_range() {
    const std::size_t begin = random_.below(text_.size());
    const std::size_t longest =
        std::min<std::size_t>(text_.size() - begin, random_.one_in(4) ? 256 : 16);
    return {begin, begin + 1 + random_.below(longest)};
  }
  Span random_group() {
    const std::vector<Span> tokens = tokens_of(text_);
    return group_at(text_, tokens, random_.below(tokens.size()));
  }

  const std::vector<std::string>& seeds_;
  const std::vector<std::string>& words_;
  Random& random_;
  std::string text_;
};

}  // namespace

std::string mutate(const std::vector<std::string>& seeds, const std::vector<std::string>& words,
                   Random& random) {
  return Mutation(seeds, words, random).run();
}

}  // namespace dsv::fuzz
