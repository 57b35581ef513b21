// Experts with random weights, and sources that fail, delay or count, for tests of storages.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include <moe/moe.hpp>

#include "temporary_folder.hpp"

namespace fixture {

/// Owns the weights of `experts` experts; the same seed gives the same weights.
struct RandomExperts {
  RandomExperts(moe::ExpertShape s, int experts, unsigned seed) : shape(s) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0.0f, 0.3f);
    const auto n = static_cast<std::size_t>(s.hidden) * static_cast<std::size_t>(s.ffn);
    weights.resize(static_cast<std::size_t>(experts) * 3 * n);
    for (float& w : weights) w = normal(engine);
    for (int e = 0; e < experts; ++e) {
      const float* gate = weights.data() + static_cast<std::size_t>(e) * 3 * n;
      matrices.push_back({moe::Matrix(gate, s.ffn, s.hidden), moe::Matrix(gate + n, s.ffn, s.hidden),
                          moe::Matrix(gate + 2 * n, s.hidden, s.ffn)});
    }
  }
  RandomExperts(const RandomExperts&) = delete;
  RandomExperts& operator=(const RandomExperts&) = delete;

  template <class Format>
  moe::Packed<Format> packed() const {
    return {shape, matrices};
  }

  moe::ExpertShape shape;
  std::vector<float> weights;
  std::vector<moe::ExpertMatrices> matrices;
};

/// The record of one expert, read from any source.
template <class Source>
std::vector<std::byte> record(const Source& source, moe::ExpertId e) {
  const moe::Buffer buffer(source.bytes(0));
  moe::PendingReads read(1);
  source.read({e, 0, buffer.data(), &moe::PendingReads::done, &read});
  read.wait();
  return {buffer.data(), buffer.data() + buffer.bytes()};
}

/// What happens to reads; shared by all copies of a source.
struct Plan {
  std::atomic<int> reads{0};
  std::atomic<int> fail_from{-1}, fail_count{0};  // reads fail_from .. fail_from + fail_count - 1 fail
  std::atomic<int> broken{-1};                    // expert of which every read fails
  std::atomic<int> delay_us{0};
};

/// A source that obeys a plan: the fault injector for storages.
template <class Source>
struct Planned {
  using layout = typename Source::layout;
  using formats = typename Source::formats;
  Source source;
  Plan* plan;
  moe::ExpertShape shape() const noexcept { return source.shape(); }
  int num_experts() const noexcept { return source.num_experts(); }
  std::size_t bytes(int format) const noexcept { return source.bytes(format); }
  int choose(const moe::ExpertNeed& need) const noexcept { return moe::choose(source, need); }
  void read(const moe::ReadRequest& request) const {
    const int n = plan->reads++;
    if (plan->delay_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(plan->delay_us));
    const bool fails = n >= plan->fail_from && n < plan->fail_from + plan->fail_count;
    if (fails || request.expert == plan->broken) {
      std::memset(request.to, 0xff, bytes(request.format));
      const moe::IoError error("injected fault");
      return request.done(request.who, &error);
    }
    source.read(request);
  }
};

/// Random inputs [tokens, hidden] and a gate [experts, hidden].
struct Inputs {
  Inputs(int tokens_, int hidden_, int experts_, unsigned seed)
      : tokens(tokens_), hidden(hidden_), experts(experts_), x(size(tokens_, hidden_)), gate(size(experts_, hidden_)) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    for (float& v : x) v = normal(engine);
    for (float& v : gate) v = normal(engine);
  }
  static std::size_t size(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }
  moe::View<const float> view() const { return {x.data(), tokens, hidden}; }
  moe::Linear<> linear() const { return moe::Linear{moe::View<const float>(gate.data(), experts, hidden)}; }

  int tokens, hidden, experts;
  std::vector<float> x, gate;
};

/// y of one forward, with a workspace of `chunk` rows.
template <class Layer>
std::vector<float> outputs(const Layer& layer, const Inputs& in, int chunk) {
  std::vector<float> y(in.x.size());
  moe::Workspace ws{layer.workspace(chunk)};
  layer.forward(in.view(), {y.data(), in.tokens, in.hidden}, ws);
  return y;
}

}  // namespace fixture
