// Traces as a user handles them: generate --trace, make_trace, replay.
#include <cmath>
#include <moe/io/trace_file.hpp>

#include "shell.hpp"

using namespace engine_test;
using moe::io::Json;

namespace {

/// Two layers of four experts, k=2; every outcome below is counted by hand.
const std::string by_hand = R"({"layers":2,"experts":4,"k":2}
{"seq":0,"token":0,"layer":0,"experts":[0,1],"weights":[0.6,0.4]}
{"seq":0,"token":0,"layer":1,"experts":[2,3],"weights":[0.95,0.05]}
{"seq":0,"token":1,"layer":0,"experts":[0,2],"weights":[0.7,0.3]}
{"seq":0,"token":1,"layer":1,"experts":[2,0],"weights":[0.5,0.5]}
{"seq":4,"token":0,"layer":0,"experts":[2,1],"weights":[0.8,0.2]}
{"seq":4,"token":0,"layer":1,"experts":[2],"weights":[1.0]}
)";

Json parsed(const Shell& shell, const std::string& command) { return Json::parse(shell.accepts(command)); }

void check_numbers(const Json& found, const Json& expected) {
  for (const auto& [name, value] : expected.items()) {
    CAPTURE(name);
    CHECK(found.at(name) == value);
  }
}

}  // namespace

TEST_CASE("replay counts a trace as it is counted by hand") {
  const Shell shell;
  const std::string start = "replay --json --trace " + shell.write("t", by_hand) + " --policy ";
  // Layer 0: 0 1 | 0 2 | 2 1: two load, 0 hits, 2 over 1, 2 hits, 1 over 0. Layer 1: 2 3 | 2 0 | 2: 2 3 load, 2 hits,
  // 0 over 3, 2 hits.
  check_numbers(parsed(shell, start + "lru --capacity 2 --scope layer --expert-bytes 1000"), {{"picks", 11},
                                                                                              {"loads", 7},
                                                                                              {"hits", 4},
                                                                                              {"streamed", 0},
                                                                                              {"evictions", 3},
                                                                                              {"bytes", 7000},
                                                                                              {"high_loads", 7},
                                                                                              {"low_loads", 0},
                                                                                              {"skips", 0},
                                                                                              {"min_loads", 7}});
  // One pool of three: a0 a1 b2 load; b3 over a0; a0 over a1, a2 over b2; b2 over b3, b0 over a0; a2 hits, a1 over b2;
  // b2 over b0.
  check_numbers(parsed(shell, start + "lru --capacity 3 --scope global"),
                {{"loads", 10}, {"hits", 1}, {"evictions", 7}, {"streamed", 0}, {"bytes", 10}});
  // One slot a layer, held by a record's first pick, so that the second ones are streamed: a0, a1 streamed; b2, b3
  // streamed; a0 hits, a2 streamed; b2 hits, b0 streamed; a2 over a0, a1 streamed; b2 hits.
  check_numbers(parsed(shell, start + "lru --capacity 1 --scope layer"),
                {{"loads", 8}, {"hits", 3}, {"streamed", 5}, {"evictions", 1}});
  // a0 high (0), a1 low (0.6 is not above T1: high); b2 high, b3 none (0.95): skipped; a0 hits, a2 low; b2 hits, b0
  // high (0.5); a2 high: its low copy does not do; a1 low: its high copy does; b2 hits.
  check_numbers(parsed(shell, start + "hobbit --high 8 --low 8 --expert-bytes 100 --low-bytes 30"),
                {{"picks", 11},
                 {"hits", 4},
                 {"loads", 6},
                 {"high_loads", 5},
                 {"low_loads", 1},
                 {"skips", 1},
                 {"bytes", 530},
                 {"high_slots", 8}});
  // Every pass loads what is missing of its path ahead, so all is there in time: a0 a1 b2 b3; then a2 over a1 and b0
  // over b3; then a1 over a0.
  check_numbers(parsed(shell, start + "plan --capacity 4"),
                {{"hits", 11}, {"on_demand_loads", 0}, {"loads", 7}, {"prefetched", 7}, {"prefetch_wasted", 0}});
  check_numbers(parsed(shell, start + "skip --capacity 3 --skip-below 0.25"), {{"skips", 2}});
  // The gate of a threshold above all shares leaves first picks alone: a0 b2 a0 b2 a2 b2.
  check_numbers(parsed(shell, start + "adapmoe --capacity 2 --threshold 1000"),
                {{"picks", 11}, {"dropped", 5}, {"loads", 3}, {"hits", 3}});
}

TEST_CASE("AdapMoE's slots come from the trace's reuse, or from the paper's model") {
  const Shell shell;
  shell.accepts("make_trace --layers 6 --experts 32 --k 4 --out " + shell.path("t"));
  const std::string start = "replay --json --policy adapmoe --trace " + shell.path("t") + " --capacity ";
  const auto loads = [&](const std::string& options) { return parsed(shell, start + options)["loads"].get<int>(); };
  CHECK(loads("25%") == loads("25% --allocation curves --beta 0"));
  CHECK(loads("25% --allocation paper") == loads("25% --allocation paper --beta 0.84"));
  CHECK(loads("25%") < loads("25% --allocation paper"));
  CHECK(loads("8%") < loads("8% --beta 0.9"));  // slots for guesses that this replay does not make
}

TEST_CASE("capacities are slots, bytes or shares") {
  const Shell shell;
  const std::string start = "replay --json --policy lru --trace " + shell.write("t", by_hand) + " --capacity ";
  const auto slots = [&](const std::string& capacity) { return parsed(shell, start + capacity)["slots"]; };
  CHECK(slots("5") == 5);
  CHECK(slots("25%") == 2);
  CHECK(slots("50% --scope layer") == 2);
  CHECK(slots("10K --expert-bytes 3K") == 3);
  CHECK(slots("1MiB --expert-bytes 0.25MB") == 4);
  CHECK(slots("4095B --expert-bytes 1024") == 3);
  for (const char* bad : {"2.5", "-1", "x", "5X", "1e9999", "''", "10K"}) shell.refuses(start + bad, "--capacity");
  shell.refuses("replay --trace " + shell.path("t"), "--capacity");
}

TEST_CASE("replay says what is wrong with its input") {
  const Shell shell;
  const std::string trace = shell.write("t", by_hand), bad = shell.write("bad", by_hand + "{\"seq\":0}\n");
  shell.refuses("replay --policy lru --capacity 2 --trace " + bad, "bad: line 8");
  shell.refuses("replay --policy lru --capacity 2 --trace " + shell.path("nowhere"), "nowhere");
  const std::string start = "replay --trace " + trace + " --capacity 2 --policy ";
  shell.refuses(start + "lfru", "--policy");
  shell.refuses(start + "lru --scope both", "--scope");
  shell.refuses(start + "lru --expert-bytes 0", "--expert-bytes");
  shell.refuses(start + "hobbit --weights 1,2", "--weights");
  shell.refuses(start + "adapmoe --beta 2", "--beta");
  shell.refuses(start + "adapmoe --allocation best", "--allocation");
  shell.refuses(start + "adapmoe --sensitivity " + shell.write("S", "{}"), "layers");
  shell.refuses(start + "plan --accuracy 2", "--accuracy");
  const std::string plain = shell.write(
      "plain", "{\"layers\":1,\"experts\":2,\"k\":1}\n{\"seq\":0,\"token\":0,\"layer\":0,\"experts\":[1]}\n");
  for (const char* policy : {"hobbit", "apex", "skip", "adapmoe"})
    shell.refuses("replay --capacity 1 --trace " + plain + " --policy " + policy, "weights");
  CHECK(parsed(shell, "replay --capacity 1 --json --policy lfu --trace " + plain)["loads"] == 1);
}

TEST_CASE("all policies at several capacities are one table, one JSON and one CSV") {
  const Shell shell;
  shell.accepts("make_trace --layers 4 --sequences 2 --tokens 30 --out " + shell.path("t"));
  const std::string start = "replay --trace " + shell.path("t") + " --capacities 10%,25%,50% ";
  const Json all = parsed(shell, start + "--weights auto --json --csv " + shell.path("csv"));
  REQUIRE(all["results"].size() == 27);
  for (const Json& r : all["results"]) {
    CAPTURE(r["policy"]);
    const auto n = [&](const char* name) { return r[name].get<int>(); };
    CHECK(n("picks") == n("hits") + n("on_demand_loads") + n("skips") + n("dropped"));
    CHECK(n("loads") == n("on_demand_loads") + n("prefetched"));
    CHECK(n("loads") == n("high_loads") + n("low_loads"));
    CHECK(n("prefetched") == n("prefetch_used") + n("prefetch_wasted"));
  }
  const std::string csv = read_file(shell.path("csv"));
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 28);
  CHECK(io_test::contains(csv, "policy,capacity,slots,picks"));
  const std::string table = shell.accepts(start);
  for (const char* word : {"loads", "bytes", "hits", "prefetched", "wasted", "Belady", "adapmoe", "hobbit", "plan"})
    CHECK(io_test::contains(table, word));
}

TEST_CASE("make_trace writes the same file twice, and says what it cannot make") {
  const Shell shell;
  const std::string make = "make_trace --layers 3 --k 2 --tokens 5 --seed 4 --out ";
  shell.accepts(make + shell.path("a"));
  shell.accepts(make + shell.path("b"));
  CHECK(read_file(shell.path("a")) == read_file(shell.path("b")));
  CHECK(moe::io::read_trace(shell.path("a")).records().size() == 3 * 5 * 4);
  shell.refuses(make + shell.path("c") + " --experts 1", "k");
}

TEST_CASE("generate writes a trace of the prompt and of what it generates") {
  const Shell shell;
  const std::string model = shell.byte_model(), prompt(300, 'a');
  const std::string start = "generate --json --model " + model + " --prompt " + prompt + " --tokens 4 --trace ";
  const Json figures = parsed(shell, start + shell.path("t"));
  const moe::RoutingTrace trace = moe::io::read_trace(shell.path("t"));
  const int generated = figures["tokens"].get<int>(), layers = trace.layers();
  REQUIRE(generated == 4);
  CHECK(layers == 2);
  CHECK(trace.k() == 2);
  // The last token is not fed back. The prompt comes in batches, each layer by layer.
  REQUIRE(trace.records().size() == static_cast<std::size_t>(layers * (300 + 3)));
  std::size_t at = 0;
  for (const auto& [first, count] : {std::pair{0, 256}, {256, 44}, {300, 1}, {301, 1}, {302, 1}})
    for (int layer = 0; layer < layers; ++layer)
      for (int t = 0; t < count; ++t) {
        const moe::TraceRecord& r = trace.records()[at++];
        CHECK(r.sequence == 0);
        CHECK(r.layer == layer);
        CHECK(r.token == first + t);
        REQUIRE(r.count == 2);
        CHECK(std::fabs(trace.weight(r, 0) + trace.weight(r, 1) - 1) < 1e-6);
      }
  CHECK(parsed(shell, "replay --json --policy lru --capacity 25% --trace " + shell.path("t"))["picks"] == 2 * at);
  shell.refuses(start + shell.path("nowhere/t"), "nowhere");
}

TEST_CASE("the streams of a self-contrast are sequences") {
  const Shell shell;
  const std::string start =
      "generate --model " + shell.byte_model() + " --self-contrast --prompt abc --tokens 2 --json";
  shell.accepts(start + " --trace " + shell.path("t"));
  const moe::RoutingTrace trace = moe::io::read_trace(shell.path("t"));
  REQUIRE(trace.records().size() == static_cast<std::size_t>(trace.layers()) * 2 * 4);
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(trace.records()[i].sequence == static_cast<int>(i / 3));
    CHECK(trace.records()[i].token == static_cast<int>(i % 3));
  }
  CHECK(trace.picks(trace.records()[0]).size() == 2);  // the strong stream
  CHECK(trace.picks(trace.records()[3]).size() == 1);  // the weak one
}
