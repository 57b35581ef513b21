#include <cstdlib>
#include <vector>

#include <doctest/doctest.h>

#include <moe/io/xxh3.hpp>

#include "faulty_system.hpp"
#include "storage_fixture.hpp"

namespace {

using fixture::Fault;
using moe::io::Xxh3;
using Formats = moe::formats<moe::bf16, moe::q8_0>;
using CheckedFile = moe::File<Formats, moe::PanelLayout, Xxh3>;
using FaultyFile = moe::File<Formats, moe::PanelLayout, Xxh3, moe::ThreadReader<fixture::FaultySystem>>;

constexpr moe::ExpertShape shape{40, 23};
constexpr int experts = 3;

auto source_of(const fixture::RandomExperts& weights) {
  return moe::Mixed{moe::ByImportance{}, weights.packed<moe::bf16>(), weights.packed<moe::q8_0>()};
}

/// All records of a source, one behind the other, without what the source pads them by.
template <class Source>
std::vector<std::byte> records(const Source& source) {
  std::vector<std::byte> all;
  moe::detail::for_each_format(Formats{}, [&]<class F>(int format, std::type_identity<F>) {
    for (moe::ExpertId e = 0; e < experts; ++e) {
      const moe::Buffer buffer(source.bytes(format));
      moe::PendingReads read(1);
      source.read({e, format, buffer.data(), &moe::PendingReads::done, &read});
      read.wait();
      all.insert(all.end(), buffer.data(), buffer.data() + moe::PanelLayout::record_bytes<F>(shape));
    }
  });
  return all;
}

std::ptrdiff_t files_in(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}

/// These must not be noticed by anybody.
bool harmless(Fault fault) { return fault == Fault::eintr || fault == Fault::short_transfer || fault == Fault::late; }

enum class Outcome { right, refused };

/// Opens a file and reads everything; then everything once more without faults, if it could be opened.
Outcome read_under(fixture::FaultPlan& plan, const std::string& path, moe::Access access,
                   const std::vector<std::byte>& expected) {
  Outcome outcome = Outcome::refused;
  try {
    const FaultyFile file{path, {.readers = 2, .access = access}, fixture::FaultySystem{&plan}};
    try {
      const std::vector<std::byte> found = records(file);
      CHECK(found == expected);
      outcome = Outcome::right;
    } catch (const moe::IoError& error) {
      CHECK(std::string(error.what()).find(path) == 0);
    }
    plan.fail_at = -1;
    const std::vector<std::byte> again = records(file);
    CHECK(again == expected);
  } catch (const moe::IoError& error) {
    CHECK(std::string(error.what()).find(path) == 0);
  }
  CHECK(plan.descriptors == 0);
  return outcome;
}

/// Writes `next` over a file of `old`, reads what there is, and puts the old file back.
Outcome write_under(fixture::FaultPlan& plan, const std::string& path, const fixture::RandomExperts& old,
                    const fixture::RandomExperts& next) {
  const std::vector<std::byte> before = records(source_of(old)), after = records(source_of(next));
  Outcome outcome = Outcome::refused;
  try {
    moe::write_records(path, source_of(next), Xxh3{}, moe::NoProgress{}, fixture::FaultySystem{&plan});
    outcome = Outcome::right;
  } catch (const moe::IoError& error) {
    CHECK(std::string(error.what()).find(path) == 0);
  }
  plan.fail_at = -1;
  CHECK(plan.descriptors == 0);
  CHECK(files_in(std::filesystem::path(path).parent_path()) == 1);
  try {
    const std::vector<std::byte> found = records(CheckedFile{path});
    CHECK((found == after || (outcome == Outcome::refused && found == before)));
  } catch (const moe::IoError&) {
    CHECK(plan.kind == Fault::flipped);
    outcome = Outcome::refused;
  }
  moe::write_records(path, source_of(old), Xxh3{});
  return outcome;
}

}  // namespace

TEST_CASE("whichever call of opening and reading fails, and how: right records or an error that names the file") {
  const TemporaryFolder folder;
  const std::string path = (folder / "a.moe").string();
  const fixture::RandomExperts weights(shape, experts, 1);
  moe::write_records(path, source_of(weights), Xxh3{});
  const std::vector<std::byte> expected = records(source_of(weights));
  for (const moe::Access access : {moe::Access::direct, moe::Access::buffered})
    for (const Fault kind : fixture::all_faults) {
      CAPTURE(static_cast<int>(kind));
      int refused = 0, calls = 1;
      for (int n = 0; n < calls; ++n) {
        CAPTURE(n);
        fixture::FaultPlan plan;
        plan.kind = kind;
        plan.fail_at = n;
        refused += read_under(plan, path, access, expected) == Outcome::refused ? 1 : 0;
        calls = n + (plan.injected > 0 ? 2 : 0);
      }
      CHECK(calls >= 10);
      CHECK((refused == 0) == harmless(kind));
    }
}

TEST_CASE("whichever call of writing fails, and how: the old file or the new one, and nothing beside it") {
  const TemporaryFolder folder;
  const std::string path = (folder / "a.moe").string();
  const fixture::RandomExperts old(shape, experts, 1), next(shape, experts, 2);
  moe::write_records(path, source_of(old), Xxh3{});
  for (const Fault kind : fixture::all_faults) {
    CAPTURE(static_cast<int>(kind));
    int refused = 0, calls = 1;
    for (int n = 0; n < calls; ++n) {
      CAPTURE(n);
      fixture::FaultPlan plan;
      plan.kind = kind;
      plan.fail_at = n;
      refused += write_under(plan, path, old, next) == Outcome::refused ? 1 : 0;
      calls = n + (plan.injected > 0 ? 2 : 0);
    }
    CHECK(calls == 15);
    CHECK((refused == 0) == harmless(kind));
  }
}

TEST_CASE("one call in 32 fails at random: layers of several threads are right or say why not, and right afterwards") {
  const TemporaryFolder folder;
  const std::string path = (folder / "a.moe").string();
  constexpr int many = 12;
  const fixture::RandomExperts weights(shape, many, 1);
  moe::write_records(path, source_of(weights), Xxh3{});
  const fixture::Inputs in(5, shape.hidden, many, 3);
  const moe::TopK router{.experts = many, .k = 3};
  const std::vector<float> expected = fixture::outputs(
      moe::MoELayer{in.linear(), router, moe::Resident{weights.packed<moe::bf16>()}, moe::Cpu{.threads = 1}}, in, 5);
  using Bf16File = moe::File<moe::bf16, moe::PanelLayout, Xxh3, moe::ThreadReader<fixture::FaultySystem>>;

  fixture::FaultPlan plan;
  const Bf16File file{path, {}, fixture::FaultySystem{&plan}};
  const moe::ExpertCache cache{{.bytes = 4 * file.bytes(0)}};
  const moe::MoELayer layer{in.linear(), router, moe::Cached{cache, file}, moe::Cpu{.threads = 1}};
  std::atomic<int> right{0}, refused{0}, wrong{0};
  const auto host = [&] {
    try {
      ++(fixture::outputs(layer, in, 2) == expected ? right : wrong);
    } catch (const moe::IoError&) {
      ++refused;
    }
  };
  // A minute in the slow test; otherwise a fixed number of rounds.
  const char* const seconds = std::getenv("MOE_SOAK_SECONDS");
  const auto begin = std::chrono::steady_clock::now();
  const auto going = [&](int round) {
    return seconds == nullptr ? round < 300
                              : std::chrono::steady_clock::now() - begin < std::chrono::seconds(std::atoi(seconds));
  };
  for (int round = 0; going(round); ++round) {
    plan.one_in = 32;
    std::thread other(host);
    host();
    other.join();
    plan.one_in = 0;
    const std::vector<float> after = fixture::outputs(layer, in, 5);
    REQUIRE(after == expected);
  }
  CHECK(wrong == 0);
  CHECK(right > 0);
  CHECK(refused > 0);
  CHECK(plan.descriptors == 1);
  MESSAGE(plan.calls.load() << " calls, " << plan.injected.load() << " faults; " << right.load() << " right, "
                            << refused.load() << " refused");
}
