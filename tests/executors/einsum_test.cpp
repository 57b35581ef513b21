// Laws of executors, for EinsumReference, and what it shares with mapping tables.
#include <moe/executors/cpu.hpp>
#include <moe/executors/einsum.hpp>

#include "../laws/executor_laws.hpp"
#include "../layer_support.hpp"

using moe::EinsumReference;

namespace {

const EinsumReference<moe::Cpu> einsum{{.threads = 1}};

}  // namespace

TEST_CASE("EinsumReference keeps the laws of executors") { executor_laws::all(einsum); }

TEST_CASE("EinsumReference has the bits of mapping tables where every row has one expert") {
  oracle::Random random(790);
  const Problem<float> p({.tokens = 50, .hidden = 70, .ffn = 40, .experts = 5, .k = 1}, random);
  CHECK(bits(forward(make_layer(p, einsum), p)) == bits(forward(make_layer(p, moe::Cpu{.threads = 1}), p)));
}
TEST_CASE("EinsumReference agrees with the oracle within rounding where rows have several experts") {
  oracle::Random random(791);
  const Problem<float> p({.tokens = 50, .hidden = 70, .ffn = 40, .experts = 5, .k = 3}, random);
  CHECK(wrong_rows(p, gate_logits(p), forward(make_layer(p, einsum), p)) == 0);
}
TEST_CASE("EinsumReference with enough places gives the bits of one with a place for every row") {
  oracle::Random random(792);
  const Problem<float> p({.tokens = 40, .experts = 5, .k = 2}, random);
  std::vector<int> loads(5);
  const auto logits = gate_logits(p);
  for (int t = 0; t < 40; ++t)
    for (const oracle::Pick& pick : oracle::route({}, row_of(logits, 5, t), 2))
      ++loads[static_cast<std::size_t>(pick.expert)];
  const int busiest = *std::max_element(loads.begin(), loads.end());
  REQUIRE(busiest < 40);
  const EinsumReference<moe::Cpu> tight{{.threads = 1}, busiest}, short_of{{.threads = 1}, busiest - 1};
  CHECK(bits(forward(make_layer(p, tight), p)) == bits(forward(make_layer(p, einsum), p)));
  CHECK(message_of([&] { forward(make_layer(p, short_of), p); }).find("at most the capacity of") != std::string::npos);
}
