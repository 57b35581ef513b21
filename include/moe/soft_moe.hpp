// SoftMoE: experts compute mixtures of rows instead of rows; a wrapper around any layer on the host.
#pragma once

#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <moe/frame.hpp>

namespace moe {

/// y = C experts(D^T x), where D and C [T,S] are softmaxes of the same logits, over rows and over the S = E * p slots
/// (Puigcerver et al. 2023). Slot s is computed by expert s / p of `layer`, with weight 1.
///
/// logits = l2(x) (scale * l2(phi))^T, each row divided by its norm + 1e-6. Nothing is dropped and every expert
/// computes p rows, but every output depends on all rows of the call: for encoders, and there is no `decode`. The
/// layer's own gate and router are not asked (use `NoGate`); it has no shared experts, which would see mixtures. O(T S
/// H) beside the experts; allocates nothing in `forward`.
template <class Layer>
class SoftMoE {
  static_assert(std::is_same_v<typename Layer::memory, host_memory>,
                "moe::SoftMoE: works on the host; this layer's memory is another");

 public:
  /// `phi` [E * p, H] is copied. Throws Error if it does not fit the layer.
  SoftMoE(Layer layer, View<const float> phi, float scale = 1) : layer_(std::move(layer)), phi_(), slots_(phi.rows) {
    constexpr const char* where = "moe::SoftMoE";
    const int experts = layer_.storage().num_experts();
    require_equal(where, "columns of phi", layer_.hidden(), phi.cols);
    if (phi.rows < 1 || phi.rows % experts != 0)
      raise(Error(where, "rows of phi", concat("a multiple of the ", experts, " experts"), std::to_string(phi.rows)));
    phi_.resize(count(phi.rows) * count(phi.cols));
    const View<float> own(phi_.data(), phi.rows, phi.cols);
    for (int s = 0; s < slots_; ++s) {
      normalise(phi.row(s), own.row(s));
      for (float& w : own.row(s)) w *= scale;
      table_.push_back({s / (slots_ / experts), 1});
    }
  }

  /// Memory that `forward` works in, for calls of at most `rows` rows; one per thread.
  class Workspace {
   public:
    Workspace(const SoftMoE& soft, int rows)
        : rows_(rows), layer_(soft.layer_.workspace(soft.slots_)), mixing_(measure(soft, rows)) {}

   private:
    friend class SoftMoE;
    static std::size_t measure(const SoftMoE& soft, int rows) {
      Arena arena;
      soft.carve(arena, rows);
      return arena.used();
    }
    int rows_;
    moe::Workspace<host_memory> layer_;
    Buffer mixing_;
  };
  Workspace workspace(int rows) const { return {*this, rows}; }

  /// x and y [T,H]. Throws Error for shapes that do not fit, and what the layer throws.
  void forward(View<const float> x, View<float> y, Workspace& ws) const {
    check(x, y, ws);
    if (x.rows == 0) return;
    Arena arena(ws.mixing_.data(), ws.mixing_.bytes());
    const Mixing m = carve(arena, x.rows);
    const auto& executor = layer_.executor();
    Frame<host_memory> frame;
    executor.rows(frame, x.rows, [&](int t) { normalise(x.row(t), m.x.row(t)); });
    executor.linear(frame, m.x, View<const float>(phi_.data(), slots_, x.cols), nullptr, m.combine);
    executor.rows(frame, slots_, [&](int s) { softmax_of_column(m.combine, s, m.dispatch.row(s)); });
    executor.rows(frame, x.rows, [&](int t) { softmax(m.combine.row(t)); });

    executor.rows(frame, x.cols, [&](int i) { transpose(x, i, m.x_columns.row(i)); });
    executor.linear(frame, m.dispatch, m.x_columns, nullptr, m.in);
    // The layer only reads the table.
    const RoutingTable<host_memory> table{{const_cast<Slot*>(table_.data()), slots_, 1}, nullptr};
    layer_.forward(Call<host_memory>{.x = m.in, .y = m.out, .table = table}, ws.layer_);
    executor.rows(frame, x.cols, [&](int i) { transpose(m.out, i, m.out_columns.row(i)); });
    executor.linear(frame, m.combine, m.out_columns, nullptr, y);
  }

  int slots() const noexcept { return slots_; }
  const Layer& layer() const noexcept { return layer_; }

 private:
  struct Mixing {
    View<float> x;                       // [T,H] normalised
    View<float> combine, dispatch;       // [T,S], first the logits; [S,T]
    View<float> in, out;                 // [S,H] of the experts
    View<float> x_columns, out_columns;  // [H,T], [H,S]
  };
  Mixing carve(Arena& arena, int rows) const {
    const int hidden = layer_.hidden();
    const auto matrix = [&](int r, int c) { return arena.template matrix<float, host_memory>(r, c); };
    Mixing m;
    m.x = matrix(rows, hidden);
    m.combine = matrix(rows, slots_);
    m.dispatch = matrix(slots_, rows);
    m.in = matrix(slots_, hidden);
    m.out = matrix(slots_, hidden);
    m.x_columns = matrix(hidden, rows);
    m.out_columns = matrix(hidden, slots_);
    return m;
  }
  void check(View<const float> x, View<float> y, const Workspace& ws) const {
    constexpr const char* where = "moe::SoftMoE::forward";
    require_equal(where, "columns of x", layer_.hidden(), x.cols);
    require_equal(where, "rows of y", x.rows, y.rows);
    require_equal(where, "columns of y", x.cols, y.cols);
    if (x.rows > ws.rows_) raise(Error(where, "rows", concat("at most ", ws.rows_), std::to_string(x.rows)));
  }
  static std::size_t count(int n) noexcept { return static_cast<std::size_t>(n); }

  static void normalise(Row<const float> from, Row<float> to) noexcept {
    float squares = 0;
    for (const float v : from) squares = fma(v, v, squares);
    const float inverse = 1 / (std::sqrt(squares) + 1e-6f);
    for (int i = 0; i < to.size(); ++i) to[i] = from[i] * inverse;
  }
  static void softmax(Row<float> row) noexcept {
    float best = -HUGE_VALF, sum = 0;
    for (const float v : row) best = v > best ? v : best;
    for (float& v : row) sum += v = exp(v - best);
    for (float& v : row) v /= sum;
  }
  static void transpose(View<const float> m, int column, Row<float> to) noexcept {
    for (int r = 0; r < m.rows; ++r) to[r] = m.row(r)[column];
  }
  static void softmax_of_column(View<const float> m, int column, Row<float> to) noexcept {
    transpose(m, column, to);
    softmax(to);
  }

  Layer layer_;
  std::vector<float> phi_;   // [S,H], scaled and normalised
  std::vector<Slot> table_;  // [S,1]
  int slots_ = 0;
};

}  // namespace moe
