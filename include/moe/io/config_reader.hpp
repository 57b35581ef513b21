// Checked access to one object of an untrusted config.json.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <moe/error.hpp>
#include <moe/io/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moe::io {

/// Largest sizes that are believed. Far above every published model, and small enough that products of two fit 64 bits
/// and one row fits memory: a hostile config cannot make an engine reserve what its tensors do not back.
struct ModelLimits {
  static constexpr int width = 1 << 20;
  static constexpr int layers = 1 << 12;
  static constexpr int experts = 1 << 16;
  static constexpr int vocab = 1 << 24;
  static constexpr int positions = std::numeric_limits<int>::max();
  static constexpr std::uint64_t file_bytes = 4u << 20;
};

/// Checked access to the members of one JSON object. Null counts as absent. Every fault is an `IoError` that names
/// file, key, expected and found.
class ConfigReader {
 public:
  using Keys = std::initializer_list<const char*>;

  /// `object` outlives the reader. `where` names file and object in messages.
  ConfigReader(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  /// The value under the first of `keys` that is there; null if none. Synonyms that contradict each other are refused.
  const Json* find(Keys keys) const {
    const Json* value = nullptr;
    for (const char* key : keys) {
      const auto at = object_->find(key);
      if (at == object_->end() || at->is_null()) continue;
      if (value != nullptr && *value != *at) {
        refuse(key, concat(describe(*value), " as under its other name"), describe(*at));
      }
      value = &*at;
    }
    return value;
  }

  /// The key is there and its value is null, where that means something else than no key.
  bool says_null(const char* key) const {
    const auto at = object_->find(key);
    return at != object_->end() && at->is_null();
  }

  int integer(Keys keys, int least, int most) const {
    const Json* value = find(keys);
    if (value == nullptr) refuse(*keys.begin(), range("an integer", least, most), "none");
    return integer(*value, *keys.begin(), least, most);
  }
  int integer_or(int fallback, Keys keys, int least, int most) const {
    const Json* value = find(keys);
    return value == nullptr ? fallback : integer(*value, *keys.begin(), least, most);
  }
  int integer_or(int fallback, const char* key, int least, int most) const {
    return integer_or(fallback, {key}, least, most);
  }
  /// None, one integer, or an array of them.
  std::vector<int> integers(Keys keys, int least, int most) const {
    const Json* value = find(keys);
    if (value == nullptr) return {};
    if (!value->is_array()) return {integer(*value, *keys.begin(), least, most)};
    std::vector<int> all;
    for (const Json& one : *value) all.push_back(integer(one, *keys.begin(), least, most));
    return all;
  }
  std::vector<int> integers(const char* key, int least, int most) const { return integers({key}, least, most); }
  double number(Keys keys, double least, double most) const {
    const Json* value = find(keys);
    if (value == nullptr) refuse(*keys.begin(), range("a number", least, most), "none");
    return number(*value, *keys.begin(), least, most);
  }
  std::optional<double> number_if_any(Keys keys, double least, double most) const {
    const Json* value = find(keys);
    return value == nullptr ? std::nullopt : std::optional(number(*value, *keys.begin(), least, most));
  }
  std::optional<double> number_if_any(const char* key, double least, double most) const {
    return number_if_any({key}, least, most);
  }
  /// None, or an array of numbers in which null counts as zero.
  std::vector<double> numbers(const char* key, double least, double most) const {
    std::vector<double> all;
    const Json* value = find({key});
    if (value == nullptr) return all;
    if (!value->is_array()) refuse(key, "an array of numbers", describe(*value));
    for (const Json& one : *value) all.push_back(one.is_null() ? 0.0 : number(one, key, least, most));
    return all;
  }
  /// None, or an array of strings.
  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> all;
    const Json* value = find({key});
    if (value == nullptr) return all;
    if (!value->is_array()) refuse(key, "an array of strings", describe(*value));
    for (const Json& one : *value) {
      if (!one.is_string()) refuse(key, "an array of strings", describe(one));
      all.push_back(one.get<std::string>());
    }
    return all;
  }
  bool flag_or(bool fallback, Keys keys) const {
    const Json* value = find(keys);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(*keys.begin(), "true or false", describe(*value));
    return value->get<bool>();
  }
  bool flag_or(bool fallback, const char* key) const { return flag_or(fallback, {key}); }
  std::string text_or(const char* fallback, Keys keys) const {
    const Json* value = find(keys);
    if (value == nullptr) return fallback;
    if (!value->is_string()) refuse(*keys.begin(), "a string", describe(*value));
    return value->get<std::string>();
  }
  /// A reader of the object under `key`; nothing if there is none.
  std::optional<ConfigReader> object_if_any(const char* key) const {
    const Json* value = find({key});
    if (value == nullptr) return std::nullopt;
    if (!value->is_object()) refuse(key, "an object", describe(*value));
    return ConfigReader(*value, concat(where_, ": in \"", key, "\""));
  }

  [[noreturn]] void refuse(const std::string& key, const std::string& expected, const std::string& found) const {
    raise(IoError(concat(where_, ": key ", in_quotes(key)), "value", expected, found));
  }

 private:
  static std::string describe(const Json& value) {
    if (value.is_structured()) return value.is_array() ? "an array" : "an object";
    return value.is_string() ? in_quotes(value.get_ref<const std::string&>()) : value.dump();
  }
  template <class T>
  static std::string range(const char* kind, T least, T most) {
    return concat(kind, " from ", Json(least).dump(), " to ", Json(most).dump());
  }
  int integer(const Json& value, const char* key, int least, int most) const {
    const bool fits = value.is_number_unsigned()
                          ? value.get<std::uint64_t>() <= std::uint64_t{0x7fffffff}
                          : value.is_number_integer() && value.get<std::int64_t>() >= -0x7fffffff;
    if (!fits || value.get<int>() < least || value.get<int>() > most) {
      refuse(key, range("an integer", least, most), describe(value));
    }
    return value.get<int>();
  }
  double number(const Json& value, const char* key, double least, double most) const {
    if (!value.is_number() || !(value.get<double>() >= least && value.get<double>() <= most)) {
      refuse(key, range("a number", least, most), describe(value));
    }
    return value.get<double>();
  }

  const Json* object_;
  std::string where_;
};

}  // namespace moe::io
