#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <doctest/doctest.h>

#include <moe/io/uring.hpp>
#include <moe/io/xxh3.hpp>

#include "child_process.hpp"
#include "storage_fixture.hpp"

namespace {

/// How often the kernel is going to answer with `answer`, and what it was given otherwise.
std::atomic<int> refusals{0}, answer{0}, submitted{0};

}  // namespace

/// Stands before liburing's own.
extern "C" int io_uring_submit(io_uring* ring) {
  if (refusals > 0) return --refusals, answer.load();
  ++submitted;
  static auto* const own = reinterpret_cast<int (*)(io_uring*)>(::dlsym(RTLD_NEXT, "io_uring_submit"));
  return own(ring);
}

namespace {

using Format = moe::bf16;
using UringFile = moe::File<Format, moe::PanelLayout, moe::io::Xxh3, moe::io::UringReader>;
constexpr moe::ExpertShape shape{96, 64};
constexpr int experts = 40;

struct Written {
  Written() { moe::write_records(path, weights.packed<Format>(), moe::io::Xxh3{}); }
  TemporaryFolder folder;
  std::string path = (folder / "a.moe").string();
  fixture::RandomExperts weights{shape, experts, 1};
};

/// Reads all experts at once, guesses and hurried ones among them; true if every record is right.
bool reads_everything(const UringFile& file, const moe::Packed<Format>& source) {
  const std::size_t bytes = source.bytes(0), stride = file.bytes(0);
  const moe::Buffer memory(experts * stride);
  moe::PendingReads reads(experts);
  for (moe::ExpertId e = 0; e < experts; ++e)
    file.read({e, 0, memory.data() + static_cast<std::size_t>(e) * stride, &moe::PendingReads::done, &reads,
               e % 3 == 0 ? moe::Urgency::now : moe::Urgency::later});
  file.hurry(&reads);
  reads.wait();
  bool right = true;
  for (moe::ExpertId e = 0; e < experts; ++e)
    right = right && std::memcmp(memory.data() + static_cast<std::size_t>(e) * stride,
                                 fixture::record(source, e).data(), bytes) == 0;
  return right;
}

/// From now on, in all threads of this process, the kernel answers this call with an error.
bool refuse(unsigned call, int error) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{4, filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
}

enum Result { right = 0, wrong = 1, no_filter = 3, other_path = 4 };

}  // namespace

TEST_CASE("records come back right through io_uring, more of them than may be under way") {
  const Written w;
  for (const int readers : {1, 2, 8}) {
    const UringFile file{w.path, {.readers = readers}};
    if (!file.reader().uring()) MESSAGE("io_uring is refused here: this ran on threads");
    CHECK(reads_everything(file, w.weights.packed<Format>()));
    CHECK(reads_everything(file, w.weights.packed<Format>()));
  }
  CHECK(reads_everything(UringFile{w.path, {.access = moe::Access::buffered}}, w.weights.packed<Format>()));
}

TEST_CASE("the kernel reads where it has io_uring") {
  io_uring ring;
  if (::io_uring_queue_init(4, &ring, 0) != 0) return;
  ::io_uring_queue_exit(&ring);
  const Written w;
  CHECK(UringFile{w.path}.reader().uring());
}

TEST_CASE("destruction finishes reads that were asked for") {
  const Written w;
  moe::PendingReads reads(experts);
  const moe::Buffer memory(experts * UringFile{w.path}.bytes(0));
  {
    const UringFile file{w.path};
    for (moe::ExpertId e = 0; e < experts; ++e)
      file.read({e, 0, memory.data() + static_cast<std::size_t>(e) * file.bytes(0), &moe::PendingReads::done, &reads,
                 moe::Urgency::later});
  }
  CHECK_NOTHROW(reads.wait());
}

TEST_CASE("a host thread that ends does not take its reads along") {
  const Written w;
  const UringFile file{w.path};
  moe::PendingReads reads(experts);
  const moe::Buffer memory(experts * file.bytes(0));
  std::thread([&] {
    for (moe::ExpertId e = 0; e < experts; ++e)
      file.read({e, 0, memory.data() + static_cast<std::size_t>(e) * file.bytes(0), &moe::PendingReads::done, &reads});
  }).join();
  CHECK_NOTHROW(reads.wait());
}

TEST_CASE("a file that became shorter is an error through io_uring too, and other records are still right") {
  const Written w;
  const UringFile file{w.path};
  std::filesystem::resize_file(w.path, 8192 + 5 * file.bytes(0) + 100);
  CHECK_NOTHROW(fixture::record(file, 4));
  CHECK_THROWS_AS(fixture::record(file, 5), moe::IoError);
  CHECK_THROWS_AS(fixture::record(file, 6), moe::IoError);
  CHECK_NOTHROW(fixture::record(file, 3));
}

TEST_CASE("where io_uring is refused, reads run on threads") {
  const Written w;
  const auto source = w.weights.packed<Format>();
  const unsigned setup = SYS_io_uring_setup, enter = SYS_io_uring_enter, control = SYS_io_uring_register;
  for (const unsigned call : {setup, enter, control})
    for (const int error : {EPERM, ENOSYS, ENOMEM, EINVAL}) {
      CAPTURE(call);
      CHECK(in_child([&] {
              if (!refuse(call, error)) return no_filter;
              const UringFile file{w.path};
              if (file.reader().uring()) return other_path;
              return reads_everything(file, source) ? right : wrong;
            }) == right);
    }
}

TEST_CASE("a kernel that is busy is asked again, and one that refuses is not") {
  const Written w;
  const auto source = w.weights.packed<Format>();
  for (const int error : {EAGAIN, EBUSY, EINTR, EPERM, ENOMEM}) {
    CAPTURE(error);
    const UringFile file{w.path};
    if (!file.reader().uring()) return;
    CHECK(reads_everything(file, source));  // the reader has begun to listen
    answer = -error;
    submitted = 0;
    refusals = 3;
    CHECK(reads_everything(file, source));
    CHECK((submitted > 0) == (error == EAGAIN || error == EBUSY || error == EINTR));
    refusals = 0;
  }
}

TEST_CASE("if the kernel takes no more entries while the file is open, reads go on in the plain way") {
  const Written w;
  const auto source = w.weights.packed<Format>();
  const int result = in_child([&] {
    const UringFile file{w.path};
    if (!file.reader().uring()) return right;
    if (!reads_everything(file, source)) return wrong;
    if (!refuse(SYS_io_uring_enter, EPERM)) return no_filter;
    return reads_everything(file, source) && reads_everything(file, source) ? right : wrong;
  });
  CHECK(result == right);
}
