// Gates: the linear one, and none.
#include <moe/executors/cpu.hpp>
#include <moe/gate.hpp>
#include <utility>

#include "problem.hpp"

TEST_CASE("a linear gate tells its width and its outputs") {
  const std::vector<float> w(12);
  const moe::Linear gate(view(w, 4));
  CHECK(gate.outputs() == 3);
  CHECK(gate.inputs() == 4);
}
TEST_CASE("a linear gate multiplies by rows and adds the bias") {
  const std::vector<float> w{1, 2, 3, 4}, x{10, 1}, bias{0.5f, -0.5f};
  std::vector<float> logits(2);
  moe::Frame<> f;
  moe::Linear(view(w, 2), bias.data()).logits(moe::Cpu{.threads = 1}, f, moe::GateCall<>{view(x, 2), view(logits, 2)});
  CHECK(logits == std::vector<float>{12.5f, 33.5f});
}
TEST_CASE("a linear gate takes a mutable view") {
  std::vector<float> w(4);
  CHECK(moe::Linear(view(w, 2)).weight().data == w.data());
}
TEST_CASE("NoGate gives no logits") {
  CHECK(moe::NoGate::outputs() == 0);
  CHECK(moe::NoGate::inputs() == 0);
}
TEST_CASE("NoGate is a gate of every executor") { CHECK(moe::Gate<moe::NoGate, moe::Cpu>); }

// ---- gates with more than a product

namespace {

constexpr int rows = 3, inputs = 20, outputs = 7;

struct GateRun {
  explicit GateRun(int state_width = 0)
      : random(601),
        x(random.reals(rows * inputs)),
        logits(rows * outputs),
        state_in(random.reals(rows * state_width)),
        state_out(state_in.size()) {}
  template <class G>
  void operator()(const G& gate, bool with_state = false) {
    std::vector<float> scratch(static_cast<std::size_t>(rows * moe::scratch_columns(gate)), not_a_number);
    moe::Frame<> f;
    moe::GateCall<> call{view(std::as_const(x), inputs), view(logits, outputs)};
    call.scratch = view(scratch, std::max(moe::scratch_columns(gate), 1));
    if (with_state) call.state_in = view(std::as_const(state_in), moe::state_columns(gate));
    if (with_state) call.state_out = view(state_out, moe::state_columns(gate));
    if (!modalities.empty()) call.modalities = modalities.data();
    gate.logits(moe::Cpu{.threads = 1}, f, call);
  }
  std::vector<oracle::Value> x_of(int t) const { return oracle::exact(x.data() + t * inputs, inputs); }
  moe::Row<const float> logits_of(int t) const { return {logits.data() + t * outputs, outputs}; }

  oracle::Random random;
  std::vector<float> x, logits, state_in, state_out;
  std::vector<int> modalities;
};
/// W x + b, or W x.
std::vector<oracle::Value> product(const std::vector<float>& w, const std::vector<float>& bias,
                                   const std::vector<oracle::Value>& x) {
  return oracle::multiply({w.begin(), w.end()}, {bias.begin(), bias.end()}, x, {1});
}
bool agrees(moe::Row<const float> computed, const std::vector<oracle::Value>& expected) {
  return first_outside(computed, expected) == -1;
}

}  // namespace

TEST_CASE("a gate may round its logits to the model's type") {
  GateRun run;
  const std::vector<float> w = run.random.reals(outputs * inputs);
  run(moe::Linear(view(w, inputs)));
  const std::vector<float> exact = run.logits;
  run(moe::Linear(view(w, inputs), nullptr, moe::ElementType::bfloat16));
  for (std::size_t i = 0; i < exact.size(); ++i) CHECK(run.logits[i] == float(moe::bf16(exact[i])));
  run(moe::Linear(view(w, inputs), nullptr, moe::ElementType::float16));
  for (std::size_t i = 0; i < exact.size(); ++i) CHECK(run.logits[i] == float(moe::f16(exact[i])));
}
TEST_CASE("a normalised gate is Gemma-4's") {
  GateRun run;
  const std::vector<float> w = run.random.reals(outputs * inputs), gain = run.random.reals(inputs);
  run(moe::NormalisedLinear(view(w, inputs), gain.data(), 1e-6f));
  for (int t = 0; t < rows; ++t) {
    const auto x = oracle::normalised(run.x_of(t), gain.data(), 1e-6, 1 / std::sqrt(1.0 * inputs));
    CHECK(agrees(run.logits_of(t), product(w, {}, x)));
  }
}
TEST_CASE("a carried gate is Zaya's, with and without a state of the layer before") {
  constexpr int width = 6;
  GateRun run(width);
  oracle::Random& r = run.random;
  const std::vector<float> enter = r.reals(width * inputs), enter_bias = r.reals(width), carried = r.reals(width),
                           norm = r.reals(width), first = r.reals(width * width), first_bias = r.reals(width),
                           second = r.reals(width * width), second_bias = r.reals(width),
                           leave = r.reals(outputs * width);
  const moe::CarriedMlp gate(moe::CarriedMlpWeights<>{view(enter, inputs), enter_bias.data(), carried.data(),
                                                      norm.data(), 1e-5f, view(first, width), first_bias.data(),
                                                      view(second, width), second_bias.data(), view(leave, width)});
  const auto gelu_of = [](std::vector<oracle::Value> values) {
    for (oracle::Value& v : values) v = oracle::gelu(v);
    return values;
  };
  for (const bool with_state : {false, true}) {
    run(gate, with_state);
    for (int t = 0; t < rows; ++t) {
      std::vector<oracle::Value> state = product(enter, enter_bias, run.x_of(t));
      for (std::size_t i = 0; i < width && with_state; ++i) {
        const float before = run.state_in[static_cast<std::size_t>(t) * width + i];
        state[i] = state[i] + oracle::Value{static_cast<double>(carried[i]) * static_cast<double>(before)};
      }
      if (with_state) CHECK(agrees(view(std::as_const(run.state_out), width).row(t), state));
      const auto hidden = oracle::normalised(state, norm.data(), 1e-5, 1);
      const auto second_in = gelu_of(product(first, first_bias, hidden));
      CHECK(agrees(run.logits_of(t), product(leave, {}, gelu_of(product(second, second_bias, second_in)))));
    }
  }
}
TEST_CASE("a residual gate adds what the logits of the layer before say, as in MoE++") {
  GateRun run(outputs);
  const std::vector<float> w = run.random.reals(outputs * inputs), residual = run.random.reals(outputs * outputs);
  run(moe::ResidualLinear(view(w, inputs), view(residual, outputs)), true);
  for (int t = 0; t < rows; ++t) {
    std::vector<oracle::Value> sum = product(w, {}, run.x_of(t));
    const auto before = product(residual, {}, oracle::exact(run.state_in.data() + t * outputs, outputs));
    for (std::size_t n = 0; n < outputs; ++n) sum[n] = sum[n] + before[n];
    CHECK(agrees(run.logits_of(t), sum));
  }
  CHECK(run.state_out == run.logits);
}
TEST_CASE("a gate by modality gives each row the bits of its modality's own gate") {
  constexpr int modalities = 3;
  GateRun run;
  const std::vector<float> w = run.random.reals(modalities * outputs * inputs), bias = run.random.reals(3 * outputs);
  const moe::LinearByModality gate(view(w, inputs), modalities, bias.data());
  CHECK(gate.outputs() == outputs);
  std::vector<std::vector<float>> alone;
  for (int m = 0; m < modalities; ++m) {
    run(moe::Linear(view(w, inputs).slice(m * outputs, outputs), bias.data() + m * outputs));
    alone.push_back(run.logits);
  }
  const auto row_of_modality = [&](int m, int t) {
    return bits(moe::Row<const float>{alone[static_cast<std::size_t>(m)].data() + t * outputs, outputs});
  };
  run.modalities = {2, 0, 7};  // 7 is none of the model's: text
  run(gate);
  CHECK(bits(run.logits_of(0)) == row_of_modality(2, 0));
  CHECK(bits(run.logits_of(1)) == row_of_modality(0, 1));
  CHECK(bits(run.logits_of(2)) == row_of_modality(0, 2));
  run.modalities.clear();
  run(gate);
  for (int t = 0; t < rows; ++t) CHECK(bits(run.logits_of(t)) == row_of_modality(0, t));
}
TEST_CASE("a gate by modality needs as many rows for each") {
  const std::vector<float> w(12);
  CHECK(message_of([&] { moe::LinearByModality(view(w, 2), 4); }) ==
        "moe::LinearByModality: modalities: expected a divisor of the 6 rows, found 4");
  CHECK(message_of([&] { moe::LinearByModality(view(w, 2), 0); }) ==
        "moe::LinearByModality: modalities: expected a divisor of the 6 rows, found 0");
}
