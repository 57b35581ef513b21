// Faults of the real kernel: killed writers, full and limited disks, errors that strace puts into the program's calls.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <thread>

#include <doctest/doctest.h>

#include <moe/io/xxh3.hpp>
#include <moe/storage/file.hpp>

#include "address_sanitizer.hpp"
#include "child_process.hpp"
#include "temporary_folder.hpp"

namespace {

using moe::io::Xxh3;
using CheckedFile = moe::File<moe::q8_0, moe::PanelLayout, Xxh3>;

/// Experts all of whose bytes are one number: `first` for expert 0, one more for each next one.
struct Numbered {
  using layout = moe::PanelLayout;
  using formats = moe::formats<moe::q8_0>;
  int first;
  moe::ExpertShape shape() const noexcept { return {64, 64}; }
  int num_experts() const noexcept { return 8; }
  std::size_t bytes(int) const noexcept { return layout::record_bytes<moe::q8_0>(shape()); }
  void read(const moe::ReadRequest& r) const {
    std::memset(r.to, first + r.expert, bytes(0));
    r.done(r.who, nullptr);
  }
};
void write(const std::filesystem::path& path, int first) { moe::write_records(path.string(), Numbered{first}, Xxh3{}); }

/// What `first` was of a complete file with right checksums; throws IoError for any other.
int first_of(const std::filesystem::path& path) {
  moe::verify_records<Xxh3>(path.string(), moe::NoProgress{});
  const CheckedFile file{path.string()};
  const moe::Buffer record(file.bytes(0));
  std::set<int> firsts;
  for (moe::ExpertId e = 0; e < file.num_experts(); ++e) {
    moe::PendingReads read(1);
    file.read({e, 0, record.data(), &moe::PendingReads::done, &read});
    read.wait();
    for (std::size_t i = 0; i < Numbered{}.bytes(0); ++i) firsts.insert(static_cast<int>(record.data()[i]) - e);
  }
  REQUIRE(firsts.size() == 1);
  return *firsts.begin();
}

std::ptrdiff_t files_in(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}

/// 0 if writing `path` failed with a message that holds `part` and left nothing in the folder, and reads of the
/// file that was there before still work.
template <class Write>
int refused(const std::filesystem::path& path, const char* part, const Write& write_it) {
  const std::ptrdiff_t before = files_in(path.parent_path());
  try {
    write_it();
    return 1;
  } catch (const moe::IoError& error) {
    if (std::string(error.what()).find(part) == std::string::npos) return 2;
  }
  return files_in(path.parent_path()) == before ? 0 : 3;
}

/// A file system that cannot reserve room.
struct NoReserve : moe::PosixSystem {
  int reserve(int, off_t) const noexcept {
    errno = EOPNOTSUPP;
    return -1;
  }
};

/// Kills a process that writes `path` again and again, `kills` times at random moments; returns how often the file
/// was the killed process's.
int kill_writers(const std::filesystem::path& path, int kills, std::uint64_t seed) {
  auto one = std::chrono::microseconds::max();  // the quickest of three
  for (int i = 0; i < 3; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    write(path, 1);
    one =
        std::min(one, std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin));
  }
  int current = 1, changed = 0;
  for (int i = 0; i < kills; ++i) {
    const int next = 1 + (current + i) % 100;
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      try {
        write(path, next);
        for (;;) ::pause();
      } catch (...) {
      }
      ::_exit(1);
    }
    const auto bound = static_cast<std::uint64_t>(one.count()) + 500;
    std::this_thread::sleep_for(std::chrono::microseconds(moe::next_random(seed) % bound));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    REQUIRE(WIFSIGNALED(status));
    const int found = first_of(path);
    REQUIRE((found == current || found == next));
    changed += found != current ? 1 : 0;
    current = found;
    // What a killed process leaves is its temporary at most, under a name that no reader opens.
    for (const auto& entry : std::filesystem::directory_iterator(path.parent_path())) {
      if (entry.path() == path) continue;
      CHECK(entry.path().string().find(path.string() + ".tmp-" + std::to_string(child)) == 0);
      std::filesystem::remove(entry.path());
    }
  }
  return changed;
}

}  // namespace

TEST_CASE("writers killed at random moments leave the old file or the new one, complete") {
  const char* const set = std::getenv("MOE_KILLS");  // of the slow test
  const int kills = set == nullptr ? 60 : std::atoi(set);
  const TemporaryFolder on_disk;
  int changed = kill_writers(on_disk / "a.moe", kills / 2, 1);
  if (std::filesystem::exists("/dev/shm")) {  // in memory no time goes into syncing, and other moments are hit
    const std::filesystem::path folder = "/dev/shm/moe-test-" + std::to_string(::getpid());
    std::filesystem::create_directory(folder);
    changed += kill_writers(folder / "a.moe", kills - kills / 2, 2);
    std::filesystem::remove_all(folder);
  }
  MESSAGE(kills << " kills, after " << changed << " of them the file was new");
}

TEST_CASE("on a full file system writing fails with its reason, leaves nothing, and succeeds where there is room") {
  const TemporaryFolder folder;
  constexpr int no_mount = 77;
  const int status = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return no_mount;
    ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    if (::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=192k") != 0) return no_mount;
    const std::filesystem::path path = folder / "a.moe";
    write(path, 5);  // 136 kB; another one does not fit beside it
    const int reserved = refused(path, "No space left", [&] { write(path, 6); });
    if (reserved != 0) return reserved;
    const int written = refused(path, "No space left", [&] {
      moe::write_records(path.string(), Numbered{6}, Xxh3{}, moe::NoProgress{}, NoReserve{});
    });
    if (written != 0) return 10 + written;
    if (first_of(path) != 5) return 20;
    std::filesystem::remove(path);
    write(path, 7);
    return first_of(path) == 7 ? 0 : 21;
  });
  if (status == no_mount) {
    MESSAGE("SKIPPED: mounting a tmpfs is not allowed here");
    return;
  }
  CHECK(status == 0);
}

TEST_CASE("beyond the limit of file sizes writing fails with its reason, and the old file stays") {
  const TemporaryFolder folder;
  write(folder / "a.moe", 5);
  CHECK(in_child([&] {
          std::signal(SIGXFSZ, SIG_IGN);
          const rlimit limit{40000, 40000};
          ::setrlimit(RLIMIT_FSIZE, &limit);
          const int reserved = refused(folder / "a.moe", "File too large", [&] { write(folder / "a.moe", 6); });
          if (reserved != 0) return reserved;
          return refused(folder / "a.moe", "File too large", [&] {
            moe::write_records((folder / "a.moe").string(), Numbered{6}, Xxh3{}, moe::NoProgress{}, NoReserve{});
          });
        }) == 0);
  CHECK(first_of(folder / "a.moe") == 5);
  CHECK(files_in(folder.path()) == 1);
}

// The sanitizer opens a pipe whenever it looks at an object.
TEST_CASE("without a descriptor left opening fails with its reason" * doctest::skip(address_sanitizer)) {
  const TemporaryFolder folder;
  write(folder / "a.moe", 5);
  CHECK(in_child([&] {
          const rlimit limit{3, 3};
          ::setrlimit(RLIMIT_NOFILE, &limit);
          try {
            const CheckedFile file{(folder / "a.moe").string()};
            return 1;
          } catch (const moe::IoError& error) {
            return std::string(error.what()).find("Too many open files") != std::string::npos ? 0 : 2;
          }
        }) == 0);
}

TEST_CASE("errors that strace puts into the calls of pack_experts: right files, or exit status 1 and nothing left") {
  const std::string pack = std::string(MOE_BIN_DIR) + "/pack_experts";
  if (!std::filesystem::exists(pack) || std::system("strace -V >/dev/null 2>&1") != 0 ||
      std::system("strace -qq -o /dev/null true") != 0) {
    MESSAGE("SKIPPED: needs pack_experts and strace (Debian: apt-get install strace) that may trace");
    return;
  }
  const TemporaryFolder folder;
  const std::string out = (folder / "a.moe").string(), model = std::string(MOE_MODEL_DIR);
  const auto run = [&](const std::string& inject, const std::string& only, const std::string& arguments) {
    const std::string command = "strace -f -qq -o /dev/null " + (only.empty() ? "" : "-P " + only + " ") +
                                "-e trace=" + inject.substr(0, inject.find(':')) + " -e inject=" + inject + " " + pack +
                                " " + arguments + " >/dev/null 2>" + (folder / "err").string();
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  const std::string writing = "--model " + model + " --formats q4 --out " + out;
  for (const char* const inject :
       {"fallocate:error=ENOSPC:when=1", "pwrite64:error=ENOSPC:when=1", "pwrite64:error=EIO:when=20",
        "pwrite64:error=EIO:when=49", "fsync:error=EIO:when=1", "fsync:error=EINTR:when=1",
        "pwrite64:error=EINTR:when=7+3", "rename:error=EIO:when=1", "pwrite64:error=EAGAIN:when=5..9"}) {
    CAPTURE(inject);
    const int status = run(inject, "", writing);
    const bool passes = std::string(inject).find("EINTR") != std::string::npos ||
                        std::string(inject).find("EAGAIN") != std::string::npos;
    CHECK(status == (passes ? 0 : 1));
    CHECK(std::filesystem::exists(out) == passes);
    CHECK(files_in(folder.path()) == (passes ? 2 : 1));
    if (passes) CHECK_NOTHROW(moe::verify_records<Xxh3>(out, moe::NoProgress{}));
    std::filesystem::remove(out);
    if (!passes) CHECK(read_file(folder / "err").find("pack_experts: error: ") != std::string::npos);
  }
  REQUIRE(std::system((pack + " " + writing + " 2>/dev/null >/dev/null").c_str()) == 0);
  for (const char* const inject : {"pread64:error=EIO:when=10", "pread64:error=EINTR:when=2+2",
                                   "pread64:error=EAGAIN:when=3..8", "pread64:retval=0:when=12"}) {
    CAPTURE(inject);
    const bool passes = std::string(inject).find("EINTR") != std::string::npos ||
                        std::string(inject).find("EAGAIN") != std::string::npos;
    CHECK(run(inject, out, "--verify " + out) == (passes ? 0 : 1));
    CHECK(run(inject, model + "/model.safetensors", "--model " + model + " --out " + (folder / "b").string()) ==
          (passes ? 0 : 1));
    std::filesystem::remove(folder / "b");
  }
}
