// The whole layer on random configurations: gate, choices and result against the oracle, within its bounds.
#pragma once

#include <moe/layer.hpp>
#include <moe/routers/top_k.hpp>
#include <string>
#include <vector>

#include "problem.hpp"

namespace layer_laws {

/// One random configuration, and the oracle's text of its router.
struct Configuration {
  explicit Configuration(oracle::Random& r) {
    const int experts = r.below(20) == 0 ? r.between(100, 300) : r.between(1, 12);
    setup = {.tokens = r.between(0, 6),
             .hidden = r.between(1, 48),
             .ffn = r.between(1, 48),
             .experts = experts,
             .k = r.between(1, std::min(experts, 5)),
             .gated = r.coin(),
             .biased = r.coin()};
    rule.score = static_cast<oracle::Score>(r.below(3));
    rule.divide = static_cast<oracle::Divide>(r.below(3));
    if (rule.divide == oracle::Divide::by_sum) rule.epsilon = r.coin() ? 0.125 : 0;
    if (rule.divide == oracle::Divide::by_sum) rule.floor = r.coin() ? 0.5 : 0;
    if (rule.divide == oracle::Divide::by_norm) rule.power = r.between(1, 3);
    rule.scale = r.coin() ? 2.5 : 1;
    weight_on_input = r.coin();
    own_logits = r.below(4) == 0;
    rows_at_once = r.between(1, 6);
  }
  moe::TopK router() const {
    moe::Normalisation n;
    n.by = static_cast<moe::Normalisation::By>(rule.divide);
    n.epsilon = static_cast<float>(rule.epsilon);
    n.floor = static_cast<float>(rule.floor);
    n.power = static_cast<float>(rule.power);
    return {.experts = setup.experts,
            .k = setup.k,
            .score = static_cast<moe::Score>(rule.score),
            .normalise = n,
            .scale = static_cast<float>(rule.scale)};
  }
  std::string text() const {
    const auto n = [](auto value) { return std::to_string(value) + " "; };
    return "T H F E K " + n(setup.tokens) + n(setup.hidden) + n(setup.ffn) + n(setup.experts) + n(setup.k) +
           "gated biased " + n(setup.gated) + n(setup.biased) + "score divide " + n(static_cast<int>(rule.score)) +
           n(static_cast<int>(rule.divide)) + n(rule.epsilon) + n(rule.floor) + n(rule.power) + "on input " +
           n(weight_on_input) + "own logits " + n(own_logits) + "rows at once " + n(rows_at_once);
  }

  Setup setup;
  oracle::Routing rule;
  bool weight_on_input = false, own_logits = false;
  int rows_at_once = 1;
};

/// What the layer did on the way, row by row of the whole call.
struct Seen {
  std::vector<float> logits;
  std::vector<std::vector<int>> ids;
};
struct Watch {
  Seen* seen;
  void logits(moe::View<const float> l) const {
    for (int t = 0; t < l.rows; ++t) seen->logits.insert(seen->logits.end(), l.row(t).begin(), l.row(t).end());
  }
  void routed(const moe::Frame<>& f) const {
    for (int t = 0; t < f.dims.tokens; ++t) {
      std::vector<int>& row = seen->ids.emplace_back();
      for (int k = 0; k < f.table.size(t); ++k) row.push_back(f.table.slots.row(t)[k].expert);
    }
  }
};

/// The first thing that is wrong, or nothing. Choices are checked on the logits that the layer computed, so that no
/// rounding of the gate can turn a near tie.
template <class Format>
std::string first_fault(const Configuration& c, const Problem<Format>& p, const Seen& seen,
                        const std::vector<float>& y) {
  const Setup& s = c.setup;
  if (seen.logits.size() != static_cast<std::size_t>(s.tokens * s.experts)) return "number of logits";
  for (int t = 0; t < s.tokens; ++t) {
    const std::vector<float> logits(seen.logits.begin() + t * s.experts, seen.logits.begin() + (t + 1) * s.experts);
    const std::vector<oracle::Value> x = oracle::exact(p.token(t), s.hidden);
    for (int e = 0; e < s.experts && !c.own_logits; ++e)
      if (!within(logits[static_cast<std::size_t>(e)], oracle::dot(p.gate.data() + e * s.hidden, x))) return "logit";
    const std::vector<oracle::Pick> picks = oracle::route(c.rule, logits, s.k);
    std::vector<int> ids;
    for (const oracle::Pick& pick : picks) ids.push_back(pick.expert);
    if (seen.ids[static_cast<std::size_t>(t)] != ids) return "choice";
    if (first_outside(view(y, s.hidden).row(t), run_token(p.layer, x, picks)) != -1) return "result";
  }
  return {};
}

template <class Format, class Activation, class X>
std::string try_layer(const Configuration& c, const X& executor, oracle::Random& random) {
  Problem<Format> p(c.setup, random);
  p.layer.weight_on_input = c.weight_on_input;
  const moe::ExpertForm<Activation> form{.weight_on = c.weight_on_input ? moe::WeightOn::input : moe::WeightOn::output};
  const moe::MoELayer layer(moe::Linear(p.gate_view()), c.router(), p.storage(), executor, form);
  const std::vector<float> logits = random.reals(c.setup.tokens * c.setup.experts, 8);
  std::vector<float> y(p.x.size(), not_a_number);
  moe::Call<> call{.x = p.x_view(), .y = {y.data(), c.setup.tokens, c.setup.hidden}};
  if (c.own_logits) call.logits = {logits.data(), c.setup.tokens, c.setup.experts};
  moe::Workspace ws(layer.workspace(c.rows_at_once));
  Seen seen;
  layer.forward(call, ws, Watch{&seen});
  return first_fault(c, p, seen, y);
}

/// `make_executor(random)` gives an executor; the seed of a failure is printed.
template <class Format, class MakeExecutor>
void agrees_with_oracle(int configurations, std::uint64_t first_seed, const MakeExecutor& make_executor) {
  for (int i = 0; i < configurations; ++i) {
    oracle::Random random(first_seed + static_cast<std::uint64_t>(i));
    const Configuration c(random);
    const auto executor = make_executor(random);
    const std::string fault = c.setup.gated ? try_layer<Format, moe::SwiGlu>(c, executor, random)
                                            : try_layer<Format, moe::Relu>(c, executor, random);
    INFO("seed ", random.seed, ": ", c.text());
    CHECK(fault == "");
  }
}

}  // namespace layer_laws
