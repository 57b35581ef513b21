#include <doctest/doctest.h>

#include <cmath>
#include <moe/io/trace_file.hpp>
#include <moe/offline/trace_generator.hpp>

#include "io/support.hpp"
#include "temporary_folder.hpp"

namespace {

const std::string header = R"({"layers":3,"experts":8,"k":2})";
const std::string good = R"({"seq":0,"token":0,"layer":0,"experts":[3,5],"weights":[0.6,0.4]})";

moe::RoutingTrace read(const std::string& text) {
  static const TemporaryFolder folder;
  write_file(folder / "trace.jsonl", text);
  return moe::io::read_trace(folder / "trace.jsonl");
}
/// The message holds every one of the parts.
void refuses(const std::string& text, const std::vector<std::string>& parts) {
  CAPTURE(text.substr(0, 300));
  try {
    read(text);
    FAIL_CHECK("was read");
  } catch (const moe::IoError& error) {
    CAPTURE(error.what());
    for (const std::string& part : parts) {
      CAPTURE(part);
      CHECK(io_test::contains(error.what(), part));
    }
  }
}
void refuses_record(const std::string& record, const std::vector<std::string>& parts) {
  refuses(header + "\n" + good + "\n" + record + "\n", parts);
}

bool same(const moe::RoutingTrace& a, const moe::RoutingTrace& b) {
  if (a.layers() != b.layers() || a.experts() != b.experts() || a.k() != b.k()) return false;
  if (a.records().size() != b.records().size()) return false;
  for (std::size_t i = 0; i < a.records().size(); ++i) {
    const moe::TraceRecord &x = a.records()[i], &y = b.records()[i];
    if (x.sequence != y.sequence || x.token != y.token || x.layer != y.layer || x.count != y.count) return false;
    for (int p = 0; p < x.count; ++p)
      if (a.picks(x)[p].expert != b.picks(y)[p].expert || a.picks(x)[p].weight != b.picks(y)[p].weight) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("a trace is read as it is written in the format's description") {
  const moe::RoutingTrace t =
      read(header + "\n" + good + "\n" + R"({"seq":7,"token":2,"layer":2,"experts":[1],"weights":[1]})" + "\n");
  CHECK(t.layers() == 3);
  CHECK(t.experts() == 8);
  CHECK(t.k() == 2);
  REQUIRE(t.records().size() == 2);
  const moe::TraceRecord &a = t.records()[0], &b = t.records()[1];
  CHECK(t.picks(a)[0].expert == 3);
  CHECK(t.picks(a)[1].expert == 5);
  CHECK(t.picks(a)[0].weight == 0.6f);
  CHECK(t.weight(a, 0) == 0.6);
  CHECK(b.sequence == 7);
  CHECK(b.token == 2);
  CHECK(b.layer == 2);
  CHECK(b.count == 1);
  CHECK(t.has_weights());
}

TEST_CASE("order, spaces, further fields, blank lines and line ends do not matter") {
  const moe::RoutingTrace t =
      read("{\"k\": 2, \"model\": {\"name\": [1, {\"x\": null}]}, \"experts\": 8, \"layers\": 3}\r\n\n  " +
           std::string(R"({ "weights":[0.5 ,5e-1], "layer":0, "experts": [3, 5], "seq": 0, "note": "[{\"seq\":9}]",)") +
           R"("deep":{"experts":[99],"seq":4,"weights":["a"]},"token":0,"time":1.5})" + "\r\n\r\n" +
           R"({"seq":0,"token":0,"layer":1,"experts":[],"weights":[]})");
  REQUIRE(t.records().size() == 2);
  CHECK(t.picks(t.records()[0])[1].expert == 5);
  CHECK(t.weight(t.records()[0], 1) == 0.5);
  CHECK(t.records()[1].count == 0);
}

TEST_CASE("weights may be missing: then all weigh the same, and the trace says so") {
  const moe::RoutingTrace t = read(header + "\n" + R"({"seq":0,"token":0,"layer":0,"experts":[3,5]})");
  CHECK_FALSE(t.has_weights());
  CHECK(t.weight(t.records()[0], 1) == 0.5);
}

TEST_CASE("a trace of the first line alone has no records") {
  CHECK(read(header).records().empty());
  CHECK(read(header).k() == 2);
}

TEST_CASE("what is wrong with the first line is said") {
  refuses("", {"trace.jsonl: line 1", "layers", "empty"});
  refuses("\n\n", {"empty"});
  refuses(good, {"line 1", "layers", "no such field"});
  refuses(R"({"layers":3,"experts":8})", {"line 1", "k: expected a number, found no such field"});
  refuses(R"({"layers":0,"experts":8,"k":2})", {"line 1", "layers: expected 1 to 65536, found 0"});
  refuses(R"({"layers":3,"experts":-8,"k":2})", {"experts: expected 1 to", "found -8"});
  refuses(R"({"layers":60000,"experts":1000000,"k":2})", {"layers times experts"});
  refuses(R"({"layers":3,"experts":8,"k":99999999999999999999})", {"k: expected"});
  refuses(R"({"layers":3,"experts":8,"k":18446744073709551615})", {"k: expected 1 to"});
  refuses(R"({"layers":3.5,"experts":8,"k":2})", {"layers: expected a whole number, found 3.5"});
  refuses(R"({"layers":[3],"experts":8,"k":2})", {"layers: expected a number, found a list"});
  refuses(R"({"layers":3,"layers":3,"experts":8,"k":2})", {"layers: expected each field once"});
  refuses("[1]", {"line 1", "\"{\" as the first byte"});
}

TEST_CASE("what is wrong with a record is said, with its line") {
  refuses_record(R"({"seq":0,"token":0,"layer":3,"experts":[1],"weights":[1]})",
                 {"trace.jsonl: line 3", "layer: expected 0 to 2, found 3"});
  refuses_record(R"({"seq":0,"token":0,"layer":-1,"experts":[1],"weights":[1]})", {"layer: expected 0 to 2, found -1"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[8],"weights":[1]})",
                 {"line 3", "experts: expected 0 to 7, found 8"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[-1],"weights":[1]})",
                 {"experts: expected 0 to 7, found -1"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1.5],"weights":[1]})", {"experts", "whole number", "1.5"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":["1"],"weights":[1]})", {"experts", "number", "\"1\""});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[[1]],"weights":[1]})", {"experts", "a list"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":4,"weights":[1]})", {"experts", "a list of numbers"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"weights":[1]})", {"experts", "no such field"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1,2,3],"weights":[1,1,1]})",
                 {"experts: expected at most 2"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1,2],"weights":[1]})", {"weights: expected 2", "found 1"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1],"weights":[-0.5]})", {"weights", "-0.5"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1],"weights":[1e39]})", {"weights"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1],"weights":[1e999]})", {"line 3"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1],"weights":[NaN]})", {"line 3", "JSON"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1],"weights":1})", {"weights", "a list of numbers"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1],"weights":[null]})", {"weights", "null"});
  refuses_record(R"({"token":0,"layer":0,"experts":[1],"weights":[1]})", {"seq", "no such field"});
  refuses_record(R"({"seq":0,"layer":0,"experts":[1],"weights":[1]})", {"token", "no such field"});
  refuses_record(R"({"seq":0,"token":0,"experts":[1],"weights":[1]})", {"layer", "no such field"});
  refuses_record(R"({"seq":-1,"token":0,"layer":0,"experts":[1],"weights":[1]})", {"seq: expected 0 to", "-1"});
  refuses_record(R"({"seq":0,"token":3000000000,"layer":0,"experts":[1],"weights":[1]})", {"token", "3000000000"});
  refuses_record(R"({"seq":0,"token":0,"layer":0,"experts":[1],"weights":[1])", {"line 3", "JSON"});
  refuses_record(good + good, {"line 3"});
  refuses_record(std::string("{\"seq\":0,\"token\":0\0}", 20), {"zero byte"});
  refuses_record("\x1b[2J", {"line 3", "\\x1b"});
  refuses_record("{\"x\":" + std::string(100, '['), {"levels"});
  refuses_record("{\"x\":\"" + std::string(3 << 20, 'a') + "\"}", {"line 3", "length"});
}

TEST_CASE("a trace is written such that it reads back bit for bit") {
  moe::RoutingTrace trace = moe::generate_trace({.layers = 3, .experts = 20, .k = 4, .sequences = 3, .tokens = 700});
  const moe::Slot odd[] = {{19, 1.17549435e-38f}, {0, 1e-45f}, {7, 0}, {1, 16777216}};
  trace.add(9, 2147483647, 2, {odd, 4});
  trace.add(9, 8, 2, {});
  const TemporaryFolder folder;
  moe::io::write_trace(folder / "t", trace);
  const moe::RoutingTrace back = moe::io::read_trace(folder / "t");
  CHECK(same(back, trace));
  moe::io::write_trace(folder / "u", back);
  CHECK(read_file(folder / "u") == read_file(folder / "t"));
}

TEST_CASE("lines are written as the format is described") {
  moe::RoutingTrace trace(3, 8);
  const moe::Slot picks[] = {{3, 0.6f}, {5, 0.4f}};
  trace.add(0, 0, 0, {picks, 2});
  const TemporaryFolder folder;
  moe::io::write_trace(folder / "t", trace);
  CHECK(read_file(folder / "t") == header + "\n" + good + "\n");
  trace.forget_weights();
  moe::io::write_trace(folder / "t", trace);
  CHECK_FALSE(moe::io::read_trace(folder / "t").has_weights());
}

TEST_CASE("weights keep their double precision") {
  const std::string line = R"({"seq":0,"token":0,"layer":0,"experts":[3,5],"weights":[0.6123456789012345,0.1]})";
  const TemporaryFolder folder;
  moe::io::write_trace(folder / "t", read(header + "\n" + line));
  CHECK(read_file(folder / "t") == header + "\n" + line + "\n");
}

TEST_CASE("a trace that cannot be written leaves the file before as it was") {
  const TemporaryFolder folder;
  write_file(folder / "t", "before");
  moe::RoutingTrace trace(1, 1);
  const moe::Slot bad{0, NAN};
  trace.add(0, 0, 0, {&bad, 1});
  CHECK_THROWS_AS(moe::io::write_trace(folder / "t", trace), moe::Error);
  CHECK(read_file(folder / "t") == "before");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
  CHECK_THROWS_AS(moe::io::write_trace(folder / "nowhere/t", trace), moe::IoError);
  CHECK_THROWS_AS(moe::io::read_trace(folder / "nowhere"), moe::IoError);
}

TEST_CASE("every cut and every changed byte of a trace is read or refused, and never hangs") {
  const std::string text = header + "\n" + good + "\n" + good + "\n";
  int refused = 0;
  const auto attempt = [&](const std::string& changed) {
    try {
      read(changed);
    } catch (const moe::IoError&) {
      ++refused;
    }
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    attempt(text.substr(0, i));
    for (const char c : {'"', '{', ']', '9', '\n', '\0', '\xff'}) {
      std::string changed = text;
      changed[i] = c;
      attempt(changed);
    }
  }
  CHECK(refused > 500);
}
