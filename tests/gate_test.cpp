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
    gate.logits(moe::Cpu{.threads = 1}, f, call);
  }
  double x_at(int t, int i) const { return static_cast<double>(x[static_cast<std::size_t>(t * inputs + i)]); }
  double logit(int t, int n) const { return static_cast<double>(logits[static_cast<std::size_t>(t * outputs + n)]); }
  /// Chains of at most a hundred operations on numbers below ten: 2^-24 * 100 * 10.
  static constexpr double bound = 1e-4;

  oracle::Random random;
  std::vector<float> x, logits, state_in, state_out;
};
double at(const std::vector<float>& m, int cols, int row, int col) {
  return static_cast<double>(m[static_cast<std::size_t>(row * cols + col)]);
}
double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

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
    double squares = 0;
    for (int i = 0; i < inputs; ++i) squares += run.x_at(t, i) * run.x_at(t, i);
    const double rms = std::sqrt(squares / inputs + 1e-6);
    for (int n = 0; n < outputs; ++n) {
      double sum = 0;
      for (int i = 0; i < inputs; ++i)
        sum += run.x_at(t, i) / rms * static_cast<double>(gain[static_cast<std::size_t>(i)]) / std::sqrt(1.0 * inputs) *
               at(w, inputs, n, i);
      CHECK(std::fabs(run.logit(t, n) - sum) <= GateRun::bound);
    }
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
  for (const bool with_state : {false, true}) {
    run(gate, with_state);
    for (int t = 0; t < rows; ++t) {
      std::vector<double> s(width), n(width), a(width), b(width);
      double squares = 0;
      for (int i = 0; i < width; ++i) {
        const auto u = static_cast<std::size_t>(i);
        s[u] = static_cast<double>(enter_bias[u]);
        for (int j = 0; j < inputs; ++j) s[u] += at(enter, inputs, i, j) * run.x_at(t, j);
        if (with_state) s[u] += static_cast<double>(carried[u]) * at(run.state_in, width, t, i);
        if (with_state) CHECK(std::fabs(at(run.state_out, width, t, i) - s[u]) <= GateRun::bound);
        squares += s[u] * s[u];
      }
      for (std::size_t i = 0; i < width; ++i)
        n[i] = s[i] / std::sqrt(squares / width + 1e-5) * static_cast<double>(norm[i]);
      const auto layer = [&](const std::vector<float>& w, const std::vector<float>& bias, const std::vector<double>& in,
                             std::vector<double>& out) {
        for (int i = 0; i < width; ++i) {
          double sum = static_cast<double>(bias[static_cast<std::size_t>(i)]);
          for (int j = 0; j < width; ++j) sum += at(w, width, i, j) * in[static_cast<std::size_t>(j)];
          out[static_cast<std::size_t>(i)] = gelu(sum);
        }
      };
      layer(first, first_bias, n, a);
      layer(second, second_bias, a, b);
      for (int o = 0; o < outputs; ++o) {
        double sum = 0;
        for (int j = 0; j < width; ++j) sum += at(leave, width, o, j) * b[static_cast<std::size_t>(j)];
        CHECK(std::fabs(run.logit(t, o) - sum) <= GateRun::bound);
      }
    }
  }
}
TEST_CASE("a residual gate adds what the logits of the layer before say, as in MoE++") {
  GateRun run(outputs);
  const std::vector<float> w = run.random.reals(outputs * inputs), residual = run.random.reals(outputs * outputs);
  run(moe::ResidualLinear(view(w, inputs), view(residual, outputs)), true);
  for (int t = 0; t < rows; ++t)
    for (int n = 0; n < outputs; ++n) {
      double sum = 0;
      for (int i = 0; i < inputs; ++i) sum += run.x_at(t, i) * at(w, inputs, n, i);
      for (int j = 0; j < outputs; ++j) sum += at(residual, outputs, n, j) * at(run.state_in, outputs, t, j);
      CHECK(std::fabs(run.logit(t, n) - sum) <= GateRun::bound);
    }
  CHECK(run.state_out == run.logits);
}
