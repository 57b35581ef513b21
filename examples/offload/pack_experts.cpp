// pack_experts: writes the experts of a model into one record file, in one or more formats; checks such files.
#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <moe/io/checkpoint.hpp>
#include <moe/io/xxh3.hpp>
#include <moe/storage/file.hpp>
#include <optional>
#include <string>
#include <vector>

#include "command_line.hpp"

namespace {

using moe::io::Checkpoint;
using programs::bytes_text, programs::number_text;
using Writer = moe::RecordWriter<moe::io::Xxh3>;

// ---- formats

/// What is done in a format that is chosen when the program runs.
struct Format {
  std::string_view name;
  std::uint64_t (*record_bytes)(const moe::ExpertShape&);
  void (*pack)(const moe::ExpertShape&, const moe::ExpertMatrices&, std::byte*);
};
using AllFormats = moe::formats<moe::f32, moe::bf16, moe::f16, moe::q8_0, moe::mxfp4, moe::q4_0>;

std::vector<Format> all_formats() {
  std::vector<Format> all;
  moe::detail::for_each_format(AllFormats{}, [&]<class F>(int, std::type_identity<F>) {
    all.push_back({moe::format_traits<F>::name,
                   [](const moe::ExpertShape& s) -> std::uint64_t { return moe::PanelLayout::record_bytes<F>(s); },
                   [](const moe::ExpertShape& s, const moe::ExpertMatrices& m, std::byte* to) {
                     moe::PanelLayout::pack<F>(s, m, to);
                   }});
  });
  return all;
}

Format format_from_name(const std::string& name) {
  const std::string full = name == "q4" ? "q4_0" : name == "q8" ? "q8_0" : name;
  std::string names;
  for (const Format& format : all_formats()) {
    if (format.name == full) return format;
    names += (names.empty() ? "" : ", ") + std::string(format.name);
  }
  moe::raise(moe::Error("--formats", "weight format", names + ", q4 or q8", name));
}

std::vector<Format> chosen_formats(const std::vector<std::string>& names) {
  std::vector<Format> chosen;
  for (const std::string& name : names) {
    const Format format = format_from_name(name);
    for (const Format& other : chosen)
      if (other.name == format.name) moe::raise(moe::Error("--formats", "formats", "each once", name + " twice"));
    chosen.push_back(format);
  }
  return chosen;
}

// ---- progress

/// A line on stderr: share, speed and time left, renewed in place on a terminal, else every tenth of the way.
class Meter {
 public:
  explicit Meter(const char* label) : label_(label), terminal_(isatty(STDERR_FILENO) != 0) {}
  void operator()(std::uint64_t done, std::uint64_t total) const {
    const int percent = static_cast<int>(100 * (static_cast<double>(done) / static_cast<double>(total)));
    const double seconds = watch_.seconds();
    if (terminal_ ? seconds < shown_ + 0.1 && percent < 100 : percent / 10 == percent_ / 10) return;
    shown_ = seconds;
    percent_ = percent;
    const double speed = static_cast<double>(done) / std::max(seconds, 1e-3);
    const double left = static_cast<double>(total - done) / std::max(speed, 1.0);
    std::fprintf(stderr, "%s%s %3d %%, %.0f MB/s, %s left%s", terminal_ ? "\r" : "", label_, percent, speed / 1e6,
                 time_text(left).c_str(), terminal_ ? "\x1b[K" : "\n");
    if (terminal_ && percent == 100) std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
  }

 private:
  static std::string time_text(double seconds) {
    const auto s = static_cast<long>(seconds);
    const std::string minutes = std::to_string(s / 60) + " min ";
    return (s >= 60 ? minutes : std::string()) + std::to_string(s % 60) + " s";
  }
  const char* label_;
  bool terminal_;
  programs::Stopwatch watch_;
  mutable double shown_ = -1;
  mutable int percent_ = -10;
};

// ---- packing

volatile std::sig_atomic_t interrupted = 0;

/// Throws Error where layers differ: records of one format have one size.
void require_one_shape(const Checkpoint& model) {
  const moe::io::BlockConfig& blocks = model.blocks();
  const int first = model.first_moe_layer();
  for (const int layer : blocks.moe_layers)
    if (model.expert_shape(layer) != model.expert_shape() ||
        blocks.router.experts.at(layer) != blocks.router.experts.at(first))
      moe::raise(moe::Error("pack_experts", "experts of layer " + std::to_string(layer),
                            "as many and of the same shape as in layer " + std::to_string(first), "others"));
}

std::uint64_t file_bytes(const moe::RecordFileHead& head) {
  std::uint64_t bytes = head.front_bytes();
  for (std::size_t f = 0; f < head.formats; ++f) bytes += head.records_by_format() * head.series[f].stride();
  return bytes;
}

void require_room(const std::string& out, const Checkpoint& model, const std::vector<Format>& formats) {
  const moe::ExpertShape shape = model.expert_shape();
  moe::RecordFileHead head = moe::detail::record_file_head(shape, static_cast<int>(model.blocks().moe_layers.size()),
                                                           model.blocks().router.experts.at(model.first_moe_layer()),
                                                           moe::PanelLayout::name, moe::io::Xxh3::name);
  for (const Format& f : formats) moe::detail::add_series(head, f.name, f.record_bytes(shape));
  const std::filesystem::path folder = std::filesystem::absolute(out).parent_path();
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (error) moe::raise(moe::IoError(out, "folder", "one that can be written to", error.message()));
  if (space.available < file_bytes(head))
    moe::raise(moe::IoError(out, "free space", bytes_text(static_cast<double>(file_bytes(head))),
                            bytes_text(static_cast<double>(space.available))));
}

/// A run that was killed could not remove its temporary; whether another one still writes it, only a person knows.
void report_leftovers(const std::string& out) {
  const std::filesystem::path path = std::filesystem::absolute(out);
  const std::string prefix = path.filename().string() + ".tmp-";
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path.parent_path(), error))
    if (entry.path().filename().string().compare(0, prefix.size(), prefix) == 0)
      std::cerr << "pack_experts: " << entry.path().string() << " is of another run; remove it if that was killed\n";
}

void write_all(Writer& writer, const Checkpoint& model, const std::vector<Format>& formats) {
  const moe::ExpertShape shape = model.expert_shape();
  const Meter meter("packing");
  std::uint64_t done = writer.head().front_bytes();
  for (int l = 0; l < static_cast<int>(writer.head().layers); ++l)
    for (moe::ExpertId e = 0; e < static_cast<moe::ExpertId>(writer.head().experts); ++e) {
      if (interrupted != 0) moe::raise(moe::Error("interrupted; nothing was written"));
      const moe::io::ExpertTensors expert = model.expert(model.blocks().moe_layers[static_cast<std::size_t>(l)], e);
      for (std::size_t f = 0; f < formats.size(); ++f) {
        writer.write(static_cast<int>(f), l, e, [&](std::byte* to) { formats[f].pack(shape, expert.matrices(), to); });
        meter(done += writer.head().series[f].stride(), writer.bytes());
      }
    }
}

void report(const std::string& out, const Writer& writer, double seconds) {
  const moe::RecordFileHead& head = writer.head();
  const auto bytes = static_cast<double>(writer.bytes());
  std::cout << out << ": " << bytes_text(bytes) << ", " << head.layers << " layers of " << head.experts
            << " experts, in " << number_text(seconds, 1) << " s\n";
  const auto weights = static_cast<double>(head.gated != 0 ? 3 : 2) * head.hidden * head.ffn;
  for (std::size_t f = 0; f < head.formats; ++f) {
    const moe::RecordSeries& s = head.series[f];
    std::cout << "  " << moe::detail::text_of(s.name) << ": " << s.stride() << " bytes an expert, "
              << bytes_text(static_cast<double>(head.records_by_format() * s.stride())) << " in all, "
              << number_text(8 * static_cast<double>(s.stride()) / weights, 2) << " bits a weight, "
              << number_text(static_cast<double>(s.stride()) / (4 * weights), 3) << " of f32\n";
  }
}

void pack(const std::string& directory, const std::vector<std::string>& names, const std::string& out) {
  const std::vector<Format> formats = chosen_formats(names);
  const Checkpoint model(directory);
  require_one_shape(model);
  require_room(out, model, formats);
  report_leftovers(out);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, [](int) { interrupted = 1; });
  std::vector<Writer::Format> series;
  for (const Format& f : formats) series.push_back({f.name, f.record_bytes(model.expert_shape())});
  const programs::Stopwatch watch;
  Writer writer(out, model.expert_shape(), static_cast<int>(model.blocks().moe_layers.size()),
                model.blocks().router.experts.at(model.first_moe_layer()), moe::PanelLayout::name, series);
  write_all(writer, model, formats);
  writer.commit();
  report(out, writer, watch.seconds());
}

void verify(const std::string& path) {
  const moe::InputFile file(path);
  const moe::RecordIndex<moe::io::Xxh3> index(file, "");
  moe::verify_records<moe::io::Xxh3>(path, Meter("checking"));
  const moe::RecordFileHead& head = index.head();
  std::cout << path << ": all " << head.records() << " records are right: " << head.layers << " layers of "
            << head.experts << " experts in " << moe::detail::format_names(head) << ", "
            << bytes_text(static_cast<double>(file.size())) << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes the experts of a model into one file of records, which moe::File reads at the disk's speed.",
               "pack_experts");
  std::string model, out, checked;
  std::vector<std::string> formats{"bf16"};
  CLI::Option* const verify_option = app.add_option("--verify", checked, "Check every checksum of an existing file");
  CLI::Option* const model_option =
      app.add_option("--model", model, "Directory with config.json and safetensors, of any family the library knows");
  CLI::Option* const out_option = app.add_option("--out", out, "File to be written; an old one is replaced at the end");
  app.add_option("--formats", formats, "Formats of the weights: f32, bf16, f16, q8_0 (or q8), mxfp4, q4_0 (or q4)")
      ->delimiter(',')
      ->capture_default_str();
  model_option->needs(out_option)->excludes(verify_option);
  out_option->needs(model_option);
  app.require_option(1, 0);
  return programs::run(app, argc, argv, [&] {
    if (checked.empty() && out.empty())
      moe::raise(moe::Error("pack_experts", "options", "--model and --out, or --verify", "neither"));
    checked.empty() ? pack(model, formats, out) : verify(checked);
  });
}
