// Answers of record sources: waiting for several, and giving one.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>

#include <moe/concepts.hpp>

namespace moe {

/// Counts answers down and keeps the first error. Pass `&PendingReads::done` and the object to `RecordSource::read`.
class PendingReads {
 public:
  explicit PendingReads(int count) : left_(count) {}

  static void done(void* who, const Error* error) noexcept { static_cast<PendingReads*>(who)->answer(error); }

  /// Returns when all have answered; throws the first error as IoError.
  void wait() {
    std::unique_lock lock(mutex_);
    answered_.wait(lock, [&] { return left_ == 0; });
    if (error_) raise(*error_);
  }

 private:
  void answer(const Error* error) noexcept {
    const std::lock_guard lock(mutex_);
    if (error != nullptr && !error_) error_.emplace(error->what());
    if (--left_ == 0) answered_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable answered_;
  int left_;
  std::optional<IoError> error_;
};

/// Runs `fill`, which may throw Error, and answers with what came of it.
template <class Fill>
void answer_with(const Fill& fill, ReadDone done, void* who) noexcept {
#if MOE_EXCEPTIONS
  try {
    fill();
  } catch (const Error& error) {
    return done(who, &error);
  } catch (const std::exception& other) {
    const Error error(other.what());
    return done(who, &error);
  }
#else
  fill();
#endif
  done(who, nullptr);
}

}  // namespace moe
