// Labelled points as an SVG picture.
#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

namespace programs {

struct PlotPoint {
  double x = 0, y = 0;
  std::string label;
  int group = 0;  // decides the colour
};

/// A scatter of points with their labels, axes with ticks, and titles; plain text in labels, no markup.
class SvgPlot {
 public:
  SvgPlot(std::string title, std::string x_title, std::string y_title, std::vector<PlotPoint> points)
      : title_(std::move(title)),
        x_title_(std::move(x_title)),
        y_title_(std::move(y_title)),
        points_(std::move(points)),
        x_(range(&PlotPoint::x)),
        y_(range(&PlotPoint::y)) {}

  std::string text() const {
    std::string svg =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 560\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n<rect width=\"900\" height=\"560\" fill=\"white\"/>\n";
    svg += label(450, 24, title_, "middle", " font-size=\"15\"") + label(450, 548, x_title_, "middle");
    svg += label(0, 0, y_title_, "middle", " transform=\"translate(18,275) rotate(-90)\"");
    for (int i = 0; i <= ticks; ++i) svg += tick(static_cast<double>(i) / ticks);
    for (const PlotPoint& p : points_) svg += marked(p);
    return svg + "</svg>\n";
  }

 private:
  struct Range {
    double low = 0, high = 1;
    double share(double value) const { return (value - low) / (high - low); }
    double at(double share) const { return low + share * (high - low); }
  };
  static constexpr int ticks = 6;
  static constexpr double left = 70, right = 880, top = 40, bottom = 510;

  Range range(double PlotPoint::*value) const {
    Range r{1e300, -1e300};
    for (const PlotPoint& p : points_) {
      r.low = std::min(r.low, p.*value);
      r.high = std::max(r.high, p.*value);
    }
    const double margin = r.high > r.low ? 0.06 * (r.high - r.low) : 1;
    return {r.low - margin, r.high + margin};
  }
  static double x_at(double share) { return left + share * (right - left); }
  static double y_at(double share) { return bottom - share * (bottom - top); }

  template <class... Values>
  static std::string format(const char* pattern, Values... values) {
    std::array<char, 256> text{};
    std::snprintf(text.data(), text.size(), pattern, values...);
    return text.data();
  }
  static std::string label(double x, double y, const std::string& text, const char* anchor,
                           const std::string& more = {}) {
    std::string safe;
    for (const char c : text) safe += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
    return format("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"", x, y, anchor) + more + ">" + safe + "</text>\n";
  }
  std::string tick(double share) const {
    const double x = x_at(share), y = y_at(share);
    const char* const line = "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n";
    return format(line, x, top, x, bottom) + format(line, left, y, right, y) +
           label(x, bottom + 18, format("%.2f", x_.at(share)), "middle") +
           label(left - 6, y + 4, format("%.3f", y_.at(share)), "end");
  }
  std::string marked(const PlotPoint& p) const {
    constexpr std::array<const char*, 8> colours{"#000000", "#0072b2", "#d55e00", "#009e73",
                                                 "#cc79a7", "#e69f00", "#56b4e9", "#999999"};
    const char* const colour = colours[static_cast<std::size_t>(p.group) % colours.size()];
    const double x = x_at(x_.share(p.x)), y = y_at(y_.share(p.y));
    const bool late = x > 720;  // where the label would leave the picture
    return format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", x, y, colour) +
           label(late ? x - 8 : x + 8, y + 4, p.label, late ? "end" : "start", std::string(" fill=\"") + colour + "\"");
  }

  std::string title_, x_title_, y_title_;
  std::vector<PlotPoint> points_;
  Range x_, y_;
};

}  // namespace programs
