#include <cerrno>

#include <doctest/doctest.h>

#include <moe/storage/posix_file.hpp>

#include "storage_fixture.hpp"

using moe::detail::Transfer;
using moe::detail::transfer_fully;

namespace {

/// A disk that says this where room is to be reserved.
struct Reserving : moe::PosixSystem {
  explicit Reserving(int a = 0) : answer(a) {}
  int answer;
  int reserve(int, off_t) const noexcept {
    errno = answer;
    return answer == 0 ? 0 : -1;
  }
};
/// A file system that takes O_DIRECT, and then reads whole pages to whole pages and nothing else; or nothing at all.
struct Direct : moe::PosixSystem {
  explicit Direct(bool r = true) : reads(r) {}
  bool reads;
  int open(const char* path, int flags, mode_t mode = 0) const noexcept {
    return PosixSystem::open(path, flags & ~O_DIRECT, mode);
  }
  ssize_t pread(int fd, void* to, std::size_t bytes, off_t at) const noexcept {
    const auto address = reinterpret_cast<std::uintptr_t>(to);
    if (reads && at % 4096 == 0 && bytes % 4096 == 0 && address % 4096 == 0)
      return PosixSystem::pread(fd, to, bytes, at);
    errno = EINVAL;
    return -1;
  }
};

}  // namespace

TEST_CASE("short transfers are continued and interruptions tried again") {
  int calls = 0;
  const Transfer t = transfer_fully(10, [&](std::size_t done) -> ssize_t {
    if (++calls % 2 == 0) {
      errno = EINTR;
      return -1;
    }
    return done < 9 ? 3 : 1;
  });
  CHECK(t.bytes == 10);
  CHECK(t.error == 0);
  CHECK(calls == 7);
}

TEST_CASE("an error ends the transfer with what was moved before it") {
  const Transfer t = transfer_fully(10, [&](std::size_t done) -> ssize_t {
    if (done == 0) return 4;
    errno = EIO;
    return -1;
  });
  CHECK(t.bytes == 4);
  CHECK(t.error == EIO);
}

TEST_CASE("what is not ready is tried again a bounded number of times, and more often while bytes move") {
  int calls = 0;
  const auto not_ready = [](std::size_t) -> ssize_t {
    errno = EAGAIN;
    return -1;
  };
  const Transfer never = transfer_fully(10, [&](std::size_t done) { return ++calls, not_ready(done); });
  CHECK(never.error == EAGAIN);
  CHECK(calls == moe::detail::most_idle_steps);
  calls = 0;
  const Transfer t = transfer_fully(100, [&](std::size_t done) { return calls++ % 16 == 15 ? 1 : not_ready(done); });
  CHECK(t.bytes == 100);
  CHECK(t.error == 0);
}

TEST_CASE("after a short direct step the transfer goes on where a page begins") {
  std::vector<std::size_t> asked;
  const Transfer t = transfer_fully(
      3 * 4096,
      [&](std::size_t done) -> ssize_t {
        asked.push_back(done);
        return asked.size() == 1 ? 5000 : asked.size() == 2 ? 512 : static_cast<ssize_t>(3 * 4096 - done);
      },
      4096);
  CHECK(t.bytes == 3 * 4096);
  CHECK(asked == std::vector<std::size_t>{0, 4096, 4096});
}

TEST_CASE("direct steps that never reach a page end without an error, as the end of a file does") {
  const Transfer t = transfer_fully(
      8192, [](std::size_t) -> ssize_t { return 100; }, 4096);
  CHECK(t.bytes == 0);
  CHECK(t.error == 0);
}

TEST_CASE("a transfer that moves nothing ends without an error") {
  const Transfer t = transfer_fully(10, [&](std::size_t) -> ssize_t { return 0; });
  CHECK(t.bytes == 0);
  CHECK(t.error == 0);
}

TEST_CASE("a read beyond the end says what it wanted and what there is") {
  const TemporaryFolder folder;
  moe::OutputFile out(folder / "a");
  const std::byte bytes[5] = {};
  out.write(bytes);
  out.commit();
  const moe::InputFile in(folder / "a");
  std::byte to[4];
  CHECK_NOTHROW(in.read(1, to));
  CHECK_THROWS_WITH_AS(in.read(2, to),
                       ((folder / "a").string() + ": read at byte 2: expected 4 bytes, found only 5").c_str(),
                       moe::IoError);
  CHECK_THROWS_AS(in.read(~std::uint64_t{0}, to), moe::IoError);
}

TEST_CASE("room that cannot be reserved is an error, unless the file system reserves none") {
  const TemporaryFolder folder;
  for (const int unknown : {0, EOPNOTSUPP, ENOSYS, EINVAL}) {
    moe::BasicOutputFile<Reserving> out(folder / "a", Reserving(unknown));
    CHECK_NOTHROW(out.reserve(1 << 20));
  }
  for (const int error : {ENOSPC, EFBIG, EIO, EDQUOT}) {
    moe::BasicOutputFile<Reserving> out(folder / "a", Reserving(error));
    CHECK_THROWS_WITH_AS(out.reserve(1 << 20), doctest::Contains("has no room"), moe::IoError);
  }
}

TEST_CASE("a file is read directly where the file system reads whole pages so, and else through its buffers") {
  const TemporaryFolder folder;
  moe::OutputFile out(folder / "a");
  const std::vector<std::byte> page(4096, std::byte{7});
  out.write(page);
  out.commit();
  const moe::Buffer to(4096);
  const moe::BasicInputFile<Direct> direct((folder / "a").string(), moe::Access::direct, Direct());
  CHECK(direct.direct());
  CHECK_NOTHROW(direct.read(0, {to.data(), 4096}));
  CHECK(std::memcmp(to.data(), page.data(), 4096) == 0);
  CHECK_FALSE(moe::BasicInputFile<Direct>((folder / "a").string(), moe::Access::direct, Direct(false)).direct());
  moe::OutputFile(folder / "empty").commit();
  CHECK(moe::BasicInputFile<Direct>((folder / "empty").string(), moe::Access::direct, Direct()).direct());
}

TEST_CASE("a full disk is an error that says so, and nothing is left") {
  if (!std::filesystem::exists("/dev/full")) return;
  const moe::detail::Descriptor<> full{::open("/dev/full", O_WRONLY)};
  const std::byte bytes[5] = {};
  const Transfer t = transfer_fully(5, [&](std::size_t done) { return ::write(full.get(), bytes + done, 5 - done); });
  CHECK(t.error == ENOSPC);
}

TEST_CASE("a file that is not committed leaves nothing behind") {
  const TemporaryFolder folder;
  {
    moe::OutputFile out(folder / "a");
    const std::byte bytes[5] = {};
    out.write(bytes);
  }
  CHECK(std::filesystem::is_empty(folder.path()));
}
