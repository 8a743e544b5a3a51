#include "dsv/train/svg_chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dsv/base/format.h"

namespace dsv::train {
namespace {

constexpr double kWidth = 760, kHeight = 280, kLeft = 70, kRight = 150, kTop = 34, kBottom = 44;
// Distinct for the colour-blind (Okabe and Ito, 2008).
constexpr const char* kColours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                    "#E69F00", "#56B4E9", "#666666", "#F0E442"};
const char* colour(std::size_t i) {
  return kColours[i % std::size(kColours)];
}

std::string text(double x, double y, const std::string& words, const char* anchor = "start",
                 const char* extra = "") {
  return format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" {}>{}</text>\n", x, y, anchor,
                extra, escape_html(words));
}
std::string open_svg(double width, double height, const std::string& title) {
  return format(
             "<svg viewBox=\"0 0 {:.0f} {:.0f}\" width=\"{:.0f}\" height=\"{:.0f}\" role=\"img\" "
             "aria-label=\"{}\">\n",
             width, height, width, height, escape_html(title)) +
         text(kLeft, 18, title, "start", "class=\"title\"");
}

// Four to eight round numbers between the ends.
std::vector<double> ticks(double least, double greatest) {
  const double span = greatest - least;
  if (!(span > 0) || !std::isfinite(span)) return {least};
  double step = std::pow(10.0, std::floor(std::log10(span / 4)));
  for (const double factor : {2.0, 2.5, 2.0}) {
    if (span / step > 8) step *= factor;
  }
  std::vector<double> out;
  for (double t = std::ceil(least / step) * step; t <= greatest + step * 1e-9; t += step) {
    out.push_back(std::fabs(t) < step * 1e-9 ? 0 : t);
  }
  return out;
}

struct Axis {
  double least = std::numeric_limits<double>::infinity();
  double greatest = -std::numeric_limits<double>::infinity();
  double from = 0, to = 1;  // pixels
  bool log = false;

  void see(double v) {
    if (!std::isfinite(v) || (log && v <= 0)) return;
    least = std::min(least, v);
    greatest = std::max(greatest, v);
  }
  void settle() {
    if (least > greatest) least = greatest = log ? 1 : 0;
    if (log) {
      least = std::log10(least);
      greatest = std::log10(greatest);
    }
    if (greatest - least < 1e-12) {
      least -= 0.5;
      greatest += 0.5;
    }
  }
  double value(double v) const { return log ? std::log10(v) : v; }
  double at(double v) const {
    return from + (value(v) - least) / (greatest - least) * (to - from);
  }
  double pixel(double settled) const {
    return from + (settled - least) / (greatest - least) * (to - from);
  }
  std::string label(double settled) const {
    return format("{:.4g}", log ? std::pow(10.0, settled) : settled);
  }
};

std::string frame(const Axis& x, const Axis& y, const std::string& x_label,
                  const std::string& y_label) {
  std::string out;
  for (const double t : ticks(y.least, y.greatest)) {
    out += format("<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
                  x.from, y.pixel(t), x.to, y.pixel(t));
    out += text(x.from - 6, y.pixel(t) + 4, y.label(t), "end");
  }
  for (const double t : ticks(x.least, x.greatest)) {
    out += text(x.pixel(t), y.from + 16, x.label(t), "middle");
  }
  out += text((x.from + x.to) / 2, y.from + 34, x_label, "middle");
  out += format("<text transform=\"translate(14 {:.0f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                (y.from + y.to) / 2, escape_html(y_label));
  return out;
}

// Dark blue to yellow, even steps in lightness.
std::string heat_colour(double share) {
  static constexpr double kStops[][3] = {{68, 1, 84},    {59, 82, 139},  {33, 145, 140},
                                         {94, 201, 98}, {253, 231, 37}};
  const double at = std::clamp(share, 0.0, 1.0) * 4;
  const auto i = std::min<std::size_t>(3, static_cast<std::size_t>(at));
  const double t = at - static_cast<double>(i);
  const auto mix = [&](std::size_t c) {
    return static_cast<int>(std::lround((1 - t) * kStops[i][c] + t * kStops[i + 1][c]));
  };
  return format("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2));
}

}  // namespace

std::string escape_html(std::string_view words) {
  std::string out;
  for (const char c : words) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string svg(const LineChart& chart) {
  Axis x{.from = kLeft, .to = kWidth - kRight}, y{.from = kHeight - kBottom, .to = kTop};
  y.log = chart.log_y;
  for (const Series& s : chart.series) {
    for (const auto& [px, py] : s.points) {
      x.see(px);
      y.see(py);
    }
  }
  x.settle();
  y.settle();
  std::string out = open_svg(kWidth, kHeight, chart.title) + frame(x, y, chart.x_label, chart.y_label);
  for (const auto& [at, what] : chart.marks) {
    if (at < x.least || at > x.greatest) continue;
    out += format("<line class=\"mark\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\">"
                  "<title>{}</title></line>\n",
                  x.at(at), y.from, x.at(at), y.to, escape_html(what));
    const bool right = x.at(at) > (x.from + x.to) / 2;  // the words go where there is room
    out += text(x.at(at) + (right ? -4 : 4), y.to + 10, what, right ? "end" : "start",
                "class=\"note\"");
  }
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    std::string path;
    bool pen_down = false;
    for (const auto& [px, py] : chart.series[i].points) {
      if (!std::isfinite(py) || (chart.log_y && py <= 0)) {
        pen_down = false;
        continue;
      }
      path += format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", x.at(px), y.at(py));
      pen_down = true;
    }
    out += format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>\n", path, colour(i));
    const double row = kTop + 16 * static_cast<double>(i) + 6;
    out += format("<line x1=\"{:.0f}\" y1=\"{:.0f}\" x2=\"{:.0f}\" y2=\"{:.0f}\" stroke=\"{}\" stroke-width=\"3\"/>\n",
                  kWidth - kRight + 12, row, kWidth - kRight + 30, row, colour(i));
    out += text(kWidth - kRight + 36, row + 4, chart.series[i].name);
  }
  return out + "</svg>\n";
}

std::string svg(const HeatMap& map) {
  const auto rows = static_cast<double>(std::max<std::size_t>(1, map.rows.size()));
  std::size_t widest = 1;
  for (const auto& row : map.rows) widest = std::max(widest, row.size());
  const double cell_h = std::clamp(240 / rows, 6.0, 26.0);
  const double cell_w = std::clamp((kWidth - kLeft - kRight) / static_cast<double>(widest), 1.0, 40.0);
  const double height = kTop + rows * cell_h + kBottom;
  std::string out = open_svg(kWidth, height, map.title);
  const std::size_t every_row = std::max<std::size_t>(1, map.rows.size() / 10);
  for (std::size_t r = 0; r < map.rows.size(); ++r) {
    const double top = kTop + static_cast<double>(r) * cell_h;
    if (r % every_row == 0) out += text(kLeft - 6, top + cell_h / 2 + 4, format("{}", r), "end");
    for (std::size_t c = 0; c < map.rows[r].size(); ++c) {
      const double v = map.rows[r][c];
      const std::string fill =
          std::isfinite(v) ? heat_colour((v - map.least) / (map.greatest - map.least)) : "#dddddd";
      const std::string name = c < map.x_names.size() ? map.x_names[c] : format("{}", c);
      out += format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\">"
                    "<title>{} {}, {} {}: {:.3f}</title></rect>\n",
                    kLeft + static_cast<double>(c) * cell_w, top, cell_w + 0.3, cell_h + 0.3, fill,
                    escape_html(map.y_label), r, escape_html(map.x_label), escape_html(name), v);
    }
  }
  const double bottom = kTop + rows * cell_h;
  const std::size_t every = std::max<std::size_t>(1, widest / 8);
  for (std::size_t c = 0; c < widest; c += every) {
    out += text(kLeft + (static_cast<double>(c) + 0.5) * cell_w, bottom + 14,
                c < map.x_names.size() ? map.x_names[c] : format("{}", c), "middle");
  }
  out += text(kLeft + static_cast<double>(widest) * cell_w / 2, bottom + 32, map.x_label, "middle");
  out += format("<text transform=\"translate(14 {:.0f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                kTop + rows * cell_h / 2, escape_html(map.y_label));
  for (int i = 0; i <= 20; ++i) {
    out += format("<rect x=\"{:.0f}\" y=\"{:.1f}\" width=\"14\" height=\"6\" fill=\"{}\"/>\n",
                  kWidth - kRight + 20, kTop + 5.0 * (20 - i), heat_colour(i / 20.0));
  }
  out += text(kWidth - kRight + 40, kTop + 8, format("{:.2f}", map.greatest));
  out += text(kWidth - kRight + 40, kTop + 106, format("{:.2f}", map.least));
  return out + "</svg>\n";
}

std::string svg(const StackedBars& chart) {
  double most = 0;
  for (const StackedBars::Bar& bar : chart.bars) {
    double sum = 0;
    for (const double v : bar.values) sum += v;
    most = std::max(most, sum);
  }
  Axis x{.least = 0, .greatest = most > 0 ? most : 1, .from = kLeft + 40, .to = kWidth - kRight - 40};
  const double height = kTop + 40 * static_cast<double>(chart.bars.size()) + kBottom;
  std::string out = open_svg(kWidth, std::max(height, kTop + 16.0 * static_cast<double>(chart.parts.size()) + 30), chart.title);
  for (std::size_t b = 0; b < chart.bars.size(); ++b) {
    const double top = kTop + 40 * static_cast<double>(b);
    double sum = 0;
    out += text(x.from - 6, top + 18, chart.bars[b].name, "end");
    for (std::size_t p = 0; p < chart.bars[b].values.size(); ++p) {
      const double v = chart.bars[b].values[p];
      out += format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"26\" fill=\"{}\">"
                    "<title>{}: {:.2f}</title></rect>\n",
                    x.at(sum), top, x.at(sum + v) - x.at(sum), colour(p),
                    escape_html(chart.parts[p]), v);
      sum += v;
    }
    out += text(x.at(sum) + 6, top + 18, format("{:.1f}", sum));
  }
  for (const double t : ticks(x.least, x.greatest)) {
    out += text(x.pixel(t), kTop + 40 * static_cast<double>(chart.bars.size()) + 10, x.label(t), "middle");
  }
  out += text((x.from + x.to) / 2, kTop + 40 * static_cast<double>(chart.bars.size()) + 28, chart.x_label, "middle");
  for (std::size_t p = 0; p < chart.parts.size(); ++p) {
    const double row = kTop + 16 * static_cast<double>(p);
    out += format("<rect x=\"{:.0f}\" y=\"{:.1f}\" width=\"10\" height=\"10\" fill=\"{}\"/>\n",
                  kWidth - kRight + 4, row, colour(p));
    out += text(kWidth - kRight + 20, row + 9, chart.parts[p]);
  }
  return out + "</svg>\n";
}

}  // namespace dsv::train
