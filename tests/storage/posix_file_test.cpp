#include <cerrno>

#include <doctest/doctest.h>

#include <moe/storage/posix_file.hpp>

#include "storage_fixture.hpp"

using moe::detail::Transfer;
using moe::detail::transfer_fully;

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
