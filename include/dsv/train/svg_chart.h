// Charts as inline SVG, for pages that open anywhere without a network.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace dsv::train {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // by rising x; NaN breaks the line
};
struct LineChart {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  std::vector<std::pair<double, std::string>> marks;  // vertical lines: x and what happened there
  bool log_y = false;
};
std::string svg(const LineChart& chart);

// One cell a value, row 0 on top. NaN: no value.
struct HeatMap {
  std::string title, x_label, y_label;
  std::vector<std::vector<double>> rows;
  std::vector<std::string> x_names;  // of columns; some of them are shown
  double least = 0, greatest = 1;    // the ends of the colour scale
};
std::string svg(const HeatMap& map);

// Bars of parts, one bar a name, in the parts' order.
struct StackedBars {
  std::string title, x_label;
  std::vector<std::string> parts;
  struct Bar {
    std::string name;
    std::vector<double> values;  // of each part
  };
  std::vector<Bar> bars;
};
std::string svg(const StackedBars& bars);

std::string escape_html(std::string_view text);

}  // namespace dsv::train
