// Reading records from disk: one read per expert, past the page cache and through it, on threads and by io_uring. The
// file lies in TMPDIR or /var/tmp and is dropped from the page cache before every round, so that buffered reads are
// cold.

#include <cstdlib>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <moe/io/uring.hpp>
#include <moe/io/xxh3.hpp>
#include <moe/moe.hpp>

namespace {

constexpr moe::ExpertShape shape{2048, 768};  // an expert of Qwen3-30B-A3B
constexpr int experts = 64;

/// 600 MB of records that go with the program.
class RecordsOnDisk {
 public:
  RecordsOnDisk() : path_(folder() + "/moe-file-bench-" + std::to_string(::getpid())) {
    const std::vector<float> weights(static_cast<std::size_t>(shape.hidden) * shape.ffn, 0.01f);
    const moe::Matrix up(weights.data(), shape.ffn, shape.hidden), down(weights.data(), shape.hidden, shape.ffn);
    const std::vector<moe::ExpertMatrices> matrices(experts, {up, up, down});
    moe::write_records(path_, moe::Packed<moe::bf16>{shape, matrices}, moe::io::Xxh3{});
  }
  RecordsOnDisk(const RecordsOnDisk&) = delete;
  RecordsOnDisk& operator=(const RecordsOnDisk&) = delete;
  ~RecordsOnDisk() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }
  void drop_from_page_cache() const {
    const int fd = ::open(path_.c_str(), O_RDONLY);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }

 private:
  static std::string folder() {
    const char* set = std::getenv("TMPDIR");
    return set != nullptr ? set : "/var/tmp";
  }
  std::string path_;
};

const RecordsOnDisk& records_on_disk() {
  static const RecordsOnDisk disk;
  return disk;
}

template <class Checksum, class Reader>
using FileBy = moe::File<moe::bf16, moe::PanelLayout, Checksum, Reader>;
using Plain = FileBy<moe::Unchecked, moe::ThreadReader<>>;
using Verified = FileBy<moe::io::Xxh3, moe::ThreadReader<>>;
using ByUring = FileBy<moe::Unchecked, moe::io::UringReader>;

template <class File>
void read_all(benchmark::State& state, std::type_identity<File>, moe::Access access) {
  const RecordsOnDisk& disk = records_on_disk();
  const File file{disk.path(), {.readers = static_cast<int>(state.range(0)), .access = access}};
  const moe::Buffer memory(experts * file.bytes(0));
  for (auto _ : state) {
    state.PauseTiming();
    disk.drop_from_page_cache();
    state.ResumeTiming();
    moe::PendingReads reads(experts);
    for (moe::ExpertId e = 0; e < experts; ++e)
      file.read({e, 0, memory.data() + static_cast<std::size_t>(e) * file.bytes(0), &moe::PendingReads::done, &reads});
    reads.wait();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(memory.bytes()));
  state.counters["direct"] = file.direct();
}
void one_and_two_readers(benchmark::internal::Benchmark* b) {
  b->ArgName("readers")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(read_all, direct, std::type_identity<Plain>{}, moe::Access::direct)->Apply(one_and_two_readers);
BENCHMARK_CAPTURE(read_all, direct_verified, std::type_identity<Verified>{}, moe::Access::direct)
    ->Apply(one_and_two_readers);
BENCHMARK_CAPTURE(read_all, direct_uring, std::type_identity<ByUring>{}, moe::Access::direct)
    ->Apply(one_and_two_readers);
BENCHMARK_CAPTURE(read_all, buffered, std::type_identity<Plain>{}, moe::Access::buffered)->Apply(one_and_two_readers);

}  // namespace

BENCHMARK_MAIN();
