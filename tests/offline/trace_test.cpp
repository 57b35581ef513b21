#include <doctest/doctest.h>

#include <moe/offline/trace.hpp>

#include "layer_support.hpp"
#include "test_policies.hpp"

namespace {

const Setup setup{.tokens = 11, .hidden = 37, .ffn = 21, .experts = 6, .k = 2};

moe::Row<const moe::Slot> row(const std::vector<moe::Slot>& v) { return {v.data(), static_cast<int>(v.size())}; }

/// What one call recorded, in a workspace for `max_tokens` rows.
template <class Layer>
moe::RoutingTrace recorded(const Layer& layer, const Problem<float>& p, moe::TraceObserver observer = {},
                           int max_tokens = -1) {
  moe::RoutingTrace trace(4, setup.experts);
  observer.trace = &trace;
  forward(layer, p, {}, max_tokens, observer);
  return trace;
}

}  // namespace

TEST_CASE("a trace gives back what was added, in order, and its k is the most choices of a record") {
  moe::RoutingTrace trace(2, 8);
  CHECK(trace.k() == 0);
  trace.add(0, 0, 0, row({{3, 0.6f}, {5, 0.4f}}));
  trace.add(0, 0, 1, row({}));
  trace.add(1, 7, 1, row({{7, 1.0f}}));
  CHECK(trace.layers() == 2);
  CHECK(trace.experts() == 8);
  CHECK(trace.k() == 2);
  CHECK_FALSE(trace.has_norms());
  REQUIRE(trace.records().size() == 3);
  const moe::TraceRecord& first = trace.records()[0];
  REQUIRE(trace.picks(first).size() == 2);
  CHECK(trace.picks(first)[0].expert == 3);
  CHECK(trace.picks(first)[1].expert == 5);
  CHECK(trace.picks(first)[1].weight == 0.4f);
  CHECK(trace.picks(trace.records()[1]).empty());
  const moe::TraceRecord& last = trace.records()[2];
  CHECK(last.sequence == 1);
  CHECK(last.token == 7);
  CHECK(last.layer == 1);
  CHECK(trace.picks(last)[0].expert == 7);
}

TEST_CASE("a record of a layer or an expert that there is not, or norms of some records only, are refused") {
  moe::RoutingTrace trace(2, 8);
  const auto message = [&](int layer, moe::ExpertId e, const std::vector<float>& norms) {
    return message_of([&] {
      trace.add(0, 0, layer, row({{e, 1.0f}}), {norms.data(), static_cast<int>(norms.size())});
    });
  };
  CHECK(message(2, 0, {}) == "moe::RoutingTrace::add: layer: expected 0 to 1, found 2");
  CHECK(message(0, 8, {}) == "moe::RoutingTrace::add: expert: expected 0 to 7, found 8");
  CHECK(message(0, -1, {}) == "moe::RoutingTrace::add: expert: expected 0 to 7, found -1");
  CHECK(message(0, 0, {1, 2}) == "moe::RoutingTrace::add: norms of the choices: expected 1, found 2");
  CHECK(trace.records().empty());
  CHECK(message(0, 0, {}) == "");
  CHECK(message(0, 0, {1}) == "moe::RoutingTrace::add: norms of the choices: expected none, as before, found some");
  moe::RoutingTrace measured(2, 8);
  measured.add(0, 0, 0, row({}));  // nothing chosen, nothing to measure
  const float norm = 1;
  measured.add(0, 0, 0, row({{0, 1.0f}}), {&norm, 1});
  CHECK(message_of([&] {
          measured.add(0, 0, 0, row({{0, 1.0f}}));
        }) == "moe::RoutingTrace::add: norms of the choices: expected as in the records before, found none");
}

TEST_CASE("an observer records the routing of a call, whatever its chunks") {
  oracle::Random random(1);
  CAPTURE(random.seed);
  const Problem<float> p(setup, random);
  const std::vector<float> logits = gate_logits(p);
  for (const int chunk : {11, 4, 1}) {
    const moe::RoutingTrace trace = recorded(make_layer(p), p, {.layer = 3, .sequence = 5, .first_token = 100}, chunk);
    REQUIRE(trace.records().size() == 11);
    CHECK(trace.k() == 2);
    for (int t = 0; t < setup.tokens; ++t) {
      const moe::TraceRecord& r = trace.records()[static_cast<std::size_t>(t)];
      CHECK(r.sequence == 5);
      CHECK(r.token == 100 + t);
      CHECK(r.layer == 3);
      const auto expected = oracle::route({}, row_of(logits, setup.experts, t), setup.k);
      REQUIRE(r.count == 2);
      for (int k = 0; k < 2; ++k) {
        CHECK(trace.picks(r)[k].expert == expected[static_cast<std::size_t>(k)].expert);
        CHECK(within(trace.picks(r)[k].weight, expected[static_cast<std::size_t>(k)].weight));
      }
    }
  }
}

TEST_CASE("rows may belong to several sequences") {
  oracle::Random random(2);
  CAPTURE(random.seed);
  const Problem<float> p(setup, random);
  std::vector<int> sequences, tokens;
  for (int t = 0; t < setup.tokens; ++t) {
    sequences.push_back(t % 3);
    tokens.push_back(40 - t);
  }
  const moe::RoutingTrace trace =
      recorded(make_layer(p), p, {.sequences = sequences.data(), .tokens = tokens.data()}, 4);
  for (std::size_t t = 0; t < 11; ++t) {
    CHECK(trace.records()[t].sequence == sequences[t]);
    CHECK(trace.records()[t].token == tokens[t]);
  }
}

TEST_CASE("norms are those of the experts' outputs, before their weights") {
  oracle::Random random(3);
  CAPTURE(random.seed);
  const Problem<float> p(setup, random);
  const moe::RoutingTrace trace = recorded(make_layer(p), p, {.norms = true}, 4);
  REQUIRE(trace.has_norms());
  for (int t = 0; t < setup.tokens; ++t) {
    const moe::TraceRecord& r = trace.records()[static_cast<std::size_t>(t)];
    for (int k = 0; k < r.count; ++k) {
      const auto& expert = p.layer.experts[static_cast<std::size_t>(trace.picks(r)[k].expert)];
      double low = 0, high = 0;
      for (const oracle::Value& v : run_expert(p.layer, expert, oracle::exact(p.token(t), setup.hidden), {1})) {
        low += std::pow(std::max(std::fabs(v.v) - v.e, 0.0), 2);
        high += std::pow(std::fabs(v.v) + v.e, 2);
      }
      // The norm itself is rounded once.
      CHECK(static_cast<double>(trace.norms(r)[k]) >= std::sqrt(low) * (1 - oracle::unit));
      CHECK(static_cast<double>(trace.norms(r)[k]) <= std::sqrt(high) * (1 + oracle::unit));
    }
  }
}

TEST_CASE("identities and dropped choices are not in the trace") {
  oracle::Random random(4);
  CAPTURE(random.seed);
  const Problem<float> p(setup, random);
  Table table(setup.tokens, 3);
  for (int t = 0; t < setup.tokens; ++t) {
    table.at(t, 0) = {setup.experts, 0.5f};  // an identity
    table.at(t, 1) = {t % setup.experts, 0.25f};
    table.at(t, 2) = {-1, 0.25f};
  }
  const moe::MoELayer layer(moe::NoGate{}, WithIdentities{{.experts = setup.experts + 1, .k = 3}, setup.experts},
                            p.storage(), moe::Cpu{});
  moe::RoutingTrace trace(1, setup.experts);
  moe::Call<> call;
  const moe::RoutingTable<> given = table.get();
  call.table = given;
  forward(layer, p, call, 4, moe::TraceObserver{.trace = &trace, .norms = true});
  REQUIRE(trace.records().size() == 11);
  for (int t = 0; t < setup.tokens; ++t) {
    const moe::TraceRecord& r = trace.records()[static_cast<std::size_t>(t)];
    REQUIRE(r.count == 1);
    CHECK(trace.picks(r)[0].expert == t % setup.experts);
    CHECK(trace.norms(r)[0] > 0);
  }
}

TEST_CASE("a call that fails leaves no record") {
  oracle::Random random(5);
  CAPTURE(random.seed);
  const Problem<float> p(setup, random);
  LeaseLog log;
  log.fail_at = 2;
  const moe::MoELayer layer(moe::Linear(p.gate_view()), moe::TopK{.experts = setup.experts, .k = 2},
                            OneByOne{p.storage(), &log}, moe::Cpu{});
  moe::RoutingTrace trace(1, setup.experts);
  CHECK_THROWS_AS(forward(layer, p, {}, -1, moe::TraceObserver{.trace = &trace}), moe::IoError);
  CHECK(trace.records().empty());
}
