// What two routing policies cost where experts exceed the caches: AdaMoE against top-2, and SCMoE's fused step against
// a greedy step and against two passes. Every number is a median over interleaved rounds. `policy_bench --help`.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <moe/moe.hpp>
#include <moe/routers/null_experts.hpp>
#include <moe/routers/self_contrast.hpp>

#include "ceilings.hpp"

namespace {

constexpr int experts = 8, k = 2;
constexpr double load = 1.66;                 // AdaMoE's on Mixtral-8x7B (table 1)
constexpr double fresh_share = 0.4621;        // of SCMoE's rank-2 picks: not among the strong stream's (section 4)
constexpr double dense_share = 41.9 / 176.2;  // Mixtral's attention to one of its experts, in weights

struct Options {
  int hidden = 2048, inter = 7168, layers = 2, steps = 32, rounds = 15, threads = 0;
  bool json = false;
};

using Values = std::vector<float>;
using Format = moe::bf16;

std::size_t size(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

Values random_values(std::size_t n, unsigned seed, float scale) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  Values out(n);
  for (float& v : out) v = normal(engine);
  return out;
}

/// One storage for each layer, shared by the layers of every router. All experts hold the same values in memory of
/// their own: the time does not depend on values.
class Weights {
 public:
  Weights(const Options& o, const moe::Cpu& executor)
      : cpu(executor),
        matrix_(random_values(size(o.inter, o.hidden), 1, 0.02f)),
        dense_(random_values(size(dense_rows(o), o.hidden), 2, 0.02f)),
        dense(dense_.data(), dense_rows(o), o.hidden) {
    const moe::Matrix up(matrix_.data(), o.inter, o.hidden), down(matrix_.data(), o.hidden, o.inter);
    const std::vector<moe::ExpertMatrices> all(experts, {up, up, down});
    for (int l = 0; l < o.layers; ++l) layers_.emplace_back(moe::Packed<Format>{{o.hidden, o.inter}, all});
  }

  /// The layer's experts behind another router; the call brings the logits.
  template <class Router>
  auto layer(std::size_t l, const Router& router) const {
    static constexpr moe::ExpertId ids[experts] = {0, 1, 2, 3, 4, 5, 6, 7};
    return moe::MoELayer{moe::NoGate{}, router, moe::SubsetStorage{layers_[l], ids}, cpu};
  }
  std::size_t count() const { return layers_.size(); }
  double bytes_of_expert() const {
    return static_cast<double>(moe::PanelLayout::record_bytes<Format>(layers_[0].shape()));
  }

  moe::Cpu cpu;

 private:
  /// As many bytes of float32 as Mixtral's attention has of bf16.
  static int dense_rows(const Options& o) {
    return static_cast<int>(dense_share * 3 * o.inter * sizeof(Format) / sizeof(float));
  }
  Values matrix_, dense_;
  std::vector<moe::Resident<moe::PanelLayout, moe::formats<Format>>> layers_;

 public:
  moe::View<const float> dense;  // [N,H], stands for a layer's attention projections
};

/// The layers of a model under one router, run one after the other on the same rows.
template <class Router>
class Stack {
 public:
  using Layer = decltype(std::declval<const Weights&>().layer(0, std::declval<const Router&>()));

  Stack(const Weights& weights, const Router& router, int hidden, int most_rows)
      : weights_(weights),
        x_(random_values(size(most_rows, hidden), 3, 1)),
        y_(x_.size()),
        hidden_(hidden),
        projected_(size(most_rows, weights.dense.rows)) {
    for (std::size_t l = 0; l < weights.count(); ++l) layers_.push_back(weights.layer(l, router));
    workspace_.emplace(layers_[0].workspace(most_rows));
  }

  /// `logits` [layers, rows, L]; row t follows rules[t].
  void step(const float* logits, int rows, const int* rules, bool with_dense) {
    const int columns = moe::num_logits(layers_[0].router());
    for (const Layer& layer : layers_) {
      const moe::View<const float> x(x_.data(), rows, hidden_);
      moe::Frame<> unused;
      if (with_dense)
        weights_.cpu.linear(unused, x, weights_.dense, nullptr, {projected_.data(), rows, weights_.dense.rows});
      layer.forward({.x = x,
                     .y = {y_.data(), rows, hidden_},
                     .logits = {logits, rows, columns},
                     .context = {.rules = rules, .decode = true}},
                    *workspace_);
      logits += rows * columns;
    }
  }

 private:
  const Weights& weights_;
  Values x_, y_;
  int hidden_;
  Values projected_;
  std::vector<Layer> layers_;
  std::optional<moe::Workspace<>> workspace_;
};

/// Seconds of a step of each way, [way]. For each step every way takes its turn, round after round; the median over
/// rounds counts, and the mean over steps.
std::vector<double> seconds_per_step(const Options& o, int steps, const std::vector<std::function<void(int)>>& ways) {
  std::vector<double> sums(ways.size());
  std::vector<std::vector<double>> seconds(ways.size());
  for (int step = 0; step < steps; ++step) {
    for (std::vector<double>& s : seconds) s.clear();
    for (int round = 0; round <= o.rounds; ++round) {
      for (std::size_t i = 0; i < ways.size(); ++i) {
        const double s = ceilings::best_seconds(1, [&] { ways[i](step); });
        if (round > 0) seconds[i].push_back(s);  // the first warms up
      }
    }
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const auto middle = seconds[i].begin() + static_cast<std::ptrdiff_t>(seconds[i].size() / 2);
      std::nth_element(seconds[i].begin(), middle, seconds[i].end());
      sums[i] += *middle / steps;
    }
  }
  return sums;
}

struct Report {
  std::string name;
  double ratio, bound;    // of times
  double expected;        // ratio of what is read, or of products
  double bytes, seconds;  // of weights per step of the policy; no bytes where products take the time
};

// ---- AdaMoE

/// Logits of true and null experts [steps, layers, 2 experts], and the shift at which their load is the paper's.
Report adamoe(const Options& o, const Weights& weights, int rows) {
  using Nulls = moe::NullExperts<moe::TopK>;
  const int steps = std::max(1, o.steps / rows), count = steps * o.layers * rows;
  const Values logits = random_values(size(count, 2 * experts), 4, 1);
  Nulls router{.inner = {.experts = experts, .k = 3}, .nulls = experts, .k = 3};
  router.shift = moe::shift_for_load(router, {logits.data(), count, 2 * experts}, load);
  Values true_logits;
  for (int t = 0; t < count; ++t) {
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>(t) * 2 * experts;
    true_logits.insert(true_logits.end(), row, row + experts);
  }
  const moe::TopK top2{.experts = experts, .k = k};
  Stack<Nulls> nulls(weights, router, o.hidden, rows);
  Stack<moe::TopK> plain(weights, top2, o.hidden, rows);
  const auto step = [&](auto& stack, const Values& all, int columns, int i) {
    stack.step(all.data() + size(i * o.layers * rows, columns), rows, nullptr, false);
  };
  const std::vector<double> s = seconds_per_step(
      o, steps,
      {[&](int i) { step(plain, true_logits, experts, i); }, [&](int i) { step(nulls, logits, 2 * experts, i); }});
  const double found = moe::load_of(router, {logits.data(), count, 2 * experts});
  const double bytes = rows == 1 ? found * o.layers * weights.bytes_of_expert() : 0;  // rows share experts
  return {"AdaMoE at load " + std::to_string(found).substr(0, 5) + " / top-2, " + std::to_string(rows) + " rows",
          s[1] / s[0],
          0.86,
          found / k,
          bytes,
          s[1]};
}

// ---- SCMoE

/// Logits of two streams that have drifted apart: the weak one's are correlation * strong + noise.
struct Streams {
  Values strong, weak, both;  // [steps, layers, E]; both [steps, layers, 2, E]

  Streams(int rows, double correlation) : strong(random_values(size(rows, experts), 5, 1)), weak(strong.size()) {
    const Values noise = random_values(strong.size(), 6, 1);
    const auto mix = static_cast<float>(std::sqrt(1 - correlation * correlation));
    for (std::size_t i = 0; i < weak.size(); ++i)
      weak[i] = static_cast<float>(correlation) * strong[i] + mix * noise[i];
    for (int t = 0; t < rows; ++t)
      for (const Values* stream : {&strong, &weak})
        both.insert(both.end(), stream->begin() + static_cast<std::ptrdiff_t>(t) * experts,
                    stream->begin() + static_cast<std::ptrdiff_t>(t + 1) * experts);
  }
  /// Rows whose weak pick, the second of its stream, is not among the strong stream's two.
  double fresh() const {
    const moe::TopK top2{.experts = experts, .k = k};
    int fresh = 0;
    const int rows = static_cast<int>(strong.size()) / experts;
    for (int t = 0; t < rows; ++t) {
      moe::Slot s[k], w[k];
      moe::select(top2, {.logits = {strong.data() + size(t, experts), experts}}, {s, k});
      moe::select(top2, {.logits = {weak.data() + size(t, experts), experts}}, {w, k});
      fresh += w[1].expert != s[0].expert && w[1].expert != s[1].expert ? 1 : 0;
    }
    return static_cast<double>(fresh) / rows;
  }
};

/// Streams as far apart as the paper measured.
Streams diverging_streams(int rows) {
  double low = 0, high = 1;
  for (int i = 0; i < 20; ++i) {
    const double middle = (low + high) / 2;
    (Streams(rows, middle).fresh() > fresh_share ? low : high) = middle;
  }
  return {rows, high};
}

std::vector<Report> scmoe(const Options& o, const Weights& weights, bool with_dense) {
  const Streams streams = diverging_streams(o.steps * o.layers);
  const moe::SelfContrast<moe::TopK> router{{.experts = experts, .k = k},
                                            {moe::StreamRule::top(k), moe::StreamRule::rank(2)}};
  Stack<moe::SelfContrast<moe::TopK>> stack(weights, router, o.hidden, 2);
  constexpr int rules[] = {0, 1};
  const auto step = [&](const Values& logits, int i, int rows, const int* rule) {
    stack.step(logits.data() + size(i * o.layers * rows, experts), rows, rule, with_dense);
  };
  const std::vector<double> s = seconds_per_step(
      o, o.steps,
      {[&](int i) { step(streams.strong, i, 1, rules); }, [&](int i) { step(streams.both, i, 2, rules); },
       [&](int i) {
         step(streams.strong, i, 1, rules);
         step(streams.weak, i, 1, rules + 1);
       }});
  const double expert = o.layers * weights.bytes_of_expert(), dense = with_dense ? dense_share * expert : 0;
  const double greedy = dense + k * expert, fused = dense + (k + streams.fresh()) * expert;
  const double passes = 2 * dense + (k + 1) * expert;
  const std::string part = with_dense ? ", attention's weights too" : ", experts alone";
  return {{"SCMoE fused / greedy" + part, s[1] / s[0], 1.30, fused / greedy, fused, s[1]},
          {"SCMoE fused / two passes" + part, s[1] / s[2], 0.85, fused / passes, fused, s[1]}};
}

/// Text, or JSON.
void print(const std::vector<Report>& reports, const ceilings::Ceilings& ceiling, bool json) {
  const double read = ceiling.read_bytes_per_s * 1e-9, multiply = ceiling.flop_per_s * 1e-9;
  if (json) {
    std::printf("{\"read_GB_per_s\": %.2f, \"GFLOP_per_s\": %.1f, \"ratios\": [", read, multiply);
  } else {
    std::printf("memory is read at %.1f GB/s; %.0f GFLOP/s\n%-50s %6s %6s %9s %8s %8s %11s\n", read, multiply, "",
                "ratio", "bound", "by weight", "MB/step", "ms/step", "of ceiling");
  }
  const char* separator = "";
  for (const Report& r : reports) {
    const double of_ceiling = r.bytes / r.seconds / ceiling.read_bytes_per_s;
    std::printf(
        json ? "%s\n {\"name\": \"%s\", \"ratio\": %.4f, \"bound\": %.2f, \"by_weight\": %.4f, \"step_MB\": %.1f, "
               "\"step_ms\": %.4f, \"of_read_ceiling\": %.3f}"
             : "%s%-50s %6.3f %6.2f %9.3f %8.0f %8.2f %11.2f\n",
        separator, r.name.c_str(), r.ratio, r.bound, r.expected, r.bytes * 1e-6, r.seconds * 1e3, of_ceiling);
    separator = json ? "," : "";
  }
  if (json) std::printf("]}\n");
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app{"Ratios of AdaMoE and SCMoE steps to top-2 steps over experts that exceed the caches."};
  app.add_option("--hidden", o.hidden, "width of the layers")->capture_default_str()->check(CLI::Range(8, 1 << 15));
  app.add_option("--inter", o.inter, "width inside an expert")->capture_default_str()->check(CLI::Range(8, 1 << 16));
  app.add_option("--layers", o.layers, "layers of a step")->capture_default_str()->check(CLI::Range(1, 64));
  app.add_option("--steps", o.steps, "steps of a round")->capture_default_str()->check(CLI::Range(1, 1 << 16));
  app.add_option("--rounds", o.rounds, "rounds, of which the median counts")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--threads", o.threads, "threads, the caller included; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_flag("--json", o.json, "for machines");
  try {
    app.parse(argc, argv);
    const moe::Cpu cpu{.threads = o.threads};
    const ceilings::Ceilings ceiling = ceilings::measure(cpu);
    const Weights weights(o, cpu);
    std::vector<Report> reports{adamoe(o, weights, 1), adamoe(o, weights, 64)};
    for (const bool with_dense : {false, true})
      for (const Report& report : scmoe(o, weights, with_dense)) reports.push_back(report);
    print(reports, ceiling, o.json);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "policy_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
