// A random problem as a MoELayer, and one call of it.
#pragma once

#include <moe/executors/cpu.hpp>
#include <moe/layer.hpp>
#include <moe/routers/top_k.hpp>
#include <utility>
#include <vector>

#include "problem.hpp"

template <class Format, class Executor = moe::Cpu, class Form = moe::ExpertForm<moe::SwiGlu>>
auto make_layer(const Problem<Format>& p, const Executor& executor = {}, const Form& form = {}) {
  return moe::MoELayer(moe::Linear(p.gate_view()), moe::TopK{.experts = p.setup.experts, .k = p.setup.k}, p.storage(),
                       executor, form);
}

/// y of one call on the problem's x, in a workspace for `max_tokens` rows; y is NaN before.
template <class Layer, class Format, class Observer = moe::NoObserver>
std::vector<float> forward(const Layer& layer, const Problem<Format>& p, moe::Call<> call = {}, int max_tokens = -1,
                           const Observer& observer = {}) {
  std::vector<float> y(p.x.size(), not_a_number);
  moe::Workspace ws(layer.workspace(max_tokens < 0 ? p.setup.tokens : max_tokens));
  call.x = p.x_view();
  call.y = {y.data(), p.setup.tokens, p.setup.hidden};
  if constexpr (requires { layer.forward(call, ws, observer); })
    layer.forward(call, ws, observer);
  else
    layer.forward(call, ws);  // erased
  return y;
}

/// The logits of the gate, as the library computes them.
template <class Format>
std::vector<float> gate_logits(const Problem<Format>& p) {
  std::vector<float> logits(static_cast<std::size_t>(p.setup.tokens * p.setup.experts));
  moe::Frame<> f;
  moe::Cpu{.threads = 1}.linear(f, p.x_view(), p.gate_view(), nullptr, view(logits, p.setup.experts));
  return logits;
}

inline std::vector<float> row_of(const std::vector<float>& m, int cols, int row) {
  return {m.begin() + row * cols, m.begin() + (row + 1) * cols};
}

/// Rows of y outside the oracle's bounds, if TopK chose on these logits.
template <class Format>
int wrong_rows(const Problem<Format>& p, const std::vector<float>& logits, const std::vector<float>& y,
               const oracle::Routing& rule = {}) {
  int wrong = 0;
  for (int t = 0; t < p.setup.tokens; ++t) {
    const auto picks = oracle::route(rule, row_of(logits, p.setup.experts, t), p.setup.k);
    wrong += first_outside(view(y, p.setup.hidden).row(t), run_token(p.layer, p.token(t), picks)) != -1 ? 1 : 0;
  }
  return wrong;
}
