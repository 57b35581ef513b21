// ModelFile: a record file of random experts on a real disk, and how fast the disk gives its records.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <moe/storage/file.hpp>

namespace offload {

struct Sizes {
  int layers = 7, experts = 128, hidden = 2048, ffn = 768;
};

using High = moe::bf16;
using Low = moe::q4_0;
using BothFormats = moe::formats<High, Low>;

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// One line of a terminal, over the one before it; nothing elsewhere.
inline void show_progress(const std::string& line) {
  if (::isatty(STDERR_FILENO) != 0) std::fprintf(stderr, "\r%-100s\r%s", "", line.c_str());
}

/// A source of random experts, quick enough to be limited by the disk that they are written to: few experts are drawn
/// and packed; all others are one of them with the panels of both sections in another order, which is another expert,
/// and the low copy still the quantised high one.
class TurnedExperts {
 public:
  using layout = moe::PanelLayout;
  using formats = BothFormats;

  TurnedExperts(const Sizes& sizes, int layer, const std::vector<std::vector<std::vector<std::byte>>>& drawn)
      : sizes_(sizes), layer_(layer), drawn_(&drawn) {}

  /// Packed records [expert][format].
  static std::vector<std::vector<std::vector<std::byte>>> draw(const Sizes& sizes) {
    std::vector<std::vector<std::vector<std::byte>>> drawn;
    const moe::ExpertShape shape{sizes.hidden, sizes.ffn};
    const std::size_t weights = static_cast<std::size_t>(sizes.hidden) * static_cast<std::size_t>(sizes.ffn);
    for (int e = 0; e < 4; ++e) {
      const std::vector<float> values = random(3 * weights, e);
      const moe::ExpertMatrices matrices{.gate = {values.data(), sizes.ffn, sizes.hidden},
                                         .up = {values.data() + weights, sizes.ffn, sizes.hidden},
                                         .down = {values.data() + 2 * weights, sizes.hidden, sizes.ffn}};
      drawn.emplace_back();
      pack<High>(shape, matrices, drawn.back());
      pack<Low>(shape, matrices, drawn.back());
    }
    return drawn;
  }

  moe::ExpertShape shape() const noexcept { return {sizes_.hidden, sizes_.ffn}; }
  int num_experts() const noexcept { return sizes_.experts; }
  std::size_t bytes(int format) const noexcept { return (*drawn_)[0][static_cast<std::size_t>(format)].size(); }
  void read(const moe::ReadRequest& request) const {
    moe::with_format(formats{}, request.format,
                     [&]<class F>(std::type_identity<F>) { copy<F>(request.expert, request.format, request.to); });
    request.done(request.who, nullptr);
  }

 private:
  static std::vector<float> random(std::size_t count, int seed) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i)
      values[i] = (moe::counter_random(static_cast<std::uint64_t>(seed), static_cast<int>(i), 0) - 0.5f) / 8;
    return values;
  }
  template <class F>
  static void pack(const moe::ExpertShape& shape, const moe::ExpertMatrices& matrices,
                   std::vector<std::vector<std::byte>>& records) {
    moe::Buffer record(layout::record_bytes<F>(shape));
    layout::pack<F>(shape, matrices, record.data());
    records.emplace_back(record.data(), record.data() + record.bytes());
  }
  template <class F>
  void copy(moe::ExpertId expert, int format, std::byte* to) const {
    const std::size_t number = static_cast<std::size_t>(layer_ * sizes_.experts + expert);
    const std::vector<std::byte>& from = (*drawn_)[number % drawn_->size()][static_cast<std::size_t>(format)];
    const std::size_t turn = number / drawn_->size();
    const std::size_t up_panel = 2 * layout::panel_bytes<F>(sizes_.hidden);
    const std::size_t down_panel = layout::panel_bytes<F>(sizes_.ffn);
    const auto up_panels = static_cast<std::size_t>(moe::pieces(sizes_.ffn, layout::width));
    const auto down_panels = static_cast<std::size_t>(moe::pieces(sizes_.hidden, layout::width));
    const std::size_t down = layout::offsets<F>(shape()).down;
    turn_section(from.data(), to, up_panel, up_panels, turn % up_panels);
    turn_section(from.data() + down, to + down, down_panel, down_panels, turn / up_panels % down_panels);
  }
  static void turn_section(const std::byte* from, std::byte* to, std::size_t panel, std::size_t panels,
                           std::size_t turn) {
    std::memcpy(to, from + turn * panel, (panels - turn) * panel);
    std::memcpy(to + (panels - turn) * panel, from, turn * panel);
  }

  Sizes sizes_;
  int layer_;
  const std::vector<std::vector<std::vector<std::byte>>>* drawn_;
};

class ModelFile {
 public:
  /// Writes the file unless the folder has it: `bytes()`, and as long as the disk needs for them.
  ModelFile(const Sizes& sizes, const std::string& folder) : sizes_(sizes) {
    check();
    std::filesystem::create_directories(folder);
    path_ = moe::concat(folder, "/moe-offload-", sizes.layers, "x", sizes.experts, "x", sizes.hidden, "x", sizes.ffn,
                        "-bf16-q4_0.moe");
    if (!std::filesystem::exists(path_)) write();
  }

  const Sizes& sizes() const noexcept { return sizes_; }
  const std::string& path() const noexcept { return path_; }

  void drop_from_page_cache() const {
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }

 private:
  /// Two experts with the same bytes could be taken for one another.
  void check() const {
    const int different = 4 * moe::pieces(sizes_.ffn, 32) * moe::pieces(sizes_.hidden, 32);
    if (sizes_.layers * sizes_.experts > different)
      moe::raise(moe::Error("offload_bench", "layers times experts",
                            moe::concat("at most ", different, " of this size"),
                            std::to_string(sizes_.layers * sizes_.experts)));
    if (sizes_.hidden % 32 != 0 || sizes_.ffn % 32 != 0)
      moe::raise(moe::Error("offload_bench", "hidden and ffn", "multiples of 32",
                            moe::concat(sizes_.hidden, " and ", sizes_.ffn)));
  }
  void write() const {
    const auto drawn = TurnedExperts::draw(sizes_);
    std::vector<TurnedExperts> layers;
    for (int l = 0; l < sizes_.layers; ++l) layers.emplace_back(sizes_, l, drawn);
    const auto begin = std::chrono::steady_clock::now();
    int shown = -1;
    moe::write_records<TurnedExperts>(path_, layers, moe::Unchecked{}, [&](std::uint64_t done, std::uint64_t total) {
      const int percent = static_cast<int>(100 * done / total);
      if (std::exchange(shown, percent) == percent) return;
      show_progress(moe::concat("writing ", path_, ": ", percent, " % of ", total >> 20, " MiB"));
    });
    show_progress("");
    std::fprintf(stderr, "wrote %s in %.1f s\n", path_.c_str(), seconds_since(begin));
  }

  Sizes sizes_;
  std::string path_;
};

/// Bytes a second that `source` gives of one format, all reads asked for at once: as many random records as fit
/// `bytes`, at most those of the layer, and each once.
template <class Source>
double bandwidth(const Source& source, int format, std::size_t bytes) {
  const std::size_t record = source.bytes(format);
  const int count = std::min(source.num_experts(), static_cast<int>(std::max(bytes / record, std::size_t{1})));
  const moe::Buffer memory(static_cast<std::size_t>(count) * record);
  std::memset(memory.data(), 0, memory.bytes());
  const int stride = source.num_experts() / count;
  moe::PendingReads reads(count);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i)
    source.read({i * 7919 % count * stride, format, memory.data() + static_cast<std::size_t>(i) * record,
                 &moe::PendingReads::done, &reads});
  reads.wait();
  return static_cast<double>(memory.bytes()) / seconds_since(begin);
}

}  // namespace offload
