// What can go wrong and how it is said: what, where, expected, found.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <moe/config.hpp>
#if !MOE_EXCEPTIONS
#include <cstdlib>
#endif

namespace moe {

/// The parts, strings and integers, one after the other. (`"literal" + std::to_string(n)` would be shorter, but g++ 12
/// warns of overlapping copies inside it at -O2, in users' builds too.)
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::string text;
  const auto append = [&](const auto& part) {
    if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(part)>>)
      text += std::to_string(part);
    else
      text += std::string_view(part);
  };
  (append(parts), ...);
  return text;
}

/// Base of everything the library throws. `what()` is one sentence a user can act on.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  /// Builds "where: what: expected E, found F".
  Error(const std::string& where, const std::string& what, const std::string& expected, const std::string& found)
      : std::runtime_error(concat(where, ": ", what, ": expected ", expected, ", found ", found)) {}
};

/// A file, a disk or a read that failed; raised at open time and by `forward` over storages that read.
class IoError : public Error {
 public:
  using Error::Error;
};

#if MOE_EXCEPTIONS
template <class E>
[[noreturn]] void raise(E error) {
  throw error;
}
#else
/// Called instead of `throw` under -fno-exceptions; must not return.
using ErrorHandler = void (*)(const Error&);
inline ErrorHandler& error_handler() {
  static ErrorHandler handler = nullptr;
  return handler;
}
template <class E>
[[noreturn]] void raise(E error) {
  if (error_handler() != nullptr) error_handler()(error);
  std::abort();
}
#endif

/// Throws `Error` unless `condition` holds; the message parts are formatted only then.
template <class E, class F>
void require_equal(const char* where, const char* what, E expected, F found) {
  if (!(expected == found)) raise(Error(where, what, std::to_string(expected), std::to_string(found)));
}
inline void require_index(const char* where, const char* what, int count, int found) {
  if (found < 0 || found >= count) raise(Error(where, what, concat("0 to ", count - 1), std::to_string(found)));
}

}  // namespace moe
