#include "dsv/train/report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>

#include "dsv/base/format.h"
#include "dsv/data/atomic_file.h"
#include "dsv/train/metrics.h"
#include "dsv/train/svg_chart.h"

namespace dsv::train {
namespace {

namespace fs = std::filesystem;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t kMostPoints = 1500, kMostColumns = 120;
constexpr std::int64_t kMaxPngBytes = 64 << 20, kMaxConfigBytes = 1 << 20;

double number(const Json& record, std::string_view key) {
  const Json* value = record.find(key);
  return value == nullptr || value->is_object() ? kNone : metric_number(*value);
}

using Records = std::vector<MetricRecord>;

// Every n-th record, so that a page of a million steps opens.
Series series(const Records& records, const std::string& kind, const std::string& key,
              const std::string& name) {
  Series out{.name = name};
  for (const MetricRecord& r : records) {
    if (r.kind != kind || r.values.find(key) == nullptr) continue;
    out.points.emplace_back(static_cast<double>(r.step), number(r.values, key));
  }
  const std::size_t every = out.points.size() / kMostPoints + 1;
  std::vector<std::pair<double, double>> kept;
  for (std::size_t i = 0; i < out.points.size(); i += every) kept.push_back(out.points[i]);
  out.points = std::move(kept);
  return out;
}

std::vector<Series> present(std::vector<Series> all) {
  std::erase_if(all, [](const Series& s) { return s.points.empty(); });
  return all;
}

std::string figure(const std::string& svg) {
  return "<figure>" + svg + "</figure>\n";
}

// --- Sparsity -------------------------------------------------------------------------------------

double block_density(const Json& block) {
  if (!block.at("sparse").as_bool()) return 1;
  double sum = 0;
  const Json::Array& heads = block.at("heads").as_array();
  for (const Json& head : heads) sum += head.as_array()[4].as_double();
  return sum / static_cast<double>(std::max<std::size_t>(1, heads.size()));
}

// One row a block, one column a record.
template <typename Fn>
HeatMap by_step(const Records& records, const std::string& title, const Fn& value) {
  HeatMap map{.title = title, .x_label = "step", .y_label = "block"};
  const std::size_t every = records.size() / kMostColumns + 1;
  for (std::size_t i = 0; i < records.size(); i += every) {
    const Json::Array& blocks = records[i].values.at("blocks").as_array();
    map.rows.resize(blocks.size());
    for (std::size_t b = 0; b < blocks.size(); ++b) map.rows[b].push_back(value(blocks[b]));
    map.x_names.push_back(format("{}", records[i].step));
  }
  return map;
}

// One row a block, one column a head, of the last record. Fields as block_state_json.cpp lists them.
HeatMap by_head(const Records& records, const std::string& title, std::size_t field) {
  HeatMap map{.title = title, .x_label = "head", .y_label = "block"};
  for (const Json& block : records.back().values.at("blocks").as_array()) {
    std::vector<double> row;
    for (const Json& head : block.at("heads").as_array()) {
      const double v = head.as_array()[field].as_double();
      row.push_back(v < 0 ? kNone : v);
    }
    map.rows.push_back(std::move(row));
  }
  return map;
}

double least_coverage(const Json& block) {
  double least = 2;
  for (const Json& head : block.at("heads").as_array()) {
    least = std::min(least, head.as_array()[3].as_double());
  }
  return least < 0 || least > 1.5 ? kNone : least;
}

std::string sparsity_section(const Records& train, const Records& sparsity,
                             const std::vector<std::pair<double, std::string>>& marks) {
  if (sparsity.empty()) return "";
  std::string out = "<h2>Sparsity</h2>\n";
  out += figure(svg(LineChart{
      .title = "Share of keys that attention looks at, and of blocks that are sparse",
      .x_label = "step",
      .y_label = "share",
      .series = present({series(train, "train", "density", "density")}),
      .marks = marks}));
  out += figure(svg(LineChart{
      .title = "How good the selection is",
      .x_label = "step",
      .y_label = "share",
      .series = present({series(train, "train", "coverage", "covered mass"),
                         series(train, "train", "covered_of_oracle", "of the oracle's"),
                         series(train, "train", "predictor_recall", "recall")}),
      .marks = marks}));
  out += figure(svg(LineChart{.title = "Predictor loss (average)",
                              .x_label = "step",
                              .y_label = "1 - cosine",
                              .series = present({series(train, "train", "predictor_loss", "loss")}),
                              .marks = marks,
                              .log_y = true}));
  out += figure(svg(by_step(sparsity, "Density by block and step (1: dense)", block_density)));
  out += figure(svg(by_step(sparsity, "Least coverage of a block's heads", least_coverage)));
  out += figure(svg(by_head(sparsity, "Token sparsity by head, at the end", 0)));
  out += figure(svg(by_head(sparsity, "Sparsity in shared blocks of keys (S_exec), at the end", 1)));
  out += figure(svg(by_head(sparsity, "Coverage by head, at the end", 3)));
  return out;
}

// --- Time -----------------------------------------------------------------------------------------

struct Part {
  const char* name;
  std::vector<const char*> scopes;
};
const std::vector<Part>& parts() {
  static const std::vector<Part> kParts{
      {"attention, dense", {"attention_forward", "attention_backward"}},
      {"attention, sparse", {"sparse_attention_forward", "sparse_attention_backward"}},
      {"predict, select, lists", {"predictor", "estimate", "selection_lists"}},
      {"predictor loss, profile", {"predictor_loss", "profile"}},
      {"cross-attention", {"cross_attention_forward", "cross_attention_backward"}},
      {"gradients, optimizer", {"grad_sync", "optimizer"}}};
  return kParts;
}

// Mean milliseconds of each part over the records of one stage; the rest is last.
std::optional<StackedBars::Bar> mean_times(const Records& train, const std::string& name,
                                           const std::function<bool(const Json&)>& counts) {
  StackedBars::Bar bar{.name = name, .values = std::vector<double>(parts().size() + 1)};
  double n = 0;
  for (const MetricRecord& r : train) {
    const Json* times = r.values.find("time_ms");
    if (r.kind != "train" || times == nullptr || !counts(r.values)) continue;
    double rest = number(r.values, "step_ms");
    for (std::size_t p = 0; p < parts().size(); ++p) {
      for (const char* scope : parts()[p].scopes) {
        const double ms = number(*times, scope);
        if (!std::isfinite(ms)) continue;
        bar.values[p] += ms;
        rest -= ms;
      }
    }
    bar.values.back() += std::max(0.0, rest);
    ++n;
  }
  if (n == 0) return std::nullopt;
  for (double& v : bar.values) v /= n;
  return bar;
}

std::string time_section(const Records& train) {
  StackedBars chart{.title = "Milliseconds of a step", .x_label = "ms"};
  for (const Part& part : parts()) chart.parts.emplace_back(part.name);
  chart.parts.emplace_back("rest");
  const auto stage = [](double wanted) {
    return [wanted](const Json& r) {
      const double blocks = number(r, "sparse_blocks");
      return wanted > 0 ? blocks > 0 : !(blocks > 0);
    };
  };
  for (const auto& [name, wanted] : {std::pair{"dense", 0.0}, {"sparse", 1.0}}) {
    if (auto bar = mean_times(train, name, stage(wanted))) chart.bars.push_back(std::move(*bar));
  }
  return chart.bars.empty() ? "" : "<h2>Time</h2>\n" + figure(svg(chart));
}

// --- Samples --------------------------------------------------------------------------------------

std::string base64(const std::string& bytes) {
  static constexpr char kLetters[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t word = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      word = word << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      out += i + j <= bytes.size() ? kLetters[word >> (18 - 6 * j) & 63] : '=';
    }
  }
  return out;
}

std::string samples_section(const fs::path& folder) {
  std::vector<fs::path> sheets;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder / "samples", ignored)) {
    if (entry.path().extension() == ".png") sheets.push_back(entry.path());
  }
  if (sheets.empty()) return "";
  std::sort(sheets.begin(), sheets.end());
  std::string out = "<h2>Samples</h2>\n";
  // The first, the middle, and the last show what training did.
  std::vector<fs::path> shown{sheets.front()};
  if (sheets.size() > 2) shown.push_back(sheets[sheets.size() / 2]);
  if (sheets.size() > 1) shown.push_back(sheets.back());
  for (const fs::path& sheet : shown) {
    out += "<figure><img alt=\"contact sheet\" src=\"data:image/png;base64," +
           base64(data::read_file(sheet.string(), kMaxPngBytes)) + "\"><figcaption>" +
           escape_html(sheet.filename().string()) + "</figcaption></figure>\n";
  }
  return out;
}

constexpr const char* kStyle = R"(
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ddd; }
figure { margin: 1em 0; } svg, img { max-width: 100%; height: auto; } img { image-rendering: pixelated; min-width: 50%; }
svg text { font: 11px system-ui, sans-serif; fill: #333; } svg .title { font-weight: 600; font-size: 13px; }
svg .note { fill: #777; font-size: 10px; } .grid { stroke: #eee; } .mark { stroke: #999; stroke-dasharray: 4 3; }
table { border-collapse: collapse; } td, th { padding: .2em .9em .2em 0; text-align: left; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 12px; } figcaption { color: #777; font-size: 12px; }
)";

std::string facts(const Records& train) {
  const MetricRecord* last = nullptr;
  for (const MetricRecord& r : train) {
    if (r.kind == "train") last = &r;
  }
  if (last == nullptr) return "";
  std::string out = "<table>";
  const auto row = [&](const char* what, const std::string& value) {
    out += format("<tr><th>{}</th><td>{}</td></tr>", what, escape_html(value));
  };
  row("steps", format("{}", last->step));
  row("loss", format("{:.5g}", number(last->values, "loss")));
  row("step", format("{:.1f} ms, {:.0f} tokens/s", number(last->values, "step_ms"),
                     number(last->values, "tokens_per_s")));
  row("of peak", format("{:.1f} %", 100 * number(last->values, "mfu")));
  if (last->values.find("sparse_blocks") != nullptr) {
    row("sparse blocks", format("{}", number(last->values, "sparse_blocks")));
    row("density", format("{:.3f}", number(last->values, "density")));
  }
  return out + "</table>\n";
}

}  // namespace

std::string run_report(const std::string& run_dir) {
  const fs::path folder(run_dir);
  const Records train = read_metrics((folder / "metrics.jsonl").string());
  const std::string sparsity_path = (folder / "sparsity.jsonl").string();
  const Records sparsity = fs::exists(sparsity_path) ? read_metrics(sparsity_path) : Records();
  std::vector<std::pair<double, std::string>> marks;
  if (!sparsity.empty()) {
    const double step = number(sparsity.back().values, "switch_step");
    if (step >= 0) marks.emplace_back(step, "attention becomes sparse");
  }
  const std::string name = fs::weakly_canonical(folder).filename().string();
  std::string out = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" +
                    escape_html(name) + "</title><style>" + kStyle + "</style></head><body>\n<h1>" +
                    escape_html(name) + "</h1>\n" + facts(train);
  out += "<h2>Loss</h2>\n";
  out += figure(svg(LineChart{.title = "Loss",
                              .x_label = "step",
                              .y_label = "loss",
                              .series = present({series(train, "train", "loss", "training"),
                                                 series(train, "eval", "held_out_raw", "held out"),
                                                 series(train, "eval", "held_out_ema",
                                                        "held out, EMA"),
                                                 series(train, "eval", "held_out_full",
                                                        "held out, dense")}),
                              .marks = marks}));
  out += figure(svg(LineChart{.title = "Gradient norm",
                              .x_label = "step",
                              .y_label = "norm",
                              .series = present({series(train, "train", "grad_norm", "norm")}),
                              .marks = marks,
                              .log_y = true}));
  out += sparsity_section(train, sparsity, marks);
  out += time_section(train);
  out += figure(svg(LineChart{.title = "Speed",
                              .x_label = "step",
                              .y_label = "ms",
                              .series = present({series(train, "train", "step_ms", "step")}),
                              .marks = marks}));
  out += samples_section(folder);
  const fs::path config = folder / "config.yaml";
  if (fs::exists(config)) {
    out += "<h2>Configuration</h2>\n<pre>" +
           escape_html(data::read_file(config.string(), kMaxConfigBytes)) + "</pre>\n";
  }
  return out + "</body></html>\n";
}

}  // namespace dsv::train
