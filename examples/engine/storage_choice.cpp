#include "storage_choice.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace engine {

namespace {

/// "64M" as bytes; nothing if it is no number, zero, or too large.
std::optional<std::size_t> bytes_from_text(std::string_view text) {
  constexpr std::string_view suffixes = "KMG";
  unsigned shift = 0;
  if (!text.empty()) {
    if (const std::size_t at = suffixes.find(text.back()); at != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(at) + 1);
      text.remove_suffix(1);
    }
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  if (!whole || value == 0 || value > (std::uint64_t{1} << 62) >> shift) return std::nullopt;
  return static_cast<std::size_t>(value << shift);
}

std::optional<StorageChoice> cached_from_text(std::string_view text) {
  StorageChoice choice;
  choice.kind = StorageChoice::Kind::cached;
  const std::size_t slash = text.find('/');
  const auto bytes = bytes_from_text(text.substr(0, slash));
  if (!bytes) return std::nullopt;
  choice.bytes = *bytes;
  if (slash == std::string_view::npos) return choice;
  const auto lower = bytes_from_text(text.substr(slash + 1));
  if (!lower) return std::nullopt;
  choice.lower_bytes = *lower;
  return choice;
}

std::optional<StorageChoice> ring_from_text(std::string_view text) {
  constexpr std::string_view layers = "layers=";
  StorageChoice choice;
  choice.kind = StorageChoice::Kind::ring;
  if (!text.starts_with(layers)) {
    const auto bytes = bytes_from_text(text);
    if (!bytes) return std::nullopt;
    choice.bytes = *bytes;
    return choice;
  }
  text.remove_prefix(layers.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), choice.ring_layers);
  if (error != std::errc() || end != text.data() + text.size() || choice.ring_layers < 1) return std::nullopt;
  return choice;
}

/// What follows "name:", "" for "name" alone, nothing for other texts.
std::optional<std::string_view> after(std::string_view name, std::string_view text) {
  if (!text.starts_with(name)) return std::nullopt;
  text.remove_prefix(name.size());
  if (text.empty()) return text;
  if (text.front() != ':' || text.size() == 1) return std::nullopt;
  return text.substr(1);
}

constexpr const char* evictions = "lru, lfu, lfu:DECAY, hobbit, hobbit:A,B,C,D, apex, apex:COST, fld or plan";

[[noreturn]] void refuse_eviction(std::string_view text) {
  moe::raise(moe::Error("--eviction", "rule for giving up experts", evictions, std::string(text)));
}

/// The numbers after an eviction's name; nothing if there are none.
std::vector<double> parameters(std::string_view text, std::string_view numbers, std::size_t count) {
  if (numbers.empty()) return {};
  const std::vector<double> values = numbers_from_text("--eviction", numbers);
  if (values.size() != count) refuse_eviction(text);
  for (const double value : values)
    if (!(value >= 0 && value <= 1)) moe::raise(moe::Error("--eviction", "numbers", "from 0 to 1", std::string(text)));
  return values;
}

}  // namespace

StorageChoice storage_from_text(std::string_view text) {
  std::optional<StorageChoice> choice;
  if (text == "resident") choice.emplace();
  if (const auto bytes = after("cached", text)) choice = cached_from_text(*bytes);
  if (const auto size = after("ring", text)) choice = ring_from_text(*size);
  if (choice) return *std::move(choice);
  moe::raise(moe::Error("--storage", "storage of the experts",
                        "resident or cached:BYTES (as in cached:64M), cached:BYTES/BYTES, ring:BYTES or ring:layers=K",
                        std::string(text)));
}

moe::AnyEviction eviction_from_text(std::string_view text) {
  if (text == "lru") return moe::Lru{};
  if (text == "fld") return moe::FurthestLayer{};
  if (text == "plan") return moe::ByPlan{};
  if (const auto numbers = after("lfu", text)) {
    const std::vector<double> values = parameters(text, *numbers, 1);
    return values.empty() ? moe::Lfu{} : moe::Lfu{.decay = values[0]};
  }
  if (const auto numbers = after("hobbit", text)) {
    const std::vector<double> v = parameters(text, *numbers, 4);
    return v.empty() ? moe::Multidimensional{} : moe::Multidimensional{v[0], v[1], v[2], v[3]};
  }
  if (const auto numbers = after("apex", text)) {
    const std::vector<double> values = parameters(text, *numbers, 1);
    return values.empty() ? moe::MissCost{} : moe::MissCost{.low_cost = values[0]};
  }
  refuse_eviction(text);
}

moe::Prefetch prefetch_from_text(std::string_view text) {
  if (text == "off") return moe::Prefetch::off;
  if (text == "observe") return moe::Prefetch::observe;
  if (text == "enforce") return moe::Prefetch::enforce;
  moe::raise(moe::Error("--prefetch", "what is done with guesses", "off, observe or enforce", std::string(text)));
}

void set_predictor(StorageChoice& choice, std::string_view text) {
  constexpr std::array without_file{std::pair{"none", Predictor::none}, std::pair{"next-gate", Predictor::next_gate},
                                    std::pair{"token-table", Predictor::token_table}};
  constexpr std::array with_file{std::pair{"path", Predictor::paths}, std::pair{"first-gate", Predictor::first_gate}};
  for (const auto& [name, predictor] : without_file)
    if (text == name) {
      choice.predictor = predictor;
      return;
    }
  for (const auto& [name, predictor] : with_file)
    if (const auto file = after(name, text); file && !file->empty()) {
      choice.predictor = predictor;
      choice.predictor_file = *file;
      return;
    }
  moe::raise(moe::Error("--predictor", "who guesses", "next-gate, token-table, path:FILE, first-gate:FILE or none",
                        std::string(text)));
}

std::vector<double> numbers_from_text(const char* option, std::string_view text) {
  std::vector<double> values;
  for (bool more = true; more;) {
    const std::size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    double value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || !std::isfinite(value))
      moe::raise(moe::Error(option, "value", "numbers separated by commas", std::string(part)));
    values.push_back(value);
    more = comma != std::string_view::npos;
    if (more) text.remove_prefix(comma + 1);
  }
  return values;
}

}  // namespace engine
