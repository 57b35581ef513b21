// FaultySystem: the calls that files make, of which the n-th or a random one fails in a chosen way.
#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include <moe/math.hpp>
#include <moe/storage/posix_file.hpp>

namespace fixture {

enum class Fault { eio, eintr, eagain, enospc, short_transfer, zero, late, flipped };
inline constexpr Fault all_faults[] = {Fault::eio,  Fault::eintr, Fault::eagain, Fault::enospc, Fault::short_transfer,
                                       Fault::zero, Fault::late,  Fault::flipped};

/// What happens to calls, and what they left open; shared by all copies of a system.
struct FaultPlan {
  std::atomic<int> calls{0}, injected{0}, descriptors{0};
  std::atomic<int> fail_at{-1};  // the call that fails, from 0 on
  std::atomic<int> one_in{0};    // or one in so many, at random, in a random way
  Fault kind = Fault::eio;

  /// The fault of the call that is made now.
  bool next(Fault& fault, std::uint64_t& random) {
    const int n = calls++;
    random = moe::random_at(0, static_cast<std::uint64_t>(n));
    const bool chosen = one_in > 0 && random % static_cast<unsigned>(one_in) == 0;
    fault = chosen ? all_faults[random / 1024 % std::size(all_faults)] : kind;
    if (!chosen && n != fail_at) return false;
    ++injected;
    return true;
  }
};

struct FaultySystem {
  FaultPlan* plan = nullptr;
  moe::PosixSystem real{};

  int open(const char* path, int flags, mode_t mode = 0) const noexcept {
    if (refused()) return -1;
    const int fd = real.open(path, flags, mode);
    plan->descriptors += fd >= 0 ? 1 : 0;
    return fd;
  }
  /// There is no descriptor afterwards, whatever is answered.
  int close(int fd) const noexcept {
    const bool bad = refused();
    const int error = errno;
    --plan->descriptors;
    const int result = real.close(fd);
    errno = error;
    return bad ? -1 : result;
  }
  int status(int fd, struct stat& to) const noexcept { return refused() ? -1 : real.status(fd, to); }
  int reserve(int fd, off_t bytes) const noexcept { return refused() ? -1 : real.reserve(fd, bytes); }
  int sync(int fd) const noexcept { return refused() ? -1 : real.sync(fd); }
  int rename(const char* from, const char* to) const noexcept { return refused() ? -1 : real.rename(from, to); }
  int unlink(const char* path) const noexcept { return real.unlink(path); }  // what cleans up is not the subject

  ssize_t pread(int fd, void* to, std::size_t bytes, off_t at) const noexcept {
    Fault fault;
    std::uint64_t random = 0;
    if (!plan->next(fault, random)) return real.pread(fd, to, bytes, at);
    if (fault == Fault::zero) return 0;
    if (fails(fault)) return -1;
    const ssize_t got = real.pread(fd, to, bytes, at);
    if (got <= 0) return got;
    if (fault == Fault::flipped) flip(static_cast<std::byte*>(to), got, random);
    return fault == Fault::short_transfer ? 1 + got / 3 : got;
  }
  ssize_t pwrite(int fd, const void* from, std::size_t bytes, off_t at) const noexcept {
    Fault fault;
    std::uint64_t random = 0;
    if (!plan->next(fault, random)) return real.pwrite(fd, from, bytes, at);
    if (fault == Fault::zero) return 0;
    if (fails(fault)) return -1;
    if (fault == Fault::short_transfer) return real.pwrite(fd, from, 1 + bytes / 3, at);
    if (fault != Fault::flipped) return real.pwrite(fd, from, bytes, at);
    const auto* const first = static_cast<const std::byte*>(from);
    std::vector<std::byte> changed(first, first + bytes);
    flip(changed.data(), static_cast<ssize_t>(bytes), random);
    return real.pwrite(fd, changed.data(), bytes, at);
  }

 private:
  bool refused() const noexcept {
    Fault fault;
    std::uint64_t random = 0;
    return plan->next(fault, random) && fails(fault);
  }
  static bool fails(Fault fault) noexcept {
    if (fault == Fault::late) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    errno = fault == Fault::eio      ? EIO
            : fault == Fault::eintr  ? EINTR
            : fault == Fault::eagain ? EAGAIN
            : fault == Fault::enospc ? ENOSPC
                                     : 0;
    return errno != 0;
  }
  static void flip(std::byte* bytes, ssize_t size, std::uint64_t random) noexcept {
    bytes[random / 8 % static_cast<std::uint64_t>(size)] ^= std::byte{1} << random % 8;
  }
};

}  // namespace fixture
