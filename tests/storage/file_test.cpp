#include <doctest/doctest.h>

#include "laws/storage_laws.hpp"

namespace {

constexpr moe::ExpertShape shape{40, 23};
constexpr int experts = 5, layers = 3;

/// A record file of three layers in a folder of its own.
struct Written {
  Written() {
    for (unsigned l = 0; l < layers; ++l)
      weights.push_back(std::make_unique<fixture::RandomExperts>(shape, experts, l));
    std::vector<moe::Packed<moe::bf16>> sources;
    for (const auto& w : weights) sources.push_back(w->packed<moe::bf16>());
    moe::write_records(path, std::span<const moe::Packed<moe::bf16>>(sources));
  }
  TemporaryFolder folder;
  std::string path = (folder / "experts.moe").string();
  std::vector<std::unique_ptr<fixture::RandomExperts>> weights;
};

template <class T>
std::string patched(std::string bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
  return bytes;
}
/// The message of opening a file with these bytes as bf16 records.
std::string refusal(const Written& w, const std::string& bytes) {
  const std::string path = (w.folder / "bad.moe").string();
  write_file(path, bytes);
  try {
    moe::File<moe::bf16>{path};
  } catch (const moe::Error& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("records come back as they were written, for every layer and expert") {
  const Written w;
  const moe::File<moe::bf16> file{w.path};
  CHECK(file.num_layers() == layers);
  CHECK(file.shape() == shape);
  for (int l = 0; l < layers; ++l)
    for (moe::ExpertId e = 0; e < experts; ++e) {
      const std::vector<std::byte> expected =
          fixture::record(w.weights[static_cast<std::size_t>(l)]->packed<moe::bf16>(), e);
      std::vector<std::byte> found = fixture::record(file.layer(l), e);
      found.resize(expected.size());
      CHECK(found == expected);
    }
}

TEST_CASE("buffered reads give the same bytes as direct ones") {
  const Written w;
  const moe::File<moe::bf16> direct{w.path}, buffered{w.path, {.access = moe::Access::buffered}};
  CHECK_FALSE(buffered.direct());
  for (moe::ExpertId e = 0; e < experts; ++e) CHECK(fixture::record(direct, e) == fixture::record(buffered, e));
}

TEST_CASE("records begin on pages of 4096 bytes") {
  const Written w;
  const moe::File<moe::bf16> file{w.path};
  CHECK(file.bytes(0) % 4096 == 0);
  CHECK(std::filesystem::file_size(w.path) == 4096 + layers * experts * file.bytes(0));
}

TEST_CASE("a layer over a file, resident or cached, computes the bits of packed weights") {
  const Written w;
  const fixture::Inputs in(9, shape.hidden, experts, 3);
  const moe::TopK router{.experts = experts, .k = 2};
  const moe::File<moe::bf16> file{w.path, {.layer = 1}};
  const std::vector<float> expected = fixture::outputs(
      moe::MoELayer{in.linear(), router, moe::Resident{w.weights[1]->packed<moe::bf16>()}, moe::Cpu{.threads = 1}}, in,
      9);
  CHECK(fixture::outputs(moe::MoELayer{in.linear(), router, moe::Resident{file}, moe::Cpu{.threads = 2}}, in, 4) ==
        expected);
  const moe::ExpertCache cache{{.bytes = 2 * file.bytes(0)}};
  CHECK(fixture::outputs(moe::MoELayer{in.linear(), router, moe::Cached{cache, file}, moe::Cpu{.threads = 2}}, in, 4) ==
        expected);
}

TEST_CASE("every field of the head is checked, and the message says which") {
  const Written w;
  const std::string good = read_file(w.path);
  const auto says = [&](const std::string& bytes, const char* what) {
    const std::string message = refusal(w, bytes);
    INFO(message);
    CHECK(message.find(what) != std::string::npos);
  };
  CHECK(refusal(w, good) == "accepted");
  says(patched(good, 0, 'X'), "first bytes");
  says(patched(good, 8, 2u), "version: expected 1, found 2");
  says(patched(good, 12, 0u), "layers");
  says(patched(good, 12, 4u), "bytes of the file");
  says(patched(good, 16, 6u), "bytes of the file");
  says(patched(good, 16, 0xffffffffu), "experts");
  says(patched(good, 20, 41u), "bytes of");
  says(patched(good, 20, 0x01000001u), "hidden");
  says(patched(good, 24, 0u), "ffn");
  says(patched(good, 28, 0u), "bytes of a record");
  says(patched(good, 40, std::uint64_t{1} << 63), "bytes of a record");
  says(patched(good, 48, 'q'), "layout of the records: expected panel32");
  says(patched(good, 64, 'f'), "format of the weights: expected bf16, found ff16");
}

TEST_CASE("a file cut at any of its pages, or with bytes added, is refused") {
  const Written w;
  const std::string good = read_file(w.path);
  for (std::size_t cut = 0; cut < good.size(); cut += 1365) CHECK(refusal(w, good.substr(0, cut)) != "accepted");
  CHECK(refusal(w, good + "x").find("bytes of the file") != std::string::npos);
}

TEST_CASE("a file in another format is refused when it is opened") {
  const Written w;
  CHECK_THROWS_AS(moe::File<moe::f16>{w.path}, moe::IoError);
}

TEST_CASE("layers outside the file are refused") {
  const Written w;
  CHECK_THROWS_WITH_AS((moe::File<moe::bf16>{w.path, {.layer = 3}}),
                       (w.path + ": layer: expected 0 to 2, found 3").c_str(), moe::Error);
  CHECK_THROWS_AS(moe::File<moe::bf16>{w.path}.layer(-1), moe::Error);
}

TEST_CASE("a file that becomes shorter while it is open makes reads fail, and reads before the cut still work") {
  const Written w;
  const moe::File<moe::bf16> file{w.path, {.access = moe::Access::buffered}};
  std::filesystem::resize_file(w.path, 4096 + 2 * file.bytes(0) + 100);
  CHECK_NOTHROW(fixture::record(file, 1));
  CHECK_THROWS_AS(fixture::record(file, 2), moe::IoError);
}

TEST_CASE("a missing file, a folder and a FIFO are refused") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(moe::File<moe::bf16>{folder / "none"}, moe::IoError);
  CHECK_THROWS_AS(moe::File<moe::bf16>{folder.path().string()}, moe::IoError);
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  CHECK_THROWS_AS(moe::File<moe::bf16>{folder / "fifo"}, moe::IoError);
}

TEST_CASE("writing that fails leaves neither the file nor a temporary") {
  const TemporaryFolder folder;
  const fixture::RandomExperts weights(shape, experts, 1);
  fixture::Plan plan;
  plan.fail_from = 3;
  plan.fail_count = 1;
  const storage_laws::Source source{weights.packed<moe::bf16>(), &plan};
  CHECK_THROWS_AS(moe::write_records(folder / "out.moe", source), moe::IoError);
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("writing replaces an old file whole") {
  const TemporaryFolder folder;
  const fixture::RandomExperts one(shape, 2, 1), two(shape, 4, 2);
  moe::write_records(folder / "out.moe", one.packed<moe::bf16>());
  moe::write_records(folder / "out.moe", two.packed<moe::bf16>());
  CHECK(moe::File<moe::bf16>{folder / "out.moe"}.num_experts() == 4);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("layers that differ in shape are not written into one file") {
  const TemporaryFolder folder;
  const fixture::RandomExperts one(shape, 2, 1), two({40, 24}, 2, 2);
  const std::vector<moe::Packed<moe::bf16>> sources{one.packed<moe::bf16>(), two.packed<moe::bf16>()};
  CHECK_THROWS_AS(moe::write_records(folder / "out.moe", std::span<const moe::Packed<moe::bf16>>(sources)), moe::Error);
  CHECK(std::filesystem::is_empty(folder.path()));
}
