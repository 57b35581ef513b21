// Progress: a bar on stderr for people who watch; silent in pipes and logs.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

namespace programs {

class Progress {
 public:
  explicit Progress(std::string label) : label_(std::move(label)), visible_(on_terminal()) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (visible_ && percent_ >= 0) std::fputs("\r\x1b[K", stderr);
  }

  void show(std::int64_t done, std::int64_t total) {
    const int percent = total == 0 ? 100 : static_cast<int>(100 * done / total);
    if (!visible_ || percent == percent_) return;
    percent_ = percent;
    const auto full = static_cast<std::size_t>(percent * width / 100);
    const std::string bar = std::string(full, '=') + std::string(width - full, ' ');
    const char *const green = colour_ ? "\x1b[32m" : "", *const plain = colour_ ? "\x1b[0m" : "";
    std::fprintf(stderr, "\r%s [%s%s%s] %3d %%", label_.c_str(), green, bar.c_str(), plain, percent);
    std::fflush(stderr);
  }

 private:
  static constexpr int width = 30;
  static bool on_terminal() {
    const char* const terminal = std::getenv("TERM");
    return isatty(STDERR_FILENO) != 0 && terminal != nullptr && std::string_view(terminal) != "dumb";
  }
  /// https://no-color.org
  static bool colours_wanted() {
    const char* const no_color = std::getenv("NO_COLOR");
    return no_color == nullptr || *no_color == '\0';
  }

  std::string label_;
  bool visible_, colour_ = colours_wanted();
  int percent_ = -1;
};

}  // namespace programs
