// Laws of executors, for EigenReference.
#include <moe/executors/eigen.hpp>

#include "../laws/executor_laws.hpp"

using moe::EigenReference;

namespace {

using Mixed = moe::expert_format<moe::q8_0, moe::f16>;

}  // namespace

TEST_CASE_TEMPLATE("EigenReference agrees with the oracle within rounding", Format, float, moe::bf16, moe::f16,
                   moe::q8_0, moe::mxfp4, moe::q4_0, Mixed) {
  executor_laws::agrees_with_oracle<Format>(EigenReference{});
}
TEST_CASE_TEMPLATE("EigenReference adds biases", Format, float, moe::bf16, moe::f16, moe::q8_0, moe::mxfp4, moe::q4_0,
                   Mixed) {
  executor_laws::adds_biases<Format>(EigenReference{});
}
TEST_CASE_TEMPLATE("EigenReference computes ungated experts", Format, float, moe::bf16, moe::f16, moe::q8_0, moe::mxfp4,
                   moe::q4_0, Mixed) {
  executor_laws::computes_ungated_experts<Format>(EigenReference{});
}
TEST_CASE_TEMPLATE("EigenReference adds biases of ungated experts", Format, float, moe::bf16, moe::f16, moe::q8_0,
                   moe::mxfp4, moe::q4_0, Mixed) {
  executor_laws::adds_biases_of_ungated_experts<Format>(EigenReference{});
}
TEST_CASE_TEMPLATE("EigenReference applies weights to the input when the form says so", Format, float, moe::bf16,
                   moe::f16, moe::q8_0, moe::mxfp4, moe::q4_0, Mixed) {
  executor_laws::applies_weights_to_the_input<Format>(EigenReference{});
}
TEST_CASE("EigenReference computes nothing for no tokens") {
  executor_laws::computes_nothing_for_no_tokens(EigenReference{});
}
TEST_CASE("EigenReference reads nothing of experts without rows") {
  executor_laws::reads_nothing_of_experts_without_rows(EigenReference{});
}
TEST_CASE("EigenReference writes only rows of the wave") {
  executor_laws::writes_only_rows_of_the_wave(EigenReference{});
}
TEST_CASE("EigenReference adds nothing for skipped experts") {
  executor_laws::adds_nothing_for_skipped_experts(EigenReference{});
}
TEST_CASE("EigenReference adds nothing for ids outside the experts") {
  executor_laws::adds_nothing_for_unknown_ids(EigenReference{});
}
TEST_CASE("EigenReference adds the input for identities") {
  executor_laws::adds_the_input_for_identities(EigenReference{});
}
TEST_CASE("EigenReference writes zero for tokens without choices") {
  executor_laws::writes_zero_for_tokens_without_choices(EigenReference{});
}
TEST_CASE("EigenReference adds to the result when asked") {
  executor_laws::adds_to_the_result_when_asked(EigenReference{});
}
TEST_CASE("EigenReference multiplies gates within rounding") {
  executor_laws::linear_agrees_with_oracle(EigenReference{});
}
TEST_CASE("EigenReference calls every row once") { executor_laws::rows_visits_every_index_once(EigenReference{}); }
