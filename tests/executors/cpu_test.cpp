// Laws of executors, for Cpu with every instruction set of the machine.
#include <moe/executors/cpu.hpp>

#include "../cpu/isas.hpp"
#include "../laws/executor_laws.hpp"

using moe::Cpu;

namespace {

using Mixed = moe::expert_format<moe::q8_0, moe::f16>;

template <class Law>
void for_every_isa(const Law& law) {
  for (const moe::Isa isa : available_isas()) {
    CAPTURE(moe::isa_name(isa));
    law(Cpu{.threads = 2, .isa = isa});
  }
}

}  // namespace

TEST_CASE_TEMPLATE("Cpu agrees with the oracle within rounding", Format, float, moe::bf16, moe::f16, moe::q8_0,
                   moe::mxfp4, moe::q4_0, Mixed) {
  for_every_isa([](const Cpu& cpu) { executor_laws::agrees_with_oracle<Format>(cpu); });
}
TEST_CASE_TEMPLATE("Cpu adds biases", Format, float, moe::bf16, moe::f16, moe::q8_0, moe::mxfp4, moe::q4_0, Mixed) {
  for_every_isa([](const Cpu& cpu) { executor_laws::adds_biases<Format>(cpu); });
}
TEST_CASE_TEMPLATE("Cpu computes ungated experts", Format, float, moe::bf16, moe::f16, moe::q8_0, moe::mxfp4, moe::q4_0,
                   Mixed) {
  for_every_isa([](const Cpu& cpu) { executor_laws::computes_ungated_experts<Format>(cpu); });
}
TEST_CASE_TEMPLATE("Cpu adds biases of ungated experts", Format, float, moe::bf16, moe::f16, moe::q8_0, moe::mxfp4,
                   moe::q4_0, Mixed) {
  for_every_isa([](const Cpu& cpu) { executor_laws::adds_biases_of_ungated_experts<Format>(cpu); });
}
TEST_CASE_TEMPLATE("Cpu applies weights to the input when the form says so", Format, float, moe::bf16, moe::f16,
                   moe::q8_0, moe::mxfp4, moe::q4_0, Mixed) {
  for_every_isa([](const Cpu& cpu) { executor_laws::applies_weights_to_the_input<Format>(cpu); });
}
TEST_CASE("Cpu computes nothing for no tokens") {
  for_every_isa([](const Cpu& cpu) { executor_laws::computes_nothing_for_no_tokens(cpu); });
}
TEST_CASE("Cpu reads nothing of experts without rows") {
  for_every_isa([](const Cpu& cpu) { executor_laws::reads_nothing_of_experts_without_rows(cpu); });
}
TEST_CASE("Cpu writes only rows of the wave") {
  for_every_isa([](const Cpu& cpu) { executor_laws::writes_only_rows_of_the_wave(cpu); });
}
TEST_CASE("Cpu adds nothing for skipped experts") {
  for_every_isa([](const Cpu& cpu) { executor_laws::adds_nothing_for_skipped_experts(cpu); });
}
TEST_CASE("Cpu adds nothing for ids outside the experts") {
  for_every_isa([](const Cpu& cpu) { executor_laws::adds_nothing_for_unknown_ids(cpu); });
}
TEST_CASE("Cpu adds the input for identities") {
  for_every_isa([](const Cpu& cpu) { executor_laws::adds_the_input_for_identities(cpu); });
}
TEST_CASE("Cpu writes zero for tokens without choices") {
  for_every_isa([](const Cpu& cpu) { executor_laws::writes_zero_for_tokens_without_choices(cpu); });
}
TEST_CASE("Cpu adds to the result when asked") {
  for_every_isa([](const Cpu& cpu) { executor_laws::adds_to_the_result_when_asked(cpu); });
}
TEST_CASE("Cpu multiplies gates within rounding") {
  for_every_isa([](const Cpu& cpu) { executor_laws::linear_agrees_with_oracle(cpu); });
}
TEST_CASE("Cpu calls every row once") {
  for_every_isa([](const Cpu& cpu) { executor_laws::rows_visits_every_index_once(cpu); });
}

TEST_CASE("Cpu refuses an instruction set that the machine lacks") {
  if (moe::cpu::supports(moe::Isa::avx512)) return;
  moe::Arena main, staging;
  const Cpu cpu{.threads = 1, .isa = moe::Isa::avx512};
  CHECK(message_of([&] { cpu.carve(main, staging, {}, {}); }) ==
        "moe::Cpu: instruction set: expected one that this machine has, found avx512");
}
