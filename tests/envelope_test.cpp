// Latent projections, norms and biases around the experts, against the oracle.
#include <moe/envelope.hpp>
#include <moe/layer.hpp>
#include <vector>

#include "layer_support.hpp"

using moe::ExpertForm;
using moe::MoELayer;
using moe::SwiGlu;
using moe::TopK;
using oracle::Value;

namespace {

constexpr int tokens = 5, hidden = 37;

struct Block {
  Block() : random(501), p({.tokens = tokens, .hidden = hidden}, random) {}
  std::vector<oracle::Pick> picks(int t) const { return oracle::route({}, row_of(gate_logits(p), 5, t), 2); }
  oracle::Random random;
  Problem<float> p;
};

/// x / sqrt(mean of squares + epsilon), times a gain: in double, with the relative error of its seven roundings and of
/// the sum's.
std::vector<Value> normalised(const std::vector<Value>& x, double epsilon, const float* gain) {
  double squares = 0, error = 0;
  for (const Value& v : x) {
    squares += v.v * v.v;
    error += 2 * std::fabs(v.v) * v.e + v.e * v.e;
  }
  const double mean = squares / static_cast<double>(x.size()) + epsilon;
  const double relative = error / squares + oracle::gamma(static_cast<int>(x.size()) + 7);
  std::vector<Value> out;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double scale = (gain != nullptr ? static_cast<double>(gain[i]) : 1.0) / std::sqrt(mean);
    out.push_back({x[i].v * scale, std::fabs(scale) * (x[i].e + relative * (std::fabs(x[i].v) + x[i].e))});
  }
  return out;
}

}  // namespace

TEST_CASE("latent experts with biases and a norm of what they see") {
  Block b;
  const int outer = 50;
  const std::vector<float> x = b.random.reals(tokens * outer), gate = b.random.reals(5 * outer),
                           enter = b.random.reals(hidden * outer), leave = b.random.reals(outer * hidden),
                           enter_bias = b.random.reals(hidden), leave_bias = b.random.reals(outer),
                           gain = b.random.reals(hidden);
  const ExpertForm<SwiGlu, moe::Latent<>> form{
      .envelope = {view(enter, outer), view(leave, hidden), enter_bias.data(), leave_bias.data(), gain.data(), 1e-3f}};
  const MoELayer layer(moe::Linear(view(gate, outer)), TopK{.experts = 5, .k = 2}, b.p.storage(),
                       moe::Cpu{.threads = 2}, form);
  CHECK(layer.hidden() == outer);
  std::vector<float> y(x.size(), not_a_number), logits(tokens * 5);
  moe::Workspace ws(layer.workspace(tokens));
  layer.forward(view(x, outer), view(y, outer), ws);
  moe::Frame<> f;
  moe::Cpu{.threads = 1}.linear(f, view(x, outer), view(gate, outer), nullptr, view(logits, 5));
  for (int t = 0; t < tokens; ++t) {
    const auto in = oracle::exact(x.data() + t * outer, outer);
    const auto latent = oracle::multiply({enter.begin(), enter.end()}, {enter_bias.begin(), enter_bias.end()}, in, {1});
    const auto result = run_token(b.p.layer, normalised(latent, static_cast<double>(1e-3f), gain.data()),
                                  oracle::route({}, row_of(logits, 5, t), 2));
    const auto want =
        oracle::multiply({leave.begin(), leave.end()}, {leave_bias.begin(), leave_bias.end()}, result, {1});
    CHECK(first_outside(view(y, outer).row(t), want) == -1);
  }
}
TEST_CASE("the layer's output may get a bias") {
  Block b;
  const std::vector<float> bias = b.random.reals(hidden);
  const ExpertForm<SwiGlu, moe::NoEnvelope, moe::OutputBias> form{
      .output = {{bias.data(), static_cast<int>(bias.size())}}};
  const std::vector<float> y = forward(make_layer(b.p, moe::Cpu{.threads = 1}, form), b.p);
  for (int t = 0; t < tokens; ++t) {
    std::vector<Value> want = run_token(b.p.layer, b.p.token(t), b.picks(t));
    for (std::size_t i = 0; i < want.size(); ++i) want[i] = want[i] + Value{static_cast<double>(bias[i])};
    CHECK(first_outside(view(y, hidden).row(t), want) == -1);
  }
}
TEST_CASE("the layer's output may be normalised") {
  Block b;
  const std::vector<float> gain = b.random.reals(hidden);
  const ExpertForm<SwiGlu, moe::NoEnvelope, moe::OutputNorm> form{
      .output = {{gain.data(), static_cast<int>(gain.size())}, 0.25f}};
  const std::vector<float> y = forward(make_layer(b.p, moe::Cpu{.threads = 1}, form), b.p);
  for (int t = 0; t < tokens; ++t) {
    const auto want = normalised(run_token(b.p.layer, b.p.token(t), b.picks(t)), 0.25, gain.data());
    CHECK(first_outside(view(y, hidden).row(t), want) == -1);
  }
}
TEST_CASE("each expert's output may be normalised before its weight") {
  Block b;
  const ExpertForm<SwiGlu> form{.expert_norm_eps = 0.125f};
  const std::vector<float> y = forward(make_layer(b.p, moe::Cpu{.threads = 1}, form), b.p);
  for (int t = 0; t < tokens; ++t) {
    std::vector<Value> want(hidden);
    for (const oracle::Pick& pick : b.picks(t)) {
      const auto one = normalised(run_token(b.p.layer, b.p.token(t), {{pick.expert, {1}}}), 0.125, nullptr);
      for (std::size_t i = 0; i < want.size(); ++i) want[i] = want[i] + one[i] * pick.weight;
    }
    CHECK(first_outside(view(y, hidden).row(t), want) == -1);
  }
}
TEST_CASE("the routed output may be scaled, and the router's own weights are observed unscaled") {
  Block b;
  const auto layer = make_layer(b.p, moe::Cpu{.threads = 1}, ExpertForm<SwiGlu>{.output_scale = 0.8f});
  struct Weights {
    std::vector<float>* sums;
    void routed(const moe::Frame<>& f) const {
      for (int t = 0; t < f.dims.tokens; ++t)
        sums->push_back(f.table.slots.row(t)[0].weight + f.table.slots.row(t)[1].weight);
    }
  };
  std::vector<float> sums;
  const std::vector<float> y = forward(layer, b.p, {}, tokens, Weights{&sums});
  for (const float sum : sums) CHECK(std::fabs(sum - 1) <= 4 * 0x1p-24f);
  for (int t = 0; t < tokens; ++t) {
    std::vector<oracle::Pick> picks = b.picks(t);
    for (oracle::Pick& p : picks) p.weight = p.weight * Value{static_cast<double>(0.8f)};
    CHECK(first_outside(view(y, hidden).row(t), run_token(b.p.layer, b.p.token(t), picks)) == -1);
  }
}
