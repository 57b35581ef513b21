#include <doctest/doctest.h>

#include <moe/io/xxh3.hpp>

#include "storage_fixture.hpp"

namespace {

using moe::io::Xxh3;
template <class Formats>
using Checked = moe::File<Formats, moe::PanelLayout, Xxh3>;
constexpr moe::ExpertShape shape{40, 23};
constexpr int experts = 3;

struct Written {
  Written() { moe::write_records(path, std::span<const moe::Packed<moe::q8_0>>(layers), Xxh3{}); }
  TemporaryFolder folder;
  std::string path = (folder / "a.moe").string();
  fixture::RandomExperts first{shape, experts, 1}, second{shape, experts, 2};
  std::vector<moe::Packed<moe::q8_0>> layers{first.packed<moe::q8_0>(), second.packed<moe::q8_0>()};
};

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const moe::IoError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("Xxh3 is XXH3 of 64 bits without a seed") {
  CHECK(Xxh3::of({}) == 0x2d06800538d394c2u);  // of no bytes, in the specification's reference program
  const std::string text = "a";
  CHECK(Xxh3::of(std::as_bytes(std::span(text))) == 0xe6c632b61e964e1fu);
}

TEST_CASE("a file with checksums is verified, and read by who does not verify") {
  const Written w;
  CHECK_NOTHROW(moe::verify_records<Xxh3>(w.path, moe::NoProgress{}));
  const std::vector<std::byte> expected = fixture::record(w.layers[1], 2);
  std::vector<std::byte> found = fixture::record(Checked<moe::q8_0>{w.path}.layer(1), 2);
  CHECK(fixture::record(moe::File<moe::q8_0>{w.path}.layer(1), 2) == found);
  found.resize(expected.size());
  CHECK(found == expected);
}

TEST_CASE("a file without checksums is refused by who verifies") {
  const Written w;
  moe::write_records(w.path, w.layers[0]);
  CHECK_THROWS_WITH_AS(Checked<moe::q8_0>{w.path}, (w.path + ": checksums: expected xxh3_64, found none").c_str(),
                       moe::IoError);
}

TEST_CASE("a wrong record is an error that names expert, layer, format and both checksums") {
  const Written w;
  std::string bytes = read_file(w.path);
  const std::size_t stride = moe::File<moe::q8_0>{w.path}.bytes(0);
  bytes[2 * 4096 + (experts + 2) * stride + 1000] ^= 4;
  write_file(w.path, bytes);
  const Checked<moe::q8_0> file{w.path};
  CHECK_NOTHROW(fixture::record(file.layer(1), 1));
  const std::string message = message_of([&] { fixture::record(file.layer(1), 2); });
  INFO(message);
  CHECK(message.find(w.path + ": checksum of expert 2 of layer 1 in q8_0: expected 0x") == 0);
  CHECK(message.find(", found 0x") != std::string::npos);
  CHECK(message_of([&] { moe::verify_records<Xxh3>(w.path, moe::NoProgress{}); }) == message);
}

TEST_CASE("any changed bit of the file is found") {
  const Written w;
  const std::string good = read_file(w.path);
  for (std::size_t at = 0; at < good.size(); at += at < 130 ? 1 : 509) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << at % 8));
    write_file(w.path, bad);
    CAPTURE(at);
    CHECK_THROWS_AS(moe::verify_records<Xxh3>(w.path, moe::NoProgress{}), moe::IoError);
  }
}

TEST_CASE("records that changed places are found") {
  const Written w;
  std::string bytes = read_file(w.path);
  const std::size_t stride = moe::File<moe::q8_0>{w.path}.bytes(0);
  std::swap_ranges(bytes.begin() + 8192, bytes.begin() + 8192 + static_cast<std::ptrdiff_t>(stride),
                   bytes.begin() + 8192 + static_cast<std::ptrdiff_t>(stride));
  write_file(w.path, bytes);
  CHECK_THROWS_AS(fixture::record(Checked<moe::q8_0>{w.path}, 0), moe::IoError);
}
