#include "comparison.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "command_line.hpp"
#include "loss.hpp"
#include "sampling.hpp"

namespace programs {

namespace {

using engine::ConstRows;
using engine::LogitsOf;

/// Calls see(window) for every window of at least two tokens.
template <class See>
void for_each_window(std::span<const int> text, int window, const Done& done, const See& see) {
  const auto size = static_cast<std::size_t>(window);
  for (std::size_t begin = 0; begin + 1 < text.size(); begin += size) {
    const std::span<const int> tokens = text.subspan(begin, std::min(size, text.size() - begin));
    see(tokens);
    done(static_cast<std::int64_t>(tokens.size()));
  }
}

void count(Quality& quality, moe::Row<const float> logits, int token) {
  quality.bits += engine::bits(logits, token);
  ++quality.scored;
  quality.right += engine::Sampler::greedy(logits) == token ? 1 : 0;
}

/// Counts the picks of stream 1 that stream 0 did not make for the same token.
struct CountFresh {
  std::int64_t picks = 0, fresh = 0;

  void see(const moe::Frame<>& frame) {
    const int tokens = frame.dims.tokens / 2;
    for (int t = 0; t < tokens; ++t) {
      const moe::Row<moe::Slot> strong = frame.table.slots.row(t).first(frame.table.size(t));
      for (const moe::Slot& weak : frame.table.slots.row(tokens + t).first(frame.table.size(tokens + t))) {
        const auto same = [&](const moe::Slot& s) { return s.expert == weak.expert; };
        ++picks;
        fresh += std::none_of(strong.begin(), strong.end(), same) ? 1 : 0;
      }
    }
  }
};

}  // namespace

Quality score(engine::Model& model, std::span<const int> text, int window, const Done& done) {
  engine::Sequence sequence(model);
  Quality quality;
  model.experts().reset_loads();
  for_each_window(text, window, done, [&](std::span<const int> tokens) {
    sequence.restart();
    const ConstRows logits = sequence.append(tokens.first(tokens.size() - 1), LogitsOf::every_token);
    for (std::size_t i = 1; i < tokens.size(); ++i) count(quality, logits.row(static_cast<int>(i) - 1), tokens[i]);
  });
  quality.experts_per_token = model.experts().experts_per_token();
  return quality;
}

ContrastQuality score_contrast(engine::Model& model, std::span<const int> text, int window, float alpha,
                               std::span<const float> betas, const Done& done) {
  engine::Sequence both(model, {0, 1});
  std::vector<float> contrasted(static_cast<std::size_t>(model.config().vocab));
  const moe::Row<float> out(contrasted.data(), model.config().vocab);
  ContrastQuality result{std::vector<Quality>(betas.size()), 0};
  CountFresh fresh;
  model.experts().reset_loads();
  model.experts().observe([&](int, const moe::Frame<>& frame) { fresh.see(frame); });
  for_each_window(text, window, done, [&](std::span<const int> tokens) {
    both.restart();
    const ConstRows logits = both.append(tokens.first(tokens.size() - 1), LogitsOf::every_token);
    for (int t = 0; t < logits.rows / 2; ++t) {
      const int token = tokens[static_cast<std::size_t>(t) + 1];
      const moe::Row<const float> strong = logits.row(t), weak = logits.row(logits.rows / 2 + t);
      for (std::size_t b = 0; b < betas.size(); ++b) {
        Quality& quality = result.by_beta[b];
        constexpr float no_cut = std::numeric_limits<float>::min();
        moe::contrast_logits(strong, weak, no_cut, betas[b], out);
        quality.bits += engine::bits(out, token);
        moe::contrast_logits(strong, weak, alpha, betas[b], out);
        quality.outside += std::isinf(out[token]) ? 1 : 0;
        quality.right += engine::Sampler::greedy(out) == token ? 1 : 0;
        ++quality.scored;
      }
    }
  });
  model.experts().observe({});
  for (Quality& quality : result.by_beta) quality.experts_per_token = 2 * model.experts().experts_per_token();
  result.fresh_share = static_cast<double>(fresh.fresh) / static_cast<double>(std::max<std::int64_t>(1, fresh.picks));
  return result;
}

// ---- speed

namespace {

template <class Step>
double timed(std::span<const int> prompt, std::span<const int> text, const Step& step) {
  step(prompt);
  const Stopwatch watch;
  for (std::size_t i = 0; i < text.size(); ++i) step(text.subspan(i, 1));
  return watch.seconds();
}

}  // namespace

double Contestant::seconds(std::span<const int> prompt, std::span<const int> text) const {
  model_.experts().set_policy(policy_);
  if (how_ == How::fused_streams) {
    engine::ContrastSequence both(model_, {});
    return timed(prompt, text, [&](std::span<const int> tokens) { both.append(tokens, LogitsOf::last_token); });
  }
  engine::Sequence strong(model_, {0}), weak(model_, {1});
  if (how_ == How::one_stream) {
    return timed(prompt, text, [&](std::span<const int> tokens) { strong.append(tokens, LogitsOf::last_token); });
  }
  std::vector<float> out(static_cast<std::size_t>(model_.config().vocab));
  return timed(prompt, text, [&](std::span<const int> tokens) {
    const ConstRows s = strong.append(tokens, LogitsOf::last_token), w = weak.append(tokens, LogitsOf::last_token);
    moe::contrast_logits(s.row(0), w.row(0), 0.1f, 0.5f, {out.data(), model_.config().vocab});
  });
}

std::vector<double> race(std::span<const Contestant> contestants, std::span<const int> prompt,
                         std::span<const int> text, int rounds, const Done& done) {
  std::vector<std::vector<double>> seconds(contestants.size());
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < contestants.size(); ++i) {
      seconds[i].push_back(contestants[i].seconds(prompt, text));
      done(static_cast<std::int64_t>(text.size()));
    }
  }
  std::vector<double> rates;
  for (std::vector<double>& times : seconds) {
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    rates.push_back(static_cast<double>(text.size()) / *middle);
  }
  return rates;
}

float shift_for_load(engine::Model& model, std::span<const int> text, int window, double load, const Done& done) {
  float low = -8, high = 8;
  for (int i = 0; i < shift_halvings; ++i) {
    const float middle = (low + high) / 2;
    model.experts().set_policy(engine::ShiftedNulls{middle});
    (score(model, text, window, done).experts_per_token > load ? low : high) = middle;
  }
  return (low + high) / 2;
}

}  // namespace programs
