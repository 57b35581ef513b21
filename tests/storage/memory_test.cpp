// What a cache holds, counted by this program's operator new and by the kernel.
#include <unistd.h>

#include <fstream>
#include <thread>

#include <doctest/doctest.h>

#include <moe/moe.hpp>

#include "address_sanitizer.hpp"
#include "counting_new.hpp"
#include "laws/storage_laws.hpp"
#include "temporary_folder.hpp"

namespace {

constexpr std::size_t mega = 1024 * 1024;
constexpr moe::ExpertShape shape{512, 1024};  // records of 3 MiB
constexpr int experts = 86;                   // 258 MiB
constexpr std::size_t budget = 64 * mega;
/// Beside the slots: tables, queues of reads, threads, of which the documentation says "less than a megabyte".
constexpr std::size_t overhead = mega;

/// A file whose expert e has the byte e all over.
std::string write_file_of_experts(const TemporaryFolder& folder) {
  const std::string path = (folder / "experts").string();
  using Writer = moe::RecordWriter<>;
  const std::size_t record = moe::PanelLayout::record_bytes<moe::bf16>(shape);
  const Writer::Format format{moe::format_traits<moe::bf16>::name, record};
  Writer writer(path, shape, 1, experts, moe::PanelLayout::name, {&format, 1});
  for (moe::ExpertId e = 0; e < experts; ++e) writer.write(0, 0, e, [&](std::byte* to) { std::memset(to, e, record); });
  writer.commit();
  return path;
}

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t size = 0, pages = 0;
  file >> size >> pages;
  return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// Uses experts and guesses others; returns how many records were not those asked for.
template <class Storage>
int use_and_guess(const Storage& storage, int rounds, int seed) {
  int wrong = 0;
  for (int i = 0; i < rounds; ++i) {
    const auto expert = [&](int salt) {
      return static_cast<moe::ExpertId>((i * 37 + seed * 11 + salt * salt * 5 + salt) % experts);
    };
    std::vector<moe::ExpertNeed> guesses;
    for (int g = 0; g < 5; ++g) guesses.push_back({expert(10 + g), 1, 1, 0});
    storage.expect(guesses);
    storage_laws::lend_all(storage, {expert(0), expert(1), expert(2)}, [&](const moe::ExpertRef& ref) {
      const auto right = static_cast<std::byte>(ref.expert);
      wrong += ref.bytes[0] != right || ref.bytes[2 * mega] != right || ref.bytes[3 * mega - 1] != right ? 1 : 0;
    });
  }
  return wrong;
}

}  // namespace

TEST_CASE(
    "a cache over a file four times as large holds its budget and less than a megabyte, by the allocator and "
    "by the kernel") {
  const TemporaryFolder folder;
  const std::string path = write_file_of_experts(folder);
  const std::size_t heap_before = heap::bytes;
  const std::size_t resident_before = resident_bytes();
  heap::peak = heap_before;
  std::size_t resident = 0;
  {
    moe::CacheOptions options{.bytes = budget};
    options.staging_slots = 2;
    const moe::ExpertCache cache{options, moe::Multidimensional{}};
    const moe::Cached storage{cache, moe::File<moe::bf16>{path}};
    CHECK(cache.bytes_held() <= budget);
    CHECK(cache.bytes_held() > budget - 4 * mega);
    std::atomic<int> wrong{0};
    for (int round = 0; round < 4; ++round) {
      std::thread other([&] { wrong += use_and_guess(storage, 10, 2 * round); });
      wrong += use_and_guess(storage, 10, 2 * round + 1);
      other.join();
      resident = std::max(resident, resident_bytes());
    }
    CHECK(wrong == 0);
    CHECK(cache.statistics().evictions > 50);
    CHECK(cache.statistics().prefetched > 20);
  }
  CHECK(heap::peak - heap_before <= budget + overhead);
  CHECK(heap::peak - heap_before >= budget - 4 * mega);
  CHECK(heap::bytes <= heap_before + 64 * 1024);
  if (!address_sanitizer) {
    CHECK(resident - resident_before <= budget + 4 * mega);  // and stacks of threads
    CHECK(resident - resident_before >= budget / 2);         // or nothing was measured
  }
}

TEST_CASE("slots that are cut again for larger records never stand beside the old ones") {
  const fixture::RandomExperts small({64, 64}, 2, 1), large({128, 64}, 2, 1);
  const std::size_t before = heap::bytes;
  heap::peak = before;
  const moe::ExpertCache cache{{.bytes = 8 * mega}};
  const moe::Cached first{cache, small.packed<moe::bf16>()};
  const moe::Cached second{cache, large.packed<moe::bf16>()};
  CHECK(heap::peak - before <= 8 * mega + overhead);
}
