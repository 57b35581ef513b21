// Rotary positions, attention against a plain oracle in double precision, and caches that roll.
#include "attention.hpp"

#include "support.hpp"

using namespace engine_test;

namespace {

using Row64 = std::vector<double>;
using Rows64 = std::vector<Row64>;

engine::Matrix random_rows(int rows, int cols, std::uint64_t seed) {
  engine::SplitMix64 random(seed);
  engine::Matrix m(rows, cols);
  for (int t = 0; t < rows; ++t) {
    for (float& value : m.view().row(t)) value = static_cast<float>(random.uniform() * 2 - 1);
  }
  return m;
}

// ---- the oracle: formulas as the papers and transformers' sources have them, one position at a time

Row64 project(const engine::Projection& p, moe::Row<const float> x) {
  Row64 y;
  for (int n = 0; n < p.weight.rows(); ++n) {
    double sum = p.bias.empty() ? 0.0 : double{p.bias[static_cast<std::size_t>(n)]};
    for (int i = 0; i < x.size(); ++i) sum += double{x[i]} * double{p.weight.view().row(n)[i]};
    y.push_back(sum);
  }
  return y;
}

void normalise(std::span<double> x, std::span<const float> gain, double epsilon) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] *= double{gain[i]} / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  }
}

void rotate(std::span<double> head, int position, double theta) {
  const std::size_t half = head.size() / 2;
  const Row64 old(head.begin(), head.end());
  for (std::size_t i = 0; i < head.size(); ++i) {
    const double angle =
        position * std::pow(theta, -2.0 * static_cast<double>(i % half) / static_cast<double>(head.size()));
    const double turned = i < half ? -old[i + half] : old[i - half];
    head[i] = old[i] * std::cos(angle) + turned * std::sin(angle);
  }
}

Row64 heads_ready(const moe::io::ModelConfig& c, Row64 x, std::span<const float> gain, int position) {
  if (c.qk_norm == moe::io::QkNorm::whole_row) normalise(x, gain, c.rms_norm_eps);
  const auto width = static_cast<std::size_t>(c.head_dim);
  for (std::size_t at = 0; at < x.size(); at += width) {
    const std::span<double> head = std::span(x).subspan(at, width);
    if (c.qk_norm == moe::io::QkNorm::per_head) normalise(head, gain, c.rms_norm_eps);
    if (c.clip_qkv) {
      for (double& v : head) v = std::clamp(v, -double{*c.clip_qkv}, double{*c.clip_qkv});
    }
    rotate(head, position, c.rope_theta);
  }
  return x;
}

Rows64 oracle(const moe::io::ModelConfig& c, const engine::AttentionWeights& w, engine::ConstRows in) {
  Rows64 queries, keys, values, out;
  for (int t = 0; t < in.rows; ++t) {
    queries.push_back(heads_ready(c, project(w.query, in.row(t)), w.query_gain, t));
    keys.push_back(heads_ready(c, project(w.key, in.row(t)), w.key_gain, t));
    values.push_back(project(w.value, in.row(t)));
    if (c.clip_qkv) {
      for (double& v : values.back()) v = std::clamp(v, -double{*c.clip_qkv}, double{*c.clip_qkv});
    }
  }
  const auto width = static_cast<std::size_t>(c.head_dim);
  for (std::size_t t = 0; t < queries.size(); ++t) {
    Row64 joined(queries[t].size());
    for (std::size_t h = 0; h < static_cast<std::size_t>(c.heads); ++h) {
      const std::size_t kv = h / static_cast<std::size_t>(c.heads / c.kv_heads);
      Row64 p(t + 1, 0.0);
      double sum = 0;
      for (std::size_t s = 0; s <= t; ++s) {
        if (c.sliding_window && t - s >= static_cast<std::size_t>(*c.sliding_window)) continue;
        double score = 0;
        for (std::size_t i = 0; i < width; ++i) score += queries[t][h * width + i] * keys[s][kv * width + i];
        sum += p[s] = std::exp(score / std::sqrt(static_cast<double>(width)));
      }
      for (std::size_t s = 0; s <= t; ++s) {
        for (std::size_t i = 0; i < width; ++i) joined[h * width + i] += p[s] / sum * values[s][kv * width + i];
      }
    }
    const std::vector<float> rounded(joined.begin(), joined.end());
    out.push_back(project(w.output, {rounded.data(), static_cast<int>(rounded.size())}));
  }
  return out;
}

/// The first layer's attention of a random model.
struct Setup {
  explicit Setup(const moe::io::Json& config)
      : written(folder.path(), config), checkpoint(folder.path()), backbone(engine::load_backbone(checkpoint)) {}
  TemporaryFolder folder;
  RandomModel written;
  moe::io::Checkpoint checkpoint;
  engine::Backbone backbone;

  std::vector<float> run(engine::ConstRows in, int step, bool rolling) const {
    const moe::io::ModelConfig& c = checkpoint.config();
    engine::Attention attention(c, moe::Cpu{.threads = 2}, step);
    engine::KvCache cache(c.kv_heads * c.head_dim, rolling ? c.sliding_window : std::nullopt, step);
    engine::Matrix out(in.rows, in.cols);
    for (int t = 0; t < in.rows; t += step) {
      const int n = std::min(step, in.rows - t);
      attention.begin(t, n);
      attention.forward(backbone.layers[0].attention, in.slice(t, n), std::span(&cache, 1), out.view().slice(t, n));
    }
    return copy(std::as_const(out).view());
  }
};

void check_against_oracle(const moe::io::Json& config) {
  const Setup setup(config);
  const engine::Matrix in = random_rows(150, setup.checkpoint.config().hidden(), 3);
  std::vector<float> expected;
  for (const Row64& row : oracle(setup.checkpoint.config(), setup.backbone.layers[0].attention, in.view())) {
    expected.insert(expected.end(), row.begin(), row.end());
  }
  const std::vector<float> found = setup.run(in.view(), 150, true);
  CHECK(difference(found, expected) <= 5e-6);
  for (const int step : {1, 7, 64}) CHECK(same(setup.run(in.view(), step, true), found));
}

}  // namespace

TEST_CASE("a rotation turns element i with element i + half by position * theta^(-2i/d)") {
  constexpr int width = 16;
  engine::Rotation rotation(width, 10000.0, 4);
  for (const int first : {0, 5, 1000}) {
    rotation.prepare(first, 4);
    for (int t = 0; t < 4; ++t) {
      const engine::Matrix start = random_rows(1, width, static_cast<std::uint64_t>(first + t));
      std::vector<float> head = copy(start.view());
      Row64 expected(head.begin(), head.end());
      rotation.apply(t, head.data());
      rotate(expected, first + t, 10000.0);
      for (std::size_t i = 0; i < width; ++i) CHECK(std::abs(double{head[i]} - expected[i]) < 1e-4);
      if (first + t == 0) CHECK(same(head, copy(start.view())));
    }
  }
}

TEST_CASE("grouped queries") { check_against_oracle(small_config("mixtral")); }

TEST_CASE("a sliding window, narrower and wider than a block of keys") {
  for (const int window : {1, 5, 100}) {
    CAPTURE(window);
    moe::io::Json config = small_config("mixtral");
    config["sliding_window"] = window;
    check_against_oracle(config);
  }
}

TEST_CASE("norms of each head, and biases (Qwen3)") {
  moe::io::Json config = small_config("qwen3_moe");
  config["head_dim"] = 16;  // heads * head_dim is not the hidden width
  config["attention_bias"] = true;
  check_against_oracle(config);
}

TEST_CASE("norms of the whole row, and clipping (OLMoE)") {
  moe::io::Json config = small_config("olmoe");
  check_against_oracle(config);
  config["clip_qkv"] = 0.3;
  check_against_oracle(config);
}

TEST_CASE("a cache that rolls gives the same bits as one that keeps everything") {
  moe::io::Json config = small_config("mixtral");
  config["sliding_window"] = 9;
  const Setup setup(config);
  const engine::Matrix in = random_rows(200, 32, 5);
  for (const int step : {1, 3, 9, 50}) {
    CAPTURE(step);
    CHECK(same(setup.run(in.view(), step, true), setup.run(in.view(), step, false)));
  }
}

TEST_CASE("a model with a window goes on beyond its positions, in steps of any size") {
  const TemporaryFolder folder;
  moe::io::Json config = small_config("mixtral");
  config["sliding_window"] = 11;
  const RandomModel written(folder.path(), config);
  const engine::Model model(folder.path(), {});
  std::vector<int> tokens;
  for (int i = 0; i < 700; ++i) tokens.push_back(i * i % 40);
  const std::vector<float> whole = logits_of(model, tokens);
  engine::Sequence sequence(model);
  CHECK(same(logits_in_steps(sequence, tokens, 1), whole));
  CHECK(same(logits_in_steps(sequence, tokens, 300), whole));
  CHECK(sequence.position() == 700);
}

TEST_CASE("a model without a window ends with its positions, clearly") {
  const TemporaryFolder folder;
  const RandomModel written(folder.path(), small_config("mixtral"));
  const engine::Model model(folder.path(), {});
  engine::Sequence sequence(model);
  const std::vector<int> tokens(64, 1), one{1}, outside{40};
  CHECK_THROWS_WITH_AS(sequence.append(outside, engine::LogitsOf::last_token), doctest::Contains("0 to 39"),
                       moe::Error);
  sequence.append(tokens, engine::LogitsOf::last_token);
  CHECK_THROWS_WITH_AS(sequence.append(one, engine::LogitsOf::last_token), doctest::Contains("at most 64"), moe::Error);
  sequence.restart();
  CHECK(sequence.append(one, engine::LogitsOf::last_token).rows == 1);
}
