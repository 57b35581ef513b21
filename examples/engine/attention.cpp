#include "attention.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace engine {

// ---- Rotation

Rotation::Rotation(int head_dim, double theta, int most_rows)
    : cosines_(most_rows, head_dim / 2), sines_(most_rows, head_dim / 2) {
  for (int i = 0; i < head_dim; i += 2) {
    // Rounded to float where the reference rounds: late positions multiply a difference.
    const auto power = static_cast<float>(std::pow(theta, static_cast<double>(i) / head_dim));
    frequencies_.push_back(1.0f / power);
  }
}

void Rotation::prepare(int first, int rows) {
  for (int t = 0; t < rows; ++t) {
    for (int i = 0; i < cosines_.cols(); ++i) {
      const float angle = static_cast<float>(first + t) * frequencies_[static_cast<std::size_t>(i)];
      cosines_.view().row(t)[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sines_.view().row(t)[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

void Rotation::apply(int t, float* head) const {
  const int half = cosines_.cols();
  const moe::Row<const float> cosine = cosines_.view().row(t), sine = sines_.view().row(t);
  for (int i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + half] = b * cosine[i] + a * sine[i];
  }
}

namespace {

/// e^x for x <= 0 within 2 ulp, about 0 below -87. Cephes' polynomial as in moe::exp, but without fma, which a baseline
/// build would call as a function: this one vectorises.
float exp_of_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 0x1.715476p+0f + 0x1.8p+23f;  // the nearest integer to x / ln 2, in the low bits
  const float n = shifted - 0x1.8p+23f;
  const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  float p = 1.9875691500e-4f;
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    p = p * r + c;
  }
  const float power_of_two = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23) + (127u << 23));
  return (p * (r * r) + r + 1.0f) * power_of_two;
}

/// Softmax-weighted sum of values over the first `end` positions that a query sees, block by block with a running
/// maximum (Milakov & Gimelshein 2018): the order of the sums does not depend on how the tokens came.
class HeadSum {
 public:
  HeadSum(const float* query, int width, float* out) : query_(query), width_(width), out_(out) {
    std::fill_n(out_, width_, 0.0f);
  }

  /// The head's part of a row of keys or values begins at `offset`.
  void over(const KvCache::Seen& seen, int offset, int end) {
    for (int begin = 0; begin < end; begin += block) {
      const int count = std::min(block, end - begin);
      score(seen, offset, begin, count);
      int i = 0;
      for (; i + 16 <= width_; i += 16) add_values<16>(seen, offset + i, begin, count, out_ + i);
      for (; i < width_; ++i) add_values<1>(seen, offset + i, begin, count, out_ + i);
    }
    for (int i = 0; i < width_; ++i) out_[i] /= sum_;
  }

 private:
  static constexpr int block = 64;

  void score(const KvCache::Seen& seen, int offset, int begin, int count) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(width_));
    float largest = largest_;
    for (int j = 0; j < count; ++j) {
      weights_[j] = dot(query_, seen.key(begin + j) + offset, width_) * scale;
      largest = std::max(largest, weights_[j]);
    }
    if (largest > largest_) rescale(largest);
    for (int j = 0; j < count; ++j) weights_[j] = exp_of_negative(weights_[j] - largest_);
    for (int j = 0; j < count; ++j) sum_ += weights_[j];
  }
  /// out += weighted values of a block of positions, for so few columns that the sums stay in registers.
  template <int columns>
  void add_values(const KvCache::Seen& seen, int offset, int begin, int count, float* out) const {
    float sums[columns];
    std::copy_n(out, columns, sums);
    for (int j = 0; j < count; ++j) {
      const float* const value = seen.value(begin + j) + offset;
      for (int c = 0; c < columns; ++c) sums[c] += weights_[j] * value[c];
    }
    std::copy_n(sums, columns, out);
  }
  void rescale(float largest) {
    const float factor = exp_of_negative(largest_ - largest);
    sum_ *= factor;
    for (int i = 0; i < width_; ++i) out_[i] *= factor;
    largest_ = largest;
  }

  const float* query_;
  int width_;
  float* out_;
  float weights_[block];
  float largest_ = -std::numeric_limits<float>::infinity();
  float sum_ = 0;
};

void clamp(Rows rows, float limit) {
  for (int t = 0; t < rows.rows; ++t) {
    for (float& value : rows.row(t)) value = std::clamp(value, -limit, limit);
  }
}

}  // namespace

// ---- Attention

Attention::Attention(const moe::io::ModelConfig& config, const moe::Cpu& cpu, int most_rows)
    : config_(config),
      cpu_(cpu),
      rotation_(config.head_dim, config.rope_theta, most_rows),
      queries_(most_rows, config.heads * config.head_dim),
      keys_(most_rows, config.kv_heads * config.head_dim),
      values_(most_rows, config.kv_heads * config.head_dim),
      attended_(most_rows, config.heads * config.head_dim) {}

void Attention::begin(int first_position, int tokens) {
  first_position_ = first_position;
  tokens_ = tokens;
  rotation_.prepare(first_position, tokens);
}

void Attention::forward(const AttentionWeights& weights, ConstRows in, std::span<KvCache> caches, Rows out) {
  const Rows queries = queries_.first(in.rows), keys = keys_.first(in.rows), values = values_.first(in.rows);
  weights.query.apply(cpu_, in, queries);
  weights.key.apply(cpu_, in, keys);
  weights.value.apply(cpu_, in, values);
  prepare_head_rows(queries, weights.query_gain);
  prepare_head_rows(keys, weights.key_gain);
  if (config_.clip_qkv) clamp(values, *config_.clip_qkv);
  store(caches, keys, values);
  const Rows attended = attended_.first(in.rows);
  attend(caches, queries, attended);
  weights.output.apply(cpu_, attended, out);
}

/// Norm, clipping and rotation of queries or keys.
void Attention::prepare_head_rows(Rows rows, const std::vector<float>& gain) const {
  using moe::io::QkNorm;
  if (config_.qk_norm == QkNorm::whole_row) rms_norm(rows, gain, config_.rms_norm_eps, rows);
  for (int t = 0; t < rows.rows; ++t) {
    for (int at = 0; at < rows.cols && config_.qk_norm == QkNorm::per_head; at += config_.head_dim) {
      float* const head = rows.row(t).data() + at;
      rms_norm(head, gain, config_.rms_norm_eps, head);
    }
  }
  if (config_.clip_qkv) clamp(rows, *config_.clip_qkv);
  for (int t = 0; t < rows.rows; ++t) {
    for (int at = 0; at < rows.cols; at += config_.head_dim) rotation_.apply(t % tokens_, rows.row(t).data() + at);
  }
}

void Attention::store(std::span<KvCache> caches, Rows keys, Rows values) const {
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(keys.cols);
  int row = 0;
  for (KvCache& cache : caches) {
    cache.reserve(first_position_ + tokens_);
    for (int position = first_position_; position < first_position_ + tokens_; ++position, ++row) {
      std::memcpy(cache.key(position), keys.row(row).data(), bytes);
      std::memcpy(cache.value(position), values.row(row).data(), bytes);
    }
  }
}

void Attention::attend(std::span<const KvCache> caches, Rows queries, Rows out) const {
  const int heads = config_.heads, width = config_.head_dim, queries_per_key = heads / config_.kv_heads;
  cpu_.pool->run(queries.rows * heads, [&](int task) {
    const int t = task / heads, head = task % heads, position = first_position_ + t % tokens_;
    const KvCache& cache = caches[static_cast<std::size_t>(t / tokens_)];
    const int first = config_.sliding_window ? std::max(0, position - *config_.sliding_window + 1) : 0;
    HeadSum sum(queries.row(t).data() + head * width, width, out.row(t).data() + head * width);
    sum.over(cache.seen_from(first), head / queries_per_key * width, position + 1 - first);
  });
}

}  // namespace engine
