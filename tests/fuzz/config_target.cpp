// train/config: YAML files, the same as JSON out of checkpoints, and --set settings.
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "dsv/train/config_io.h"
#include "json_text.h"
#include "target.h"

namespace dsv::fuzz {
namespace {

using train::Config;

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  if (!in) throw std::logic_error("cannot read " + path.string());
  return out.str();
}

// What is accepted is valid and comes back the same from both of its texts.
void check(const Config& config) {
  const std::string yaml = train::dump_config(config), json = train::config_json(config).dump();
  try {
    train::validate(config);
    promise(train::dump_config(train::parse_config(yaml, "dump")) == yaml, "its YAML changes: {}",
            yaml);
    promise(train::config_json(train::parse_config(json, "dump")).dump() == json,
            "its JSON changes: {}", json);
  } catch (const Error& error) {
    promise(false, "its own text is refused: {}\n{}", error.what(), yaml);
  }
}

Check parse_file(std::string_view input) {
  const auto config = std::make_shared<Config>(train::parse_config(input, "F"));
  return [config] { check(*config); };
}

// Settings, one a line.
Check parse_sets(std::string_view input) {
  std::vector<std::string> sets;
  std::istringstream lines{std::string(input)};
  for (std::string line; std::getline(lines, line);) sets.push_back(line);
  const auto config = std::make_shared<Config>(train::load_config({}, sets));
  return [config] { check(*config); };
}

// The table of tests/train/configs_bad: "FILE fragment ~ fragment".
std::vector<Case> bad_files() {
  const std::filesystem::path folder = std::string(DSV_SOURCE_DIR) + "/tests/train/configs_bad";
  std::vector<Case> cases;
  std::istringstream lines(read(folder / "expected.txt"));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("#")) continue;
    const auto space = line.find(' ');
    Case c{line.substr(0, space), read(folder / line.substr(0, space)), {}, ExitCode::kConfig};
    std::string rest = line.substr(space + 1);
    for (auto cut = rest.find(" ~ "); cut != rest.npos; cut = rest.find(" ~ ")) {
      c.fragments.push_back(rest.substr(0, cut));
      rest = rest.substr(cut + 3);
    }
    c.fragments.push_back(rest);
    cases.push_back(std::move(c));
  }
  return cases;
}

std::vector<Case> file_cases() {
  std::vector<Case> cases = bad_files();
  for (const auto& item :
       std::filesystem::recursive_directory_iterator(std::string(DSV_SOURCE_DIR) + "/configs")) {
    if (item.path().extension() == ".yaml") {
      cases.push_back(accepted(item.path().filename().string(), read(item.path())));
    }
  }
  cases.push_back(accepted("every default", train::dump_config({})));
  cases.push_back(accepted("every default, as JSON", train::config_json({}).dump(2)));
  cases.push_back({"escape in a bucket",
                   "data: {buckets: {\"64x64\\e[2J\": 1}}\n",
                   {"F:1:18: data.buckets.64x64\\x1b[2J: expected HEIGHTxWIDTH"},
                   ExitCode::kConfig});
  for (const char* escape : {"\\N", "\\_"}) {
    cases.push_back({std::string("escape ") + escape,
                     std::string("run: {dir: \"a") + escape + "b\"}\n",
                     {"F:1:12: the escapes \\N and \\_ are not supported"},
                     ExitCode::kConfig});
  }
  for (const auto& [name, text, shown] :
       {std::tuple{"escaped line break of another system", "a: \"\\\r\"", "\\x0d"},
        std::tuple{"escaped half a character", "a: \"\\ü\"", "\\xc3"}}) {
    cases.push_back(
        {name, text, {"malformed YAML: unknown escape character: ", shown}, ExitCode::kConfig});
  }
  cases.push_back(accepted("other escapes", "sample: {prompts: [\"\\x85\\u00a0\\L\\P\\0\\e\"]}\n"));
  // As large as files may be: the slowest that YAML can be made to be.
  const std::size_t most = 128u << 10;
  const auto filled = [&](const std::string& begin, const std::string& piece) {
    return begin + repeat(piece, (most - begin.size()) / piece.size());
  };
  const std::vector<std::pair<std::string, std::string>> large = {
      {"open lists", filled("", "[")},
      {"open mappings", filled("", "{")},
      {"open mappings with keys", filled("", "{a: ")},
      {"dashes", filled("", "- ")},
      {"question marks", filled("", "? ")},
      {"colons", filled("", ": ")},
      {"open quotes", filled("a: ", "'")},
      {"one text", filled("a: \"", "x")},
      {"one key", filled("", "k")},
      {"escapes", filled("a: \"", "\\x41")},
      {"anchors", filled("a: ", "&a ")},
      {"anchored values", filled("a: [", "&b 1, ")},
      {"aliases", filled("a: [&b 1, ", "*b, ")},
      {"tags", filled("a: ", "!a ")},
      {"comments", filled("", "#\n")},
      {"empty lines", filled("", "\n")},
      {"documents", filled("", "---\n")},
      {"directives", filled("", "%YAML 1.2\n")},
      {"sections", filled("", "run: {}\n")},
      {"block text", filled("a: |\n", "  x\n")},
      {"folded text", filled("a: >\n", " x\n")},
      {"deeper and deeper",
       [&] {
         std::string text;
         for (std::size_t i = 0; text.size() + i + 4 < most; ++i)
           text += std::string(i, ' ') + "a:\n";
         return text;
       }()},
      {"many columns", "a: " + repeat(" ", most - 10) + "1"},
      {"one byte too many", repeat("#", most + 1)},
  };
  for (const auto& [name, text] : large)
    cases.push_back({"128 KiB of " + name, text, {}, ExitCode::kConfig});
  return cases;
}

std::vector<std::string> file_seeds() {
  const std::string small =
      "run: {name: a, seed: 7, steps: 100}\n"
      "model:\n  preset: tiny-cpu\n  num_layers: 2\n  patch_size: [1, 2, 2]\n  eps: 1.0e-6\n"
      "optim:\n  lr: 1e-4\n  schedule: cosine\n  warmup_steps: 10\n"
      "data:\n  buckets:\n    64x64:\n      16: {probability: 1, batch: 2}\n      1: [0.5, 4]\n"
      "resume: {allow: [optim.lr, \"optim.beta2\"]}\n"
      "sample: {prompts: ['a b', \"c\\n\"]}\n";
  return {small, train::dump_config({}), train::config_json({}).dump(),
          "a: &x {b: 1}\nc: *x\nd: !t [1]\n? e\n: |\n  f\n"};
}

std::vector<Case> set_cases() {
  const auto bad = [](std::string name, std::string text, std::vector<std::string> fragments) {
    return Case{std::move(name), std::move(text), std::move(fragments), ExitCode::kConfig};
  };
  return {
      accepted("nothing", ""),
      accepted("several", "run.name=a\noptim.lr=1e-3\nmodel.patch_size=[1, 2, 2]\nrun.name=c"),
      accepted("a bucket table", "data.buckets={64x64: {16: {probability: 1, batch: 2}}}"),
      bad("no value", "run.seed", {"--set run.seed: expected --set section.key=value"}),
      bad("no key", "=1", {"expected --set section.key=value"}),
      bad("empty value", "run.seed=", {"run.seed: expected an integer"}),
      bad("section alone", "run=1", {"run: expected section.key"}),
      bad("misspelt", "optim.lrr=1", {"did you mean optim.lr?"}),
      bad("three parts", "a.b.c=1", {"a.b.c"}),
      bad("a list for a number", "optim.lr=[1]",
          {"optim.lr: expected a finite number, got a list"}),
      bad("open list", "optim.lr=[", {"--set optim.lr=["}),
      bad("a document", "optim.lr=1\\n---\\n2", {"optim.lr"}),
      bad("alias", "optim.lr=*a", {"malformed YAML"}),
      bad("tab", "optim.lr=\t1", {"tab"}),
      bad("control character", "run.name=a\x1b[31m", {"run.name"}),
      bad("control character in a key", "ru\x1b[31mn.name=a", {}),
      bad("not UTF-8", "run.name=\xff", {"run.name"}),
      bad("not UTF-8 in a number", "optim.lr=\xff", {"UTF-8"}),
      bad("long key", repeat("k", 100'000) + "=1", {}),
      bad("long value", "optim.lr=" + repeat("1", 100'000), {"optim.lr"}),
      bad("long name", "run.name=" + repeat("x", 100'000), {"run.name"}),
      bad("large value", "optim.lr=" + repeat("1", 200'000), {"at most 131072 bytes"}),
      bad("deep value", "optim.lr=" + repeat("[", 1000), {"is a bracket left open?"}),
      bad("many", list_of(1, [](int) { return repeat("a.b=1\n", 1000); }), {"… and 980 more"}),
  };
}

std::vector<std::string> words() {
  std::vector<std::string> out = {
      "---",       "...",  "- ", "? ",   ": ", "&a ", "*a", "!t ",   "<<: ",     "|\n",  ">\n",
      "%YAML 1.1", "# ",   "\n", "\n  ", "\t", "'",   "\"", "~",     ".inf",     ".nan", "1e-4",
      "true",      "auto", "[",  "]",    "{",  "}",   ", ", "\\x1b", "\xc2\x85", "null"};
  const Json config = train::config_json({});
  for (const auto& [section, members] : config.as_object()) {
    out.push_back(section);
    for (const auto& [key, value] : members.as_object()) {
      out.push_back(key);
      out.push_back(value.dump());
    }
  }
  return out;
}

}  // namespace

// Memory: a value of "a," is a node of 128 bytes in a growing list, beside what yaml-cpp keeps of
// the text; aliases make up to 10,000 nodes of few bytes. With the largest file: 36 MiB.
Target config_target() {
  return {.name = "config",
          .parse = parse_file,
          .codes = {ExitCode::kConfig},
          .cases = file_cases,
          .seeds = file_seeds,
          .words = words(),
          .repair = {},
          .bytes_per_byte = 256,
          .fixed_bytes = 4 << 20,
          .min_reasons = 300};
}

Target set_target() {
  return {.name = "set",
          .parse = parse_sets,
          .codes = {ExitCode::kConfig},
          .cases = set_cases,
          .seeds =
              [] {
                return std::vector<std::string>{
                    "run.name=x\noptim.lr=1e-3",
                    "model.preset=dsv-0.8b\nmodel.num_layers=3\nmodel.qk_norm=false",
                    "data.buckets={64x64: {16: [1, 2], 1: {probability: 0.5, batch: 4}}}",
                    "resume.allow=[optim.lr]\nsample.prompts=[a, \"b\"]"};
              },
          .words = words(),
          .repair = {},
          .bytes_per_byte = 256,
          .fixed_bytes = 4 << 20,
          .min_reasons = 300};
}

}  // namespace dsv::fuzz
