// Laws of executors, for EinsumReference, and what it shares with mapping tables.
#include <moe/executors/cpu.hpp>
#include <moe/executors/einsum.hpp>

#include "../laws/executor_laws.hpp"
#include "../layer_support.hpp"

using moe::EinsumReference;

namespace {

const EinsumReference<moe::Cpu> einsum{{.threads = 1}};

using Mixed = moe::expert_format<moe::q8_0, moe::f16>;

}  // namespace

TEST_CASE_TEMPLATE("EinsumReference agrees with the oracle within rounding", Format, float, moe::bf16, moe::q8_0,
                   Mixed) {
  executor_laws::agrees_with_oracle<Format>(einsum);
}
TEST_CASE_TEMPLATE("EinsumReference adds biases", Format, float, moe::q8_0) {
  executor_laws::adds_biases<Format>(einsum);
}
TEST_CASE("EinsumReference computes ungated experts") {
  executor_laws::computes_ungated_experts<float>(einsum);
  executor_laws::adds_biases_of_ungated_experts<float>(einsum);
}
TEST_CASE("EinsumReference applies weights to the input when the form says so") {
  executor_laws::applies_weights_to_the_input<float>(einsum);
}
TEST_CASE("EinsumReference computes nothing for no tokens") { executor_laws::computes_nothing_for_no_tokens(einsum); }
TEST_CASE("EinsumReference reads nothing of experts without rows") {
  executor_laws::reads_nothing_of_experts_without_rows(einsum);
}
TEST_CASE("EinsumReference writes only rows of the wave") { executor_laws::writes_only_rows_of_the_wave(einsum); }
TEST_CASE("EinsumReference adds nothing for skipped experts") {
  executor_laws::adds_nothing_for_skipped_experts(einsum);
}
TEST_CASE("EinsumReference adds nothing for ids outside the experts") {
  executor_laws::adds_nothing_for_unknown_ids(einsum);
}
TEST_CASE("EinsumReference adds the input for identities") { executor_laws::adds_the_input_for_identities(einsum); }
TEST_CASE("EinsumReference writes zero for tokens without choices") {
  executor_laws::writes_zero_for_tokens_without_choices(einsum);
}
TEST_CASE("EinsumReference adds to the result when asked") { executor_laws::adds_to_the_result_when_asked(einsum); }

TEST_CASE("EinsumReference has the bits of mapping tables where every row has one expert") {
  oracle::Random random(790);
  const Problem<float> p({.tokens = 50, .hidden = 70, .ffn = 40, .experts = 5, .k = 1}, random);
  CHECK(bits(forward(make_layer(p, einsum), p)) == bits(forward(make_layer(p, moe::Cpu{.threads = 1}), p)));
}
TEST_CASE("EinsumReference agrees with mapping tables within 1e-5 where rows have several experts") {
  oracle::Random random(791);
  const Problem<float> p({.tokens = 50, .hidden = 70, .ffn = 40, .experts = 5, .k = 3}, random);
  const std::vector<float> a = forward(make_layer(p, einsum), p), b = forward(make_layer(p, moe::Cpu{.threads = 1}), p);
  float most = 0, off = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::fabs(b[i]));
    off = std::max(off, std::fabs(a[i] - b[i]));
  }
  CHECK(off <= 1e-5f * most);
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
