// Safetensors: bad files are refused by name, good ones read back bit for bit, nothing allocates what no file backs.
#include <doctest/doctest.h>
#include <malloc.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <moe/io/safetensors.hpp>
#include <moe/io/tensor_set.hpp>
#include <new>
#include <numeric>

#include "io/bad_safetensors.hpp"
#include "io/support.hpp"

using namespace io_test;
using moe::io::Dtype;
using moe::io::SafetensorsFile;
using moe::io::TensorData;
using moe::io::TensorInfo;
using moe::io::TensorSet;

// ---- the peak of the heap, counted by this program's own operator new

namespace heap {
std::size_t now = 0, peak = 0;
}  // namespace heap

void* operator new(std::size_t bytes) {
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  heap::now += ::malloc_usable_size(memory);
  heap::peak = std::max(heap::peak, heap::now);
  return memory;
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept {
  heap::now -= ::malloc_usable_size(memory);
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }

namespace {

moe::io::SafetensorsHeader parse(std::string_view bytes, std::uint64_t file_size = 0) {
  return moe::io::parse_safetensors_header(as_bytes(bytes), std::max<std::uint64_t>(file_size, bytes.size()), "x.st");
}

/// What a header promises, checked by other means than the parser's.
void check_semantics(const moe::io::SafetensorsHeader& header, std::uint64_t data_begin, std::uint64_t file_size) {
  std::uint64_t at = data_begin;
  for (const TensorInfo& tensor : header.tensors) {
    CHECK(tensor.offset == at);
    std::uint64_t elements = 1;
    for (const std::uint64_t size : tensor.shape) elements *= size;
    CHECK(tensor.bytes * 8 == elements * moe::io::dtype_bits(tensor.dtype));
    CHECK(header.find(tensor.name) == &tensor);
    at += tensor.bytes;
  }
  CHECK(at == file_size);
}

/// A valid file with a header of about 4 KiB.
std::string sample(int tensors) {
  std::string text = "{\"__metadata__\":{\"format\":\"pt\"}";
  for (int i = 0; i < tensors; ++i) {
    const std::string offsets = concat("[", 24 * i, ",", 24 * (i + 1), "]");
    const bool wide = i % 2 == 0;
    text += concat(",", entry(concat("layer.", i, ".w"), wide ? "F32" : "BF16", wide ? "[2,3]" : "[4,3]", offsets));
  }
  return file_of(concat(text, "}"), static_cast<std::size_t>(24 * tensors));
}

std::string message_for(const BadFile& bad) {
  return message_of([&] { parse(bad.bytes, bad.file_size); });
}

}  // namespace

TEST_CASE("every bad file is refused with the file, the place, what was expected and what was found") {
  const std::vector<BadFile> files = bad_files();
  CHECK(files.size() >= 100);
  for (const BadFile& bad : files) {
    CAPTURE(bad.name);
    const std::string message = message_for(bad);
    CAPTURE(message);
    CHECK(message.starts_with("x.st: "));
    CHECK(contains(message, bad.expected));
    CHECK(contains(message, ": expected "));
    CHECK(contains(message, ", found "));
    CHECK(message.size() < 1000);
  }
}

TEST_CASE("the same bad files are refused when they are opened from a disk") {
  const TemporaryFolder folder;
  for (const BadFile& bad : bad_files()) {
    CAPTURE(bad.name);
    write_file(folder / "bad.safetensors", bad.bytes);
    if (bad.file_size != 0) std::filesystem::resize_file(folder / "bad.safetensors", bad.file_size);
    const std::string message = message_of([&] { SafetensorsFile file(folder / "bad.safetensors"); });
    CHECK(contains(message, (folder / "bad.safetensors").string()));
    if (bad.file_size == 0) CHECK(contains(message, bad.expected));
  }
}

TEST_CASE("a bad file costs no more memory than its own size allows") {
  for (const BadFile& bad : bad_files()) {
    CAPTURE(bad.name);
    heap::peak = heap::now;
    const std::size_t before = heap::now;
    message_for(bad);
    CHECK(heap::peak - before <= 2 * bad.bytes.size() + (1u << 20));
  }
}

TEST_CASE("a header of the smallest entries costs a small multiple of its size") {
  std::string text = "{";
  for (int i = 0; i < 20'000; ++i) text += concat(i == 0 ? "" : ",", entry(std::to_string(i), "U8", "[0]", "[0,0]"));
  const std::string bytes = file_of(concat(text, "}"));
  heap::peak = heap::now;
  const std::size_t before = heap::now;
  CHECK(parse(bytes).tensors.size() == 20'000);
  CHECK(heap::peak - before <= 3 * bytes.size() + (1u << 20));
}

TEST_CASE("every prefix of a valid file is refused") {
  const std::string bytes = sample(48);
  CHECK(bytes.size() > 4096);
  CHECK(parse(bytes).tensors.size() == 48);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    CHECK_FALSE(message_of([&] { parse(std::string_view(bytes).substr(0, length)); }).empty());
  }
}

TEST_CASE("every flip of one bit is refused or leaves a valid header") {
  const std::string good = sample(48);
  const std::size_t data_begin = good.size() - 24 * 48;
  int refused = 0;
  for (std::size_t bit = 0; bit < 8 * data_begin; ++bit) {
    CAPTURE(bit);
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    try {
      check_semantics(parse(bytes), data_begin, good.size());
    } catch (const moe::IoError&) {
      ++refused;
    }
  }
  CHECK(refused > 20'000);
}

TEST_CASE("headers that the format allows are read") {
  CHECK(parse(file_of("{}")).tensors.empty());
  CHECK(parse(file_of("{}      ")).tensors.empty());
  CHECK(parse(file_of("{ \"a\" :\n{\"shape\":[ ],\"data_offsets\":[0,4],\"dtype\":\"F32\"}}", 4)).tensors[0].bytes ==
        4);
  CHECK(parse(file_of(concat("{", entry("a", "F4", "[3,2]", "[0,3]"), "}"), 3)).tensors[0].bytes == 3);
  CHECK(parse(file_of(concat("{", entry("a", "F6_E3M2", "[4]", "[0,3]"), "}"), 3)).tensors[0].bytes == 3);
  CHECK(parse(file_of(concat("{", entry("\xc3\xa9\\u00e8", "U8", "[1]", "[0,1]"), "}"), 1)).find("\xc3\xa9\xc3\xa8") !=
        nullptr);
  const auto metadata = parse(file_of("{\"__metadata__\":{\"k\":\"v\",\"\":\"\"}}")).metadata;
  CHECK(metadata.at("k") == "v");
}

TEST_CASE("tensors come in the order of their offsets, whatever the order in the header") {
  const auto header = parse(
      file_of(concat("{", bytes_entry("b", 2, 5), ",", bytes_entry("z", 2, 2), ",", bytes_entry("a", 0, 2), "}"), 5));
  REQUIRE(header.tensors.size() == 3);
  CHECK(header.tensors[0].name == "a");
  CHECK(header.tensors[1].name == "z");
  CHECK(header.tensors[2].name == "b");
  CHECK(header.find("z")->bytes == 0);
  CHECK(header.find("c") == nullptr);
}

TEST_CASE("every element type of the format has its size") {
  using moe::io::dtype_bits;
  std::uint64_t bits = 0;
  for (const auto& row : moe::io::detail::dtype_rows) {
    const std::optional<Dtype> type = moe::io::dtype_named(row.name);
    REQUIRE(type);
    CHECK(moe::io::dtype_name(*type) == row.name);
    bits += dtype_bits(*type);
  }
  CHECK(bits == 8u * 7 + 8 + 4 + 6 + 6 + 16 * 4 + 32 * 3 + 64 * 4);
  CHECK(moe::io::dtype_bytes(Dtype::BF16) == 2);
  CHECK(moe::io::dtype_bytes(Dtype::I64) == 8);
  CHECK(moe::io::dtype_bytes(Dtype::F4) == 0);
}

TEST_CASE("a written file reads back bit for bit, aligned, and leaves nothing else in the folder") {
  const TemporaryFolder folder;
  const std::string a = "0123456789", b = "abcdefgh";
  const std::vector<TensorData> tensors{{"odd \"name\"", Dtype::U8, {2, 5}, as_bytes(a)},
                                        {"wide", Dtype::F64, {1}, as_bytes(b)},
                                        {"none", Dtype::I32, {0, 7}, {}}};
  moe::io::write_safetensors(folder / "w.safetensors", tensors, {{"made", "here"}});
  const SafetensorsFile file(folder / "w.safetensors");
  CHECK(file.metadata().at("made") == "here");
  REQUIRE(file.tensors().size() == 3);
  for (const TensorData& tensor : tensors) {
    const TensorInfo& info = file.at(tensor.name);
    CHECK(info.shape == tensor.shape);
    CHECK(info.dtype == tensor.dtype);
    std::string bytes(tensor.bytes.size(), '?');
    file.read(info, std::as_writable_bytes(std::span(bytes)));
    CHECK(std::equal(tensor.bytes.begin(), tensor.bytes.end(), as_bytes(bytes).begin()));
    if (moe::io::dtype_bytes(info.dtype) != 0) CHECK(info.offset % moe::io::dtype_bytes(info.dtype) == 0);
  }
  std::string part(3, '?');
  file.read(file.at("wide"), 2, std::as_writable_bytes(std::span(part)));
  CHECK(part == "cde");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("the writer refuses what no reader could accept, and keeps the old file") {
  const TemporaryFolder folder;
  const auto path = folder / "w.safetensors";
  const auto refused = [&](std::vector<TensorData> tensors) {
    try {
      moe::io::write_safetensors(path, tensors);
    } catch (const moe::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  write_file(path, "old");
  const std::string four = "1234";
  CHECK(contains(refused({{"a", Dtype::F32, {2}, as_bytes(four)}}),
                 "tensor \"a\": data: expected 8 bytes for [2] of F32"));
  CHECK(contains(refused({{"a", Dtype::U8, {4}, as_bytes(four)}, {"a", Dtype::U8, {4}, as_bytes(four)}}),
                 "a second one"));
  CHECK(contains(refused({{"__metadata__", Dtype::U8, {4}, as_bytes(four)}}), "\"__metadata__\": name"));
  CHECK(contains(refused({{"a\xff", Dtype::U8, {4}, as_bytes(four)}}), "expected valid UTF-8"));
  CHECK(contains(refused({{"a\n", Dtype::U8, {4}, as_bytes(four)}}), "expected printable text"));
  CHECK(contains(refused({{"a", Dtype::U8, {1, 1, 1, 1, 1, 1, 1, 1, 4}, as_bytes(four)}}), "at most 8 dimensions"));
  CHECK(read_file(path) == "old");
  CHECK(contains(message_of([&] { moe::io::write_safetensors(folder / "no/such/folder.safetensors", {}); }),
                 "cannot be created"));
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("asking for a tensor that is not there says which file and which name") {
  const SafetensorsFile file(MOE_TEST_DATA "/golden/mixtral/io.safetensors");
  CHECK(file.find("no such") == nullptr);
  const std::string message = message_of([&] { static_cast<void>(file.at("no such")); });
  CHECK(
      contains(message, "mixtral/io.safetensors: tensor \"no such\": missing: expected it among the file's 5 tensors"));
}

TEST_CASE("reads outside a tensor are refused") {
  const SafetensorsFile file(MOE_TEST_DATA "/golden/mixtral/io.safetensors");
  const TensorInfo& tensor = file.at("router_logits");
  std::vector<std::byte> room(static_cast<std::size_t>(tensor.bytes) + 1);
  CHECK_THROWS_AS(file.read(tensor, room), moe::Error);
  CHECK_THROWS_AS(file.read(tensor, 2, std::span(room).first(room.size() - 2)), moe::Error);
  CHECK_THROWS_AS(file.read(tensor, ~std::uint64_t{0}, std::span(room).first(2)), moe::Error);
  file.read(tensor, tensor.bytes, {});
}

TEST_CASE("a file that is cut while it is open gives a clear error") {
  const TemporaryFolder folder;
  const std::string bytes(1000, 'x');
  moe::io::write_safetensors(folder / "w.safetensors",
                             std::vector<TensorData>{{"a", Dtype::U8, {1000}, as_bytes(bytes)}});
  const SafetensorsFile file(folder / "w.safetensors");
  std::filesystem::resize_file(folder / "w.safetensors", file.file_bytes() - 600);
  std::vector<std::byte> room(1000);
  const std::string message = message_of([&] { file.read(file.at("a"), room); });
  CHECK(contains(message, concat("w.safetensors: read at byte ", file.at("a").offset)));
  CHECK(contains(message, "expected 1000 bytes, found the end of the file after 400"));
}

TEST_CASE("what is not a regular file is refused without waiting") {
  const TemporaryFolder folder;
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  CHECK(contains(message_of([&] { SafetensorsFile file(folder / "fifo"); }), "expected a regular file"));
  CHECK(contains(message_of([&] { SafetensorsFile file(folder.path()); }), "expected a regular file"));
  CHECK(contains(message_of([&] { SafetensorsFile file(folder / "none"); }), "No such file"));
}

TEST_CASE("all golden files of the three families open") {
  int files = 0;
  for (const char* family : {"mixtral", "qwen3_moe", "olmoe"}) {
    for (const auto& file : std::filesystem::directory_iterator(std::string(MOE_TEST_DATA "/golden/") + family)) {
      if (file.path().extension() != ".safetensors") continue;
      ++files;
      CHECK_FALSE(SafetensorsFile(file.path()).tensors().empty());
    }
  }
  CHECK(files == 18);
}

// ---- shards and their index

namespace {

/// Two shards with one tensor each, and an index.
void write_shards(const TemporaryFolder& folder, const std::string& weight_map) {
  const std::string four = "1234";
  moe::io::write_safetensors(folder / "one.safetensors",
                             std::vector<TensorData>{{"a", Dtype::U8, {4}, as_bytes(four)}});
  moe::io::write_safetensors(folder / "two.safetensors",
                             std::vector<TensorData>{{"b", Dtype::I16, {2}, as_bytes(four)}});
  write_file(folder / TensorSet::index_name, weight_map);
}
std::string index_message(const std::string& text) {
  return message_of([&] { moe::io::parse_safetensors_index(text, "i.json"); });
}

}  // namespace

TEST_CASE("a sharded checkpoint opens by its folder and by its index") {
  const TemporaryFolder folder;
  write_shards(folder,
               R"({"metadata":{"total_size":8,"x":[{}]},"weight_map":{"b":"two.safetensors","a":"one.safetensors"}})");
  for (const auto& path : {folder.path(), folder / TensorSet::index_name}) {
    const TensorSet set(path);
    CHECK(set.size() == 2);
    CHECK(set[0].name == "a");
    CHECK(set.bytes() == 8);
    CHECK(set.files().size() == 2);
    CHECK(set.file_of(set.at("b")).path() == folder / "two.safetensors");
    std::string bytes(2, '?');
    set.read(set.at("b"), 1, std::as_writable_bytes(std::span(bytes)));
    CHECK(bytes == "23");
    CHECK(contains(message_of([&] { static_cast<void>(set.at("c")); }), "tensor \"c\": missing"));
    CHECK_THROWS_AS(set.file_of(TensorInfo{.name = "a", .dtype = Dtype::U8, .shape = {}, .offset = 0, .bytes = 0}),
                    moe::Error);
  }
}

TEST_CASE("an index and its shards must agree") {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& map) {
    write_shards(folder, concat("{\"weight_map\":", map, "}"));
    return message_of([&] { TensorSet set(folder.path()); });
  };
  CHECK(contains(message(R"({"a":"one.safetensors","b":"gone.safetensors"})"), "gone.safetensors: cannot be opened"));
  CHECK(contains(message(R"({"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"})"),
                 "tensor \"c\": missing from its shard: expected it in \"two.safetensors\", found none"));
  CHECK(contains(
      message(R"({"a":"two.safetensors","b":"one.safetensors"})"),
      "tensor \"a\": missing from its shard: expected it in \"two.safetensors\", found it in \"one.safetensors\""));
  CHECK(contains(message(R"({"a":"one.safetensors","0":"two.safetensors"})"), "tensor \"0\": missing from its shard"));
  CHECK(contains(message("{}"), "expected at least one tensor"));
  const std::string four = "1234";
  const std::vector<TensorData> both{{"a", Dtype::U8, {4}, as_bytes(four)}, {"b", Dtype::U8, {4}, as_bytes(four)}};
  moe::io::write_safetensors(folder / "both.safetensors", both);
  CHECK(contains(message(R"({"a":"both.safetensors"})"), "tensor \"b\" at byte"));
  CHECK(contains(message(R"({"a":"both.safetensors"})"), "unlisted tensor"));
  CHECK(contains(message(R"({"a":"both.safetensors","b":"two.safetensors"})"),
                 "duplicate tensor: expected each name in one shard, found it in"));
}

TEST_CASE("an index that is malformed or points elsewhere is refused") {
  const auto shard = [](const std::string& name) { return concat("{\"weight_map\":{\"a\":\"", name, "\"}}"); };
  for (const char* name :
       {"../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\\\\b", "a\\u0000b", "a\\nb"}) {
    CAPTURE(name);
    CHECK(contains(index_message(shard(name)), "tensor \"a\": expected a plain file name as its shard, found \""));
  }
  CHECK(contains(index_message(shard(std::string(256, 'x'))), "expected a plain file name"));
  CHECK(contains(index_message("{}"), "i.json: key \"weight_map\": expected an object, found none"));
  CHECK(contains(index_message("{\"weight_map\":[]}"), "key \"weight_map\": expected an object, found an array"));
  CHECK(contains(index_message("{\"weight_map\":null}"), "key \"weight_map\": expected an object, found null"));
  CHECK(contains(index_message("{\"weight_map\":\"x\"}"), "key \"weight_map\": expected an object, found a string"));
  CHECK(contains(index_message("{\"weight_map\":{\"a\":1}}"), "tensor \"a\": expected a file name, found 1"));
  CHECK(contains(index_message("{\"weight_map\":{\"a\":{}}}"), "tensor \"a\": expected a file name, found an object"));
  CHECK(contains(index_message("{\"weight_map\":{\"a\":[\"x\"]}}"),
                 "tensor \"a\": expected a file name, found an array"));
  CHECK(contains(index_message("{\"weight_map\":{\"a\":\"x\",\"a\":\"x\"}}"), "tensor \"a\": duplicate entry"));
  CHECK(contains(index_message("{\"weight_map\":{\"a\":\"x\",\"\\u0061\":\"y\"}}"), "tensor \"a\": duplicate entry"));
  CHECK(contains(index_message("{\"weight_map\":{},\"weight_map\":{}}"), "key \"weight_map\": expected each key once"));
  CHECK(
      contains(index_message(concat("{\"metadata\":", std::string(100'000, '[') + "}")), "expected at most 32 levels"));
  CHECK(contains(index_message(std::string("{\"weight_map\":{}}\0x", 19)), "found a zero byte"));
  CHECK(contains(index_message("{\"weight_map\":{\"a\":\"\xff\"}}"), "ill-formed UTF-8"));
  CHECK(contains(index_message("[]"), "expected \"{\" as the first byte"));
  CHECK(contains(index_message(""), "i.json at byte 0"));
}

TEST_CASE("a folder without weights says what it looked for") {
  const TemporaryFolder folder;
  CHECK(contains(message_of([&] { TensorSet set(folder.path()); }),
                 "expected model.safetensors.index.json or model.safetensors, found neither"));
}
