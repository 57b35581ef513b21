// JSON from strangers: nlohmann/json's event interface with positions, a depth limit and no duplicate keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <moe/error.hpp>
#include <moe/io/text.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::io {

using Json = nlohmann::json;

namespace detail {

/// A char iterator that tells its container how far the parser has read.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  std::size_t* consumed;

  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    ++at;
    ++*consumed;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at == other.at; }
  bool operator!=(const CountingIterator& other) const { return at != other.at; }
};

/// Base of the event readers: knows where the text stands, and refuses every event that a reader does not define.
class JsonEvents {
 public:
  /// `what` names the text in messages ("model.safetensors: header"), `first_byte` is where it starts in its file.
  JsonEvents(std::string what, std::size_t first_byte) : what_(std::move(what)), first_byte_(first_byte) {}

  bool null() { return refuse("null"); }
  bool boolean(bool value) { return refuse(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) { return refuse(std::to_string(value)); }
  bool number_unsigned(std::uint64_t value) { return refuse(std::to_string(value)); }
  bool number_float(double, const std::string& text) { return refuse(text.substr(0, 40)); }
  bool string(std::string& value) { return refuse(concat("the string ", in_quotes(value))); }
  bool binary(Json::binary_t&) { return refuse("binary data"); }
  bool start_object(std::size_t) { return refuse("an object"); }
  bool key(std::string& value) { return refuse(concat("the key ", in_quotes(value))); }
  bool end_object() { return refuse("the end of an object"); }
  bool start_array(std::size_t) { return refuse("an array"); }
  bool end_array() { return refuse("the end of an array"); }

  bool parse_error(std::size_t, const std::string&, const Json::exception& error) {
    std::string_view text = error.what();
    const std::size_t reason = text.find(" - ");
    if (reason != std::string_view::npos) text.remove_prefix(reason + 3);
    fail("JSON", "a JSON object", in_quotes(text));
  }

  /// "FILE: header at byte N": the text is read up to here, so the fault is the token that ends here.
  std::string where() const { return concat(what_, " at byte ", first_byte_ + consumed); }
  [[noreturn]] void fail(const std::string& what, const std::string& expected, const std::string& found) const {
    raise(IoError(where(), what, expected, found));
  }

  std::size_t consumed = 0;

 protected:
  bool refuse(const std::string& found) const { fail("JSON", "nothing here", found); }

 private:
  std::string what_;
  std::size_t first_byte_;
};

/// Feeds `text` to `events`. The whole text must be one JSON value.
template <class Events>
void parse_events(std::string_view text, Events& events) {
  // nlohmann's lexer takes a zero byte for the end of the text and would leave what follows unread.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos) {
    events.consumed = zero;
    events.fail("JSON", "text", "a zero byte");
  }
  if (text.empty() || text.front() != '{') events.fail("JSON", "\"{\" as the first byte", in_quotes(text.substr(0, 1)));
  const CountingIterator first{text.data(), &events.consumed};
  const CountingIterator last{text.data() + text.size(), &events.consumed};
  Json::sax_parse(first, last, &events);
}

/// Builds the tree that `parse_json` returns.
class JsonTree : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;
  static constexpr std::size_t deepest = 32;

  bool null() { return place(nullptr); }
  bool boolean(bool value) { return place(value); }
  bool number_integer(std::int64_t value) { return place(value); }
  bool number_unsigned(std::uint64_t value) { return place(value); }
  bool number_float(double value, const std::string&) { return place(value); }
  bool string(std::string& value) { return place(std::move(value)); }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    const auto [entry, added] = stack_.back()->get_ref<Json::object_t&>().try_emplace(name, nullptr);
    if (!added) fail(concat("key ", in_quotes(name)), "each key once", "a second one");
    member_ = &entry->second;
    return true;
  }

  Json root;

 private:
  bool place(Json value) {
    target() = std::move(value);
    return true;
  }
  bool open(Json value) {
    if (stack_.size() == deepest) fail("JSON", concat("at most ", deepest, " levels"), "a deeper one");
    Json& container = target();
    container = std::move(value);
    stack_.push_back(&container);
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }
  /// Where the next value goes. Containers grow only at their end, so the pointers on the stack stay valid.
  Json& target() {
    if (stack_.empty()) return root;
    if (stack_.back()->is_object()) return *member_;
    return stack_.back()->emplace_back(nullptr);
  }

  std::vector<Json*> stack_;
  Json* member_ = nullptr;
};

}  // namespace detail

/// The tree of an untrusted JSON object; throws `IoError` with `name` and the byte of the fault.
inline Json parse_json(std::string_view text, std::string_view name) {
  detail::JsonTree tree(std::string(name), 0);
  detail::parse_events(text, tree);
  return std::move(tree.root);
}

}  // namespace moe::io
