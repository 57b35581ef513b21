// The table of safetensors files that must be refused: every class of docs' list of loader faults, one file each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/support.hpp"

namespace io_test {

struct BadFile {
  std::string name;
  std::string bytes;
  std::string expected;         // part of the message
  std::uint64_t file_size = 0;  // if the file is to be larger than `bytes`
};

inline std::vector<BadFile> bad_lengths() {
  const std::uint64_t top = std::uint64_t{1} << 63;
  return {
      {"an empty file", "", "header at byte 0: length: expected 8 bytes, found 0"},
      {"seven bytes", "\2\0\0\0\0\0", "header at byte 0: length: expected 8 bytes"},
      {"a length and nothing else", raw_file(2, ""), "header at byte 0: length: expected 2 to 0 bytes, found 2"},
      {"length 0", raw_file(0, "{}"), "length: expected 2 to 2 bytes, found 0"},
      {"length 1", raw_file(1, "{}"), "length: expected 2 to 2 bytes, found 1"},
      {"a length one byte past the end", raw_file(3, "{}"), "length: expected 2 to 2 bytes, found 3"},
      {"length 2^63", raw_file(top, "{}"), "found 9223372036854775808"},
      {"length 2^64 - 1", raw_file(~std::uint64_t{0}, "{}"), "found 18446744073709551615"},
      {"a length that wraps to 0 with its own 8 bytes", raw_file(~std::uint64_t{0} - 7, "{}"),
       "found 18446744073709551608"},
      {"a length above the format's cap", raw_file(100'000'001, "{}"), "expected 2 to 100000000 bytes, found 100000001",
       200'000'000},
      {"a header that ends before its length", raw_file(64, "{}"), "header at byte 8: JSON: expected 64 bytes, found 2",
       1000},
  };
}

inline std::vector<BadFile> bad_json() {
  const std::string open = "{\"a\":";
  std::string many;
  for (int i = 0; i < 100'000; ++i) many += "{\"a\":";
  return {
      {"no JSON", file_of("hello, world"), "header at byte 20: JSON: expected \"}\", then spaces only, found \"d\""},
      {"an array", file_of("[]"), "expected \"}\", then spaces only, found \"]\""},
      {"an array around an object", file_of("[{}]  "), "expected \"}\", then spaces only"},
      {"a space before the object", file_of(" {}"), "expected \"{\" as the first byte, found \" \""},
      {"a byte order mark", file_of("\xef\xbb\xbf{}"), "expected \"{\" as the first byte, found \"\\xef\""},
      {"spaces only", file_of("        "), "then spaces only, found spaces"},
      {"a line break behind the object", file_of("{}\n"), "header at byte 11: JSON: expected \"}\", then spaces only"},
      {"zero bytes as padding", file_of(std::string("{}\0\0", 4)), "then spaces only, found \"\\x00\""},
      {"a second document behind a zero byte", file_of(std::string("{}\0{}", 5)),
       "header at byte 10: JSON: expected text, found a zero byte"},
      {"two objects", file_of("{}{}"), "expected a JSON object, found \"unexpected '{'; expected end of input\""},
      {"text behind the spaces", file_of("{}   x}"), "header at byte 14: JSON: expected a JSON object"},
      {"a cut object", file_of("{\"__metadata__\":{}"), "found \"unexpected end of input"},
      {"a trailing comma", file_of(concat("{", bytes_entry("a", 0, 1), ",}"), 1),
       "unexpected '}'; expected string literal"},
      {"a comment", file_of("{/**/}"), "expected a JSON object, found \"invalid literal"},
      {"single quotes", file_of("{'a':{}}"), "expected a JSON object, found \"invalid literal"},
      {"NaN", file_of("{\"a\":NaN}"), "expected a JSON object, found \"invalid literal"},
      {"a key without quotes", file_of("{a:{}}"), "header at byte 10"},
      {"arrays in arrays, far down", file_of(open + std::string(100'000, '[') + "}"),
       "tensor \"a\": expected an object with dtype, shape and data_offsets, found an array"},
      {"objects in objects, far down", file_of(concat(many, "}")),
       "tensor \"a\": field: expected dtype, shape or data_offsets"},
      {"arrays far down in the metadata", file_of(concat("{\"__metadata__\":{\"k\":", std::string(100'000, '[') + "}")),
       "expected a string in __metadata__, found an array"},
      {"a raw control character in a name", file_of("{\"a\nb\":{}}"), "control character U+000A"},
  };
}

inline std::vector<BadFile> bad_names() {
  const auto named = [](const std::string& name) { return file_of(concat("{", bytes_entry(name, 0, 1), "}"), 1); };
  const std::string metadata = "\"__metadata__\":";
  const auto with = [&](const std::string& value) { return file_of(concat("{", metadata, value, "}")); };
  return {
      {"invalid UTF-8 in a name", named("a\xff"), "invalid string: ill-formed UTF-8 byte"},
      {"overlong UTF-8 in a name", named("\xc0\xaf"), "ill-formed UTF-8 byte"},
      {"a cut UTF-8 sequence", named("\xe2\x82"), "ill-formed UTF-8 byte"},
      {"an encoded surrogate", named("\xed\xa0\x80"), "ill-formed UTF-8 byte"},
      {"half a surrogate pair", named("\\ud800"), "surrogate U+D800..U+DBFF must be followed"},
      {"an escaped zero in a name", named("a\\u0000b"), "tensor \"a\\x00b\": name: expected printable text"},
      {"a terminal's escape in a name", named("\\u001b[2J"), "tensor \"\\x1b[2J\": name: expected printable text"},
      {"a name of 4,097 bytes", named(std::string(4097, 'n')), "name: expected at most 4096 bytes, found 4097"},
      {"the same tensor twice", file_of(concat("{", bytes_entry("a", 0, 2), ",", bytes_entry("a", 2, 4), "}"), 4),
       "tensor \"a\" at byte 115: duplicate name"},
      {"the same tensor twice, once escaped",
       file_of(concat("{", bytes_entry("a", 0, 2), ",", bytes_entry("\\u0061", 2, 4), "}"), 4),
       "duplicate name: expected each name once"},
      {"the same empty tensor twice", file_of(concat("{", bytes_entry("", 0, 0), ",", bytes_entry("", 0, 0), "}")),
       "tensor \"\" at byte 111: duplicate name"},
      {"metadata that is a string", with("\"x\""),
       "expected an object of strings for __metadata__, found the string \"x\""},
      {"metadata that is null", with("null"), "expected an object of strings for __metadata__, found null"},
      {"metadata that is an array", with("[]"), "expected an object of strings for __metadata__, found an array"},
      {"a number in the metadata", with("{\"k\":1}"), "expected a string in __metadata__, found 1"},
      {"null in the metadata", with("{\"k\":null}"), "expected a string in __metadata__, found null"},
      {"an object in the metadata", with("{\"k\":{}}"), "expected a string in __metadata__, found an object"},
      {"invalid UTF-8 in the metadata", with("{\"k\":\"\xfe\"}"), "ill-formed UTF-8 byte"},
      {"the same metadata key twice", with("{\"k\":\"1\",\"k\":\"2\"}"),
       "__metadata__ key \"k\": expected each key once, found a second one"},
      {"two metadata objects", file_of(concat("{", metadata, "{},", metadata, "{}}")),
       "key \"__metadata__\": expected each key once"},
  };
}

inline std::vector<BadFile> bad_fields() {
  const auto tensor = [](const std::string& fields) { return file_of(concat("{\"a\":{", fields, "}}"), 4); };
  const auto shaped = [&](const std::string& shape) {
    return tensor(concat("\"dtype\":\"U8\",\"shape\":", shape, ",\"data_offsets\":[0,4]"));
  };
  const auto at = [&](const std::string& offsets) {
    return tensor(concat("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":", offsets));
  };
  const auto typed = [&](const std::string& type) {
    return tensor(concat("\"dtype\":", type, ",\"shape\":[4],\"data_offsets\":[0,4]"));
  };
  const std::string dtype = "\"dtype\":\"U8\"", shape = "\"shape\":[4]", offsets = "\"data_offsets\":[0,4]";
  return {
      {"a tensor that is null", file_of("{\"a\":null}"), "tensor \"a\": expected an object with dtype"},
      {"a tensor that is a number", file_of("{\"a\":7}"),
       "tensor \"a\": expected an object with dtype, shape and "
       "data_offsets, found 7"},
      {"a tensor that is a string", file_of("{\"a\":\"F32\"}"), "found the string \"F32\""},
      {"a tensor that is an array", file_of("{\"a\":[]}"), "data_offsets, found an array"},
      {"a tensor without fields", tensor(""), "tensor \"a\": fields: expected dtype, found none"},
      {"no dtype", tensor(concat(shape, ",", offsets)), "tensor \"a\": fields: expected dtype, found none"},
      {"no shape", tensor(concat(dtype, ",", offsets)), "tensor \"a\": fields: expected shape, found none"},
      {"no offsets", tensor(concat(dtype, ",", shape)), "tensor \"a\": fields: expected data_offsets, found none"},
      {"an unknown field", tensor(concat(dtype, ",", shape, ",", offsets, ",\"x\":1")),
       "tensor \"a\": field: expected dtype, shape or data_offsets, found \"x\""},
      {"two dtypes", tensor(concat(dtype, ",", dtype, ",", shape, ",", offsets)),
       "field \"dtype\": expected each field once"},
      {"two shapes", tensor(concat(dtype, ",", shape, ",", shape, ",", offsets)),
       "field \"shape\": expected each field once"},
      {"two pairs of offsets", tensor(concat(dtype, ",", shape, ",", offsets, ",", offsets)),
       "field \"data_offsets\": expected each field once"},
      {"an unknown dtype", typed("\"F33\""),
       "tensor \"a\": dtype: expected a type of the safetensors format, found \"F33\""},
      {"a dtype in lower case", typed("\"u8\""), "found \"u8\""},
      {"an empty dtype", typed("\"\""), "tensor \"a\": dtype: expected a type"},
      {"a dtype that is a number", typed("8"), "tensor \"a\": expected a string for dtype, found 8"},
      {"a dtype that is null", typed("null"), "tensor \"a\": expected a string for dtype, found null"},
      {"a shape that is a number", shaped("4"), "tensor \"a\": expected an array for shape, found 4"},
      {"a shape that is an object", shaped("{}"), "tensor \"a\": expected an array for shape, found an object"},
      {"a negative dimension", shaped("[-4]"), "tensor \"a\": expected an unsigned integer in shape, found -4"},
      {"minus zero as a dimension", shaped("[-0]"), "expected an unsigned integer in shape, found 0"},
      {"a dimension with a point", shaped("[4.0]"), "expected an unsigned integer in shape, found 4.0"},
      {"a dimension with an exponent", shaped("[4e0]"), "expected an unsigned integer in shape, found 4e0"},
      {"a dimension of 2^64", shaped("[18446744073709551616]"), "in shape, found 18446744073709551616"},
      {"a dimension beyond doubles", shaped("[1e999]"), "expected a JSON object, found"},
      {"a dimension that is a string", shaped("[\"4\"]"), "in shape, found the string \"4\""},
      {"a dimension that is null", shaped("[null]"), "in shape, found null"},
      {"a dimension that is true", shaped("[true]"), "in shape, found true"},
      {"a shape in a shape", shaped("[[4]]"), "in shape, found an array"},
      {"nine dimensions", shaped("[1,1,1,1,1,1,1,1,4]"),
       "tensor \"a\": shape: expected at most 8 dimensions, found more"},
      {"offsets that are a number", at("0"), "tensor \"a\": expected an array for data_offsets, found 0"},
      {"no offset", at("[]"), "exactly two unsigned integers in data_offsets, found 0"},
      {"one offset", at("[0]"), "exactly two unsigned integers in data_offsets, found 1"},
      {"three offsets", at("[0,4,2]"), "exactly two unsigned integers in data_offsets, found 2"},
      {"a negative offset", at("[-1,3]"), "exactly two unsigned integers in data_offsets, found -1"},
      {"an offset with a point", at("[0.0,4]"), "data_offsets, found 0.0"},
      {"an offset that is a string", at("[\"0\",4]"), "data_offsets, found the string \"0\""},
      {"offsets in the wrong order", at("[4,0]"),
       "tensor \"a\": data_offsets: expected a range within [0, 4), found [4, 0)"},
      {"an end behind the file", at("[0,5]"), "expected a range within [0, 4), found [0, 5)"},
      {"both offsets behind the file", at("[8,12]"), "expected a range within [0, 4), found [8, 12)"},
      {"an end of 2^64 - 1", at("[0,18446744073709551615]"), "found [0, 18446744073709551615)"},
      {"offsets that wrap around 2^64", at("[18446744073709551612,18446744073709551615]"), "within [0, 4)"},
  };
}

inline std::vector<BadFile> bad_places() {
  const auto file = [](const std::string& entries, std::size_t data) {
    return file_of(concat("{", entries, "}"), data);
  };
  const auto pair = [&](int b0, int e0, int b1, int e1, std::size_t data) {
    return file(concat(bytes_entry("a", b0, e0), ",", bytes_entry("b", b1, e1)), data);
  };
  return {
      {"a product of dimensions that wraps to 0", file(entry("a", "U8", "[4294967296,4294967296]", "[0,0]"), 0),
       "tensor \"a\": shape: expected a size in whole bytes below 2^61, found [4294967296, 4294967296] of U8"},
      {"the same over real bytes", file(entry("a", "U8", "[4294967296,4294967296]", "[0,16]"), 16), "below 2^61"},
      {"elements that wrap only in bytes", file(entry("a", "F64", "[2305843009213693952]", "[0,0]"), 0), "below 2^61"},
      {"a wrap hidden behind a zero", file(entry("a", "U8", "[0,9223372036854775808,4]", "[0,0]"), 0), "below 2^61"},
      {"a wrap before a zero", file(entry("a", "U8", "[9223372036854775808,4,0]", "[0,0]"), 0), "below 2^61"},
      {"half a byte", file(entry("a", "F4", "[3]", "[0,2]"), 2), "expected a size in whole bytes"},
      {"six-bit elements that end inside a byte", file(entry("a", "F6_E2M3", "[3]", "[0,3]"), 3), "in whole bytes"},
      {"an extent smaller than the shape", file(entry("a", "F32", "[2]", "[0,4]"), 4),
       "tensor \"a\": data_offsets: expected 8 bytes for [2] of F32, found 4 in [0, 4)"},
      {"an extent larger than the shape", file(entry("a", "F32", "[2]", "[0,12]"), 12), "found 12 in [0, 12)"},
      {"a scalar without bytes", file(entry("a", "F32", "[]", "[0,0]"), 0), "expected 4 bytes for [] of F32, found 0"},
      {"a wider dtype than the bytes hold", file(entry("a", "I64", "[4]", "[0,16]"), 16), "expected 32 bytes for [4]"},
      {"an empty shape with bytes", file(entry("a", "U8", "[4,0]", "[0,4]"), 4), "expected 0 bytes for [4, 0] of U8"},
      {"a hole before the first tensor", file(bytes_entry("a", 4, 8), 8),
       "tensor \"a\" at byte 65: leaves a hole before it: expected data from byte 61, found byte 65"},
      {"a hole between two tensors", pair(0, 4, 6, 8, 8), "tensor \"b\" at byte 119: leaves a hole before it"},
      {"a byte behind the last tensor", file(bytes_entry("a", 0, 4), 5),
       "data: bytes that belong to no tensor: expected the end of the file at byte 65, found it at byte 66"},
      {"a file one byte short", file(bytes_entry("a", 0, 4), 3),
       "tensor \"a\": data_offsets: expected a range within [0, 3)"},
      {"data and no tensor", file("", 4), "bytes that belong to no tensor"},
      {"two tensors on the same bytes", pair(0, 4, 0, 4, 4), "at byte 113: overlaps the tensor before it"},
      {"two tensors that share one byte", pair(0, 4, 3, 8, 8),
       "tensor \"b\" at byte 116: overlaps the tensor before it"},
      {"a tensor inside another", pair(0, 8, 2, 4, 8), "tensor \"b\" at byte 115: overlaps the tensor before it"},
      {"an overlap against the order of the header", pair(3, 8, 0, 4, 8), "tensor \"a\" at byte 116: overlaps"},
      {"an empty tensor far behind the file", file(bytes_entry("a", 900, 900), 0), "within [0, 0), found [900, 900)"},
      {"an empty tensor inside another", pair(0, 8, 4, 4, 8),
       "tensor \"b\" at byte 117: overlaps the tensor before it"},
      {"an empty tensor behind a hole", pair(0, 4, 8, 8, 8), "tensor \"b\" at byte 121: leaves a hole before it"},
  };
}

/// All of them.
inline std::vector<BadFile> bad_files() {
  std::vector<BadFile> all;
  for (const auto& part : {bad_lengths(), bad_json(), bad_names(), bad_fields(), bad_places()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace io_test
