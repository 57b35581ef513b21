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
T value_at(const std::string& bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}
std::string padded(std::string text, std::size_t size) {
  text.resize(size, '\0');
  return text;
}
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

/// A checksum by which one changed byte can be foretold.
struct Sum {
  static constexpr std::string_view name = "sum";
  static std::uint64_t of(std::span<const std::byte> bytes) noexcept {
    std::uint64_t sum = 0x0123456789abcde0;
    for (const std::byte b : bytes) sum += std::to_integer<std::uint64_t>(b);
    return sum;
  }
};

std::vector<std::byte> record_in(const auto& file, int format, moe::ExpertId e) {
  const moe::Buffer buffer(file.bytes(format));
  moe::PendingReads read(1);
  file.read({e, format, buffer.data(), &moe::PendingReads::done, &read});
  read.wait();
  return {buffer.data(), buffer.data() + buffer.bytes()};
}
bool begins_with(const std::vector<std::byte>& all, const std::vector<std::byte>& first) {
  return all.size() >= first.size() && std::equal(first.begin(), first.end(), all.begin());
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

TEST_CASE("records begin on pages of 4096 bytes, behind head and checksums") {
  const Written w;
  const moe::File<moe::bf16> file{w.path};
  CHECK(file.bytes(0) % 4096 == 0);
  CHECK(std::filesystem::file_size(w.path) == 2 * 4096 + layers * experts * file.bytes(0));
}

TEST_CASE("the bytes of a record file are those of docs/formats.md") {
  const Written w;
  const std::string bytes = read_file(w.path);
  const auto u32 = [&](std::size_t at) { return value_at<std::uint32_t>(bytes, at); };
  CHECK(bytes.substr(0, 8) == std::string("moerecs\0", 8));
  CHECK(u32(8) == 2);
  CHECK(u32(12) == layers);
  CHECK(u32(16) == experts);
  CHECK(u32(20) == 40);
  CHECK(u32(24) == 23);
  CHECK(u32(28) == 1);
  CHECK(u32(32) == 0);
  CHECK(u32(36) == 1);
  CHECK(bytes.substr(40, 32) == padded("panel32", 16) + padded("none", 16));
  CHECK(bytes.substr(80, 24) == padded("bf16", 24));
  CHECK(value_at<std::uint64_t>(bytes, 104) == moe::PanelLayout::record_bytes<moe::bf16>(shape));
  CHECK(value_at<std::uint64_t>(bytes, 112) == 8192);
  CHECK(bytes.substr(120, 8192 - 120) == std::string(8192 - 120, '\0'));
  const std::vector<std::byte> record = fixture::record(w.weights[1]->packed<moe::bf16>(), 2);
  const std::size_t stride = (record.size() + 4095) / 4096 * 4096;
  CHECK(std::memcmp(bytes.data() + 8192 + (experts + 2) * stride, record.data(), record.size()) == 0);
}

TEST_CASE("a wrong record is refused with both checksums in hexadecimal digits") {
  const Written w;
  const moe::Packed<moe::bf16> source = w.weights[0]->packed<moe::bf16>();
  const std::string path = (w.folder / "summed.moe").string();
  moe::write_records<moe::Packed<moe::bf16>, Sum>(path, source);
  CHECK_NOTHROW(moe::verify_records<Sum>(path, moe::NoProgress{}));
  std::string bytes = read_file(path);
  const auto sum = value_at<std::uint64_t>(bytes, 4096 + 8 * 3);  // of expert 2, behind that of the head
  ++bytes[8192 + 2 * moe::File<moe::bf16>{path}.bytes(0)];
  write_file(path, bytes);
  char both[64];
  std::snprintf(both, sizeof both, "expected 0x%016llx, found 0x%016llx", static_cast<unsigned long long>(sum),
                static_cast<unsigned long long>(sum + 1));
  const std::string expected = path + ": checksum of expert 2 of layer 0 in bf16: " + both;
  CHECK_THROWS_WITH_AS(moe::verify_records<Sum>(path, moe::NoProgress{}), expected.c_str(), moe::IoError);
}
TEST_CASE("every byte of a file that is not head, checksum or record is zero, whatever lay in memory before") {
  const TemporaryFolder folder;
  const std::string path = (folder / "two.moe").string();
  const moe::RecordWriter<>::Format formats[]{{"long", 3 * 4096 - 1}, {"short", 5}, {"whole", 4096}, {"longer", 4097}};
  moe::RecordWriter<> writer(path, shape, layers, experts, "any", formats);
  const moe::RecordFileHead head = writer.head();
  const auto each_record = [&](const auto& visit) {
    for (int f = 0; f < 4; ++f)
      for (int l = 0; l < layers; ++l)
        for (moe::ExpertId e = 0; e < experts; ++e) visit(f, l, e);
  };
  each_record([&](int f, int l, moe::ExpertId e) {
    writer.write(f, l, e, [&](std::byte* to) {  // as sources do that fill whole pages
      std::memset(to, 0xff, static_cast<std::size_t>(head.series[static_cast<std::size_t>(f)].stride()));
    });
  });
  writer.commit();
  std::string expected = read_file(path).substr(0, sizeof head);
  expected.resize(static_cast<std::size_t>(writer.bytes()), '\0');
  each_record([&](int f, int l, moe::ExpertId e) {
    std::memset(expected.data() + head.offset(f, l, e), 0xff,
                static_cast<std::size_t>(head.series[static_cast<std::size_t>(f)].record_bytes));
  });
  const bool same = read_file(path) == expected;  // outside CHECK, which would print them
  CHECK(same);
}
TEST_CASE("sources of several formats are written to the same bytes again, and read from such a file too") {
  const TemporaryFolder folder;
  const fixture::RandomExperts weights(shape, experts, 5);
  const moe::Mixed mixed{moe::ByImportance{}, weights.packed<moe::bf16>(), weights.packed<moe::q4_0>()};
  moe::write_records(folder / "first.moe", mixed);
  { const std::vector<char> dirt(1u << 20, '\x5a'); }  // what the next one may be given as memory
  moe::write_records(folder / "again.moe", mixed);
  moe::write_records(folder / "copy.moe", moe::File<moe::formats<moe::bf16, moe::q4_0>>{folder / "first.moe"});
  const std::string first = read_file(folder / "first.moe");
  const bool again = first == read_file(folder / "again.moe"), copy = first == read_file(folder / "copy.moe");
  CHECK(again);
  CHECK(copy);
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
  says(patched(good, 8, 1u), "version of the record file: expected 2, found 1, which must be written anew");
  says(patched(good, 8, 3u), "version of the record file: expected 2, found 3");
  says(patched(good, 12, 0u), "layers: expected 1 to 16777216, found 0");
  says(patched(good, 12, 4u), "bytes of the file");
  says(patched(good, 16, 6u), "bytes of the file");
  says(patched(good, 16, 0xffffffffu), "experts");
  says(patched(good, 20, 41u), "bytes of a record in bf16");
  says(patched(good, 20, 0x01000001u), "hidden");
  says(patched(good, 24, 0u), "ffn");
  says(patched(good, 28, 0u), "bytes of a record in bf16");
  says(patched(good, 28, 2u), "gated: expected 0 to 1, found 2");
  says(patched(good, 32, 7u), "biased");
  says(patched(good, 36, 0u), "formats: expected 1 to 16, found 0");
  says(patched(good, 36, 2u), "format 1: expected a name and a size, found none");
  says(patched(good, 36, 17u), "formats: expected 1 to 16, found 17");
  says(patched(good, 40, 'q'), "layout of the records: expected panel32");
  says(patched(good, 80, 'f'), "format of the records: expected bf16, found ff16");
  says(patched(good, 80, '\n'), "format of the records: expected bf16, found ?f16");
  says(patched(good, 103, 'x'), "name of format 0: expected zeros behind it");
  says(patched(good, 104, std::uint64_t{1} << 63), "bytes of a record: expected fewer");
  says(patched(good, 104, (std::uint64_t{1} << 60) + 1), "bytes of a record: expected fewer");
  says(patched(good, 104, ~std::uint64_t{0}), "bytes of a record: expected fewer");
  says(patched(good, 104, std::uint64_t{8200}), "bytes of the file");
  says(patched(good, 112, std::uint64_t{4096}), "offset of the first record in bf16: expected 8192, found 4096");
}

TEST_CASE("numbers of the head have bounds, and the first wrong one is named") {
  const Written w;
  const std::string good = read_file(w.path);
  struct Field {
    std::size_t at;
    const char* name;
    std::uint32_t least, most;
  };
  const std::uint32_t most = 1u << 24;
  const Field fields[] = {{12, "layers", 1, most}, {16, "experts", 1, most}, {20, "hidden", 1, most},
                          {24, "ffn", 1, most},    {28, "gated", 0, 1},      {32, "biased", 0, 1},
                          {36, "formats", 1, 16}};
  std::string all_from_here = good;
  for (auto f = std::rbegin(fields); f != std::rend(fields); ++f) {
    const auto refused = [&](std::uint32_t value) {
      return refusal(w, patched(all_from_here, f->at, value))
                 .find(moe::concat("bad.moe: ", f->name, ": expected ", f->least, " to ", f->most, ", found ",
                                   value)) != std::string::npos;
    };
    CHECK(refused(f->most + 1));
    if (f->least > 0) CHECK(refused(f->least - 1));
    CHECK_FALSE(refused(f->least));
    CHECK_FALSE(refused(f->most));
    all_from_here = patched(all_from_here, f->at, f->most + 1);
  }
  const auto sized = [&](std::uint64_t bytes) { return refusal(w, patched(good, 104, bytes)); };
  CHECK(sized(0).find("format 0: expected a name and a size, found none") != std::string::npos);
  CHECK(sized(1).find("format 0") == std::string::npos);
}

TEST_CASE("no byte of the head can be changed so that other records are read") {
  const Written w;
  const std::string good = read_file(w.path);
  const std::string path = (w.folder / "bad.moe").string();
  const std::vector<std::byte> expected = fixture::record(moe::File<moe::bf16>{w.path}.layer(1), 3);
  int refused = 0;
  for (std::size_t at = 0; at < 128; ++at)
    for (const int bit : {0, 7}) {
      write_file(path, patched(good, at, static_cast<char>(good[at] ^ (1 << bit))));
      try {
        const std::vector<std::byte> found = fixture::record(moe::File<moe::bf16>{path}.layer(1), 3);
        CHECK(found == expected);
      } catch (const moe::IoError&) {
        ++refused;
      }
    }
  CHECK(refused > 150);
}

TEST_CASE("a head of the largest sizes is refused before anything is allocated for it") {
  const Written w;
  std::string bytes = read_file(w.path);
  for (const std::size_t at : {12u, 16u, 20u, 24u}) bytes = patched(bytes, at, 1u << 24);
  CHECK(refusal(w, bytes) != "accepted");
  CHECK(refusal(w, patched(bytes, 104, std::uint64_t{1} << 12)) != "accepted");
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

TEST_CASE("a file of two formats gives each its records, whichever of them are asked for, and in any order") {
  const TemporaryFolder folder;
  const fixture::RandomExperts weights(shape, experts, 5);
  const auto bf16 = weights.packed<moe::bf16>();
  const auto q8 = weights.packed<moe::q8_0>();
  moe::write_records(folder / "two.moe", moe::Mixed{moe::ByImportance{}, bf16, q8});
  const moe::File<moe::formats<moe::q8_0, moe::bf16>> both{folder / "two.moe"};
  const moe::File<moe::q8_0> one{folder / "two.moe"};
  for (moe::ExpertId e = 0; e < experts; ++e) {
    CHECK(begins_with(record_in(both, 0, e), fixture::record(q8, e)));
    CHECK(begins_with(record_in(both, 1, e), fixture::record(bf16, e)));
    CHECK(begins_with(record_in(one, 0, e), fixture::record(q8, e)));
  }
}

TEST_CASE("a format that the file lacks is refused with those it has") {
  const TemporaryFolder folder;
  const fixture::RandomExperts weights(shape, experts, 5);
  const std::string path = (folder / "two.moe").string();
  moe::write_records(path, moe::Mixed{moe::ByImportance{}, weights.packed<moe::bf16>(), weights.packed<moe::q8_0>()});
  CHECK_THROWS_WITH_AS((moe::File<moe::formats<moe::bf16, moe::f16>>{path}),
                       (path + ": format of the records: expected f16, found bf16, q8_0").c_str(), moe::IoError);
}

TEST_CASE("one format twice is no record file, written or read") {
  const TemporaryFolder folder;
  const fixture::RandomExperts weights(shape, experts, 5);
  const auto bf16 = weights.packed<moe::bf16>();
  CHECK_THROWS_AS(moe::write_records(folder / "two.moe", moe::Mixed{moe::ByImportance{}, bf16, bf16}), moe::Error);
  CHECK(std::filesystem::is_empty(folder.path()));
  moe::write_records(folder / "two.moe", moe::Mixed{moe::ByImportance{}, bf16, weights.packed<moe::f16>()});
  const std::string bytes = read_file(folder / "two.moe");
  write_file(folder / "two.moe", bytes.substr(0, 120) + padded("bf16", 24) + bytes.substr(144));
  CHECK_THROWS_WITH_AS(moe::File<moe::bf16>{folder / "two.moe"},
                       ((folder / "two.moe").string() + ": formats: expected each once, found bf16 twice").c_str(),
                       moe::IoError);
}

TEST_CASE("progress counts up to the bytes of the file") {
  const TemporaryFolder folder;
  const fixture::RandomExperts weights(shape, experts, 5);
  std::vector<std::uint64_t> steps;
  std::uint64_t total = 0;
  moe::write_records(folder / "a.moe", weights.packed<moe::bf16>(), moe::Unchecked{},
                     [&](std::uint64_t done, std::uint64_t of) {
                       steps.push_back(done);
                       total = of;
                     });
  CHECK(steps.size() == experts);
  CHECK(std::is_sorted(steps.begin(), steps.end()));
  CHECK(steps.back() == total);
  CHECK(total == std::filesystem::file_size(folder / "a.moe"));
}

TEST_CASE("a file that is replaced while it is open is read as it was") {
  const Written w;
  const moe::File<moe::bf16> file{w.path};
  const std::vector<std::byte> before = fixture::record(file, 2);
  const fixture::RandomExperts other(shape, experts, 77);
  moe::write_records(w.path, other.packed<moe::bf16>());
  CHECK(fixture::record(file, 2) == before);
  CHECK(moe::File<moe::bf16>{w.path}.num_layers() == 1);
}

TEST_CASE("readers below one are refused") {
  const Written w;
  CHECK_THROWS_AS((moe::File<moe::bf16>{w.path, {.readers = 0}}), moe::Error);
}

TEST_CASE("a writer refuses to put a file in place that lacks records") {
  const TemporaryFolder folder;
  {
    const std::vector<moe::RecordWriter<>::Format> formats{{"bf16", 100}};
    moe::RecordWriter<> writer((folder / "a.moe").string(), shape, 1, 2, "panel32", formats);
    writer.write(0, 0, 1, [](std::byte* to) { std::memset(to, 1, 100); });
    CHECK_THROWS_WITH_AS(writer.commit(), "moe::RecordWriter: records written: expected 2, found 1", moe::Error);
  }
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("layers outside the file are refused") {
  const Written w;
  CHECK_THROWS_WITH_AS((moe::File<moe::bf16>{w.path, {.layer = 3}}),
                       (w.path + ": layer: expected 0 to 2, found 3").c_str(), moe::Error);
  CHECK_THROWS_AS(moe::File<moe::bf16>{w.path}.layer(-1), moe::Error);
}

TEST_CASE("a file that becomes shorter while it is open makes reads fail, and reads before the cut still work") {
  const Written w;
  const moe::File<moe::bf16> buffered{w.path, {.access = moe::Access::buffered}}, direct{w.path};
  std::filesystem::resize_file(w.path, 8192 + 2 * direct.bytes(0) + 100);
  for (const auto& file : {buffered, direct}) {
    CHECK_NOTHROW(fixture::record(file, 1));
    CHECK_THROWS_AS(fixture::record(file, 2), moe::IoError);
    CHECK_THROWS_AS(fixture::record(file, 3), moe::IoError);
  }
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
