// Routing traces as JSON lines: read from strangers line by line, written whole or not at all.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <moe/io/json.hpp>
#include <moe/offline/trace.hpp>

namespace moe::io {

namespace detail {

/// The lines of a file, one at a time, without their ends.
class LineReader {
 public:
  static constexpr std::size_t longest = std::size_t{1} << 20;

  explicit LineReader(const std::string& path) : file_(path) {}

  /// False at the end of the file. `line` is valid until the next call. Throws IoError for lines above 1 MiB.
  bool next(std::string_view& line) {
    ++number_;
    for (std::size_t searched = begin_;;) {
      const std::size_t end = text_.find('\n', searched);
      if (end != std::string::npos) return take(end, end + 1, line);
      if (read_ == file_.size()) return begin_ < text_.size() && take(text_.size(), text_.size(), line);
      if (text_.size() - begin_ > longest)
        raise(IoError(where(), "length", concat("at most ", longest, " bytes"), "more"));
      searched = text_.size() - begin_;
      read_more();
    }
  }
  /// "FILE: line N"
  std::string where() const { return concat(file_.path(), ": line ", number_); }

 private:
  bool take(std::size_t end, std::size_t after, std::string_view& line) {
    line = std::string_view(text_).substr(begin_, end - begin_);
    begin_ = after;
    return true;
  }
  void read_more() {
    constexpr std::uint64_t chunk = 1 << 18;
    text_.erase(0, begin_);
    begin_ = 0;
    const std::uint64_t bytes = std::min(chunk, file_.size() - read_);
    const std::size_t before = text_.size();
    text_.resize(before + static_cast<std::size_t>(bytes));
    file_.read(read_, std::as_writable_bytes(std::span(text_)).subspan(before));
    read_ += bytes;
  }

  InputFile file_;
  std::uint64_t read_ = 0;
  std::size_t begin_ = 0, number_ = 0;
  std::string text_;
};

enum class TraceField { layers, experts, k, seq, token, layer, weights, other };
inline constexpr std::array<std::string_view, 7> trace_fields{"layers", "experts", "k",      "seq",
                                                              "token",  "layer",   "weights"};

/// The fields of a line. `experts` is a number in the first line and a list in the others.
class TraceLine : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;

  bool has(TraceField f) const { return (seen_ & bit(f)) != 0; }
  bool is_list(TraceField f) const { return (lists_ & bit(f)) != 0; }
  /// The number of a field that must be there.
  int number(TraceField f, std::int64_t least, std::int64_t most) const {
    if (!has(f)) fail(name(f), "a number", "no such field");
    if (is_list(f)) fail(name(f), "a number", "a list");
    const std::int64_t value = numbers_[static_cast<std::size_t>(f)];
    if (value < least || value > most) fail(name(f), range(least, most), std::to_string(value));
    return static_cast<int>(value);
  }
  static std::string name(TraceField f) { return std::string(trace_fields[static_cast<std::size_t>(f)]); }
  static std::string range(std::int64_t least, std::int64_t most) { return concat(least, " to ", most); }

  std::vector<std::int64_t> picks;
  std::vector<double> weights;

  // ---- events

  bool null() { return other("null"); }
  bool boolean(bool value) { return other(value ? "true" : "false"); }
  bool string(std::string& value) { return other(in_quotes(value)); }
  bool number_integer(std::int64_t value) { return integer(value); }
  bool number_unsigned(std::uint64_t value) {
    constexpr std::uint64_t most = std::numeric_limits<std::int64_t>::max();
    return integer(static_cast<std::int64_t>(std::min(value, most)));
  }
  bool number_float(double value, const std::string& text) {
    if (!named()) return true;
    if (field_ == TraceField::weights && depth_ == 2) return weight(value, text);
    fail(name(field_), "a whole number", text.substr(0, 40));
  }
  bool start_object(std::size_t) { return depth_ == 0 ? deeper() : other("an object") && deeper(); }
  bool end_object() { return --depth_, true; }
  bool start_array(std::size_t) {
    const bool list = field_ == TraceField::experts || field_ == TraceField::weights;
    if (depth_ == 1 && list) {
      lists_ |= bit(field_);
    } else {
      other("a list");
    }
    return deeper();
  }
  bool end_array() { return --depth_, true; }
  bool key(std::string& text) {
    if (depth_ != 1) return true;
    const auto found = std::find(trace_fields.begin(), trace_fields.end(), text);
    field_ = static_cast<TraceField>(found - trace_fields.begin());
    if (field_ == TraceField::other) return true;
    if (has(field_)) fail(text, "each field once", "a second one");
    seen_ |= bit(field_);
    return true;
  }

 private:
  static unsigned bit(TraceField f) { return 1u << static_cast<unsigned>(f); }
  bool named() const { return field_ != TraceField::other; }
  bool other(const std::string& found) const {
    if (named()) fail(name(field_), field_ == TraceField::weights ? "a list of numbers" : "a number", found);
    return true;
  }
  bool deeper() {
    constexpr int deepest = 32;
    if (++depth_ > deepest) fail("JSON", concat("at most ", deepest, " levels"), "a deeper one");
    return true;
  }
  bool integer(std::int64_t value) {
    if (!named()) return true;
    if (depth_ == 2 && field_ == TraceField::weights) return weight(static_cast<double>(value), std::to_string(value));
    if (field_ == TraceField::weights) return other(std::to_string(value));
    if (depth_ == 2) {
      picks.push_back(value);
    } else {
      numbers_[static_cast<std::size_t>(field_)] = value;
    }
    return true;
  }
  bool weight(double value, const std::string& text) {
    if (!(value >= 0) || value > static_cast<double>(std::numeric_limits<float>::max()))
      fail("weights", "numbers from 0", text.substr(0, 40));
    weights.push_back(value);
    return true;
  }

  unsigned seen_ = 0, lists_ = 0;
  int depth_ = 0;
  TraceField field_ = TraceField::other;
  std::array<std::int64_t, 7> numbers_{};
};

/// Turns lines into a trace.
class TraceReader {
 public:
  explicit TraceReader(const std::string& path) : lines_(path) {}

  RoutingTrace read() {
    std::string_view line;
    RoutingTrace trace = next(line) ? header(line) : missing_header();
    while (next(line)) record(line, trace);
    if (lacks_weights_) trace.forget_weights();
    return trace;
  }

 private:
  static constexpr std::int64_t most_layers = 1 << 16, most_experts = 1 << 20, most_of_both = 1 << 24;

  /// The next line that is not blank.
  bool next(std::string_view& line) {
    constexpr std::string_view space = " \t\r";
    while (lines_.next(line)) {
      const std::size_t first = line.find_first_not_of(space);
      if (first == std::string_view::npos) continue;
      line = line.substr(first, line.find_last_not_of(space) + 1 - first);
      return true;
    }
    return false;
  }
  [[noreturn]] RoutingTrace missing_header() const {
    raise(IoError(lines_.where(), "trace", R"({"layers":L,"experts":E,"k":K})", "an empty file"));
  }
  TraceLine parse(std::string_view line) const {
    TraceLine fields(lines_.where(), 0);
    parse_events(line, fields);
    return fields;
  }
  RoutingTrace header(std::string_view line) const {
    const TraceLine f = parse(line);
    const int layers = f.number(TraceField::layers, 1, most_layers);
    const int experts = f.number(TraceField::experts, 1, most_experts);
    if (std::int64_t{layers} * experts > most_of_both)
      f.fail("layers times experts", concat("at most ", most_of_both), std::to_string(std::int64_t{layers} * experts));
    return {layers, experts, f.number(TraceField::k, 1, most_experts)};
  }
  void record(std::string_view line, RoutingTrace& trace) {
    constexpr std::int64_t any = std::numeric_limits<int>::max();
    const TraceLine f = parse(line);
    const int sequence = f.number(TraceField::seq, 0, any), token = f.number(TraceField::token, 0, any);
    const int layer = f.number(TraceField::layer, 0, trace.layers() - 1);
    check_picks(f, trace);
    const auto count = static_cast<int>(f.picks.size());
    const bool weighted = f.has(TraceField::weights);
    lacks_weights_ = lacks_weights_ || (!weighted && count > 0);
    slots_.clear();
    weights_ = f.weights;
    if (!weighted) weights_.assign(f.picks.size(), 1.0 / std::max(count, 1));
    for (std::size_t i = 0; i < f.picks.size(); ++i)
      slots_.push_back({static_cast<ExpertId>(f.picks[i]), static_cast<float>(weights_[i])});
    trace.add(sequence, token, layer, {slots_.data(), count}, {}, {weights_.data(), count});
  }
  void check_picks(const TraceLine& f, const RoutingTrace& trace) const {
    if (!f.has(TraceField::experts) || !f.is_list(TraceField::experts))
      f.fail("experts", "a list of numbers", f.has(TraceField::experts) ? "a number" : "no such field");
    if (f.picks.size() > static_cast<std::size_t>(trace.k()))
      f.fail("experts", concat("at most ", trace.k(), ", the k of the first line"), std::to_string(f.picks.size()));
    for (const std::int64_t e : f.picks)
      if (e < 0 || e >= trace.experts()) f.fail("experts", TraceLine::range(0, trace.experts() - 1), std::to_string(e));
    if (f.has(TraceField::weights) && f.weights.size() != f.picks.size())
      f.fail("weights", concat(f.picks.size(), ", one for each expert"), std::to_string(f.weights.size()));
  }

  LineReader lines_;
  bool lacks_weights_ = false;
  std::vector<Slot> slots_;
  std::vector<double> weights_;
};

/// Text that goes to a file in large pieces.
class TraceWriter {
 public:
  explicit TraceWriter(const std::string& path) : file_(path) {}

  void write(const RoutingTrace& trace) {
    put("{\"layers\":", trace.layers(), ",\"experts\":", trace.experts(), ",\"k\":", std::max(trace.k(), 1), "}\n");
    for (const TraceRecord& r : trace.records()) record(trace, r);
    flush();
    file_.commit();
  }

 private:
  template <class... Parts>
  void put(const Parts&... parts) {
    text_ += concat(parts...);
  }
  void record(const RoutingTrace& trace, const TraceRecord& r) {
    put("{\"seq\":", r.sequence, ",\"token\":", r.token, ",\"layer\":", r.layer, ",\"experts\":[");
    for (int i = 0; i < r.count; ++i) put(i > 0 ? "," : "", trace.picks(r)[i].expert);
    if (trace.has_weights()) {
      put("],\"weights\":[");
      for (int i = 0; i < r.count; ++i) {
        put(i > 0 ? "," : "");
        weight(trace, r, i);
      }
    }
    put("]}\n");
    constexpr std::size_t piece = 1 << 18;
    if (text_.size() >= piece) flush();
  }
  /// The shortest text that reads back as the same number.
  void weight(const RoutingTrace& trace, const TraceRecord& r, int i) {
    const double exact = trace.weight(r, i);
    if (!std::isfinite(exact)) raise(Error("moe::io::write_trace", "weight", "a finite number", std::to_string(exact)));
    std::array<char, 32> text;
    const std::to_chars_result end =
        trace.has_precise_weights() ? std::to_chars(text.data(), text.data() + text.size(), exact)
                                    : std::to_chars(text.data(), text.data() + text.size(), trace.picks(r)[i].weight);
    text_.append(text.data(), end.ptr);
  }
  void flush() {
    file_.write(std::as_bytes(std::span(text_)));
    text_.clear();
  }

  OutputFile file_;
  std::string text_;
};

}  // namespace detail

/// Reads a trace: a first line {"layers":L,"experts":E,"k":K}, then one record a line, in order of execution. Further
/// fields and blank lines are ignored. Weights may be missing: then `has_weights` is false and the slots weigh the
/// same. Throws IoError with the line, the field, what was expected and what was found; nothing is repaired. O(bytes),
/// one line in memory beside the trace.
inline RoutingTrace read_trace(const std::string& path) { return detail::TraceReader(path).read(); }

/// Writes a trace such that `read_trace` gives it back, weights bit for bit; norms are left out. The file appears whole
/// or not at all. Throws IoError, and Error for weights that are no numbers.
inline void write_trace(const std::string& path, const RoutingTrace& trace) { detail::TraceWriter(path).write(trace); }

}  // namespace moe::io
