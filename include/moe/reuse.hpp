// ReuseOutputs: a layer that gives a row's last result again while its input has hardly moved.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <moe/concepts.hpp>
#include <moe/error.hpp>
#include <moe/frame.hpp>

namespace moe {

struct ReuseOptions {
  int positions = 0;    // rows at positions [0, positions) are remembered, all others computed
  float tolerance = 0;  // a row is reused while ||x - x_last|| <= tolerance * ||x_last||
  int audit_every = 0;  // one in n rows that could be reused is computed instead, and the error measured; 0: none
  int rows = 256;       // computed in one call of the layer, at most
};

struct ReuseStatistics {
  std::uint64_t rows = 0, reused = 0, audited = 0;
  double error_sum = 0, largest_error = 0;  // of audited rows: ||y_last - y|| / ||y||

  double share() const noexcept { return rows == 0 ? 0.0 : static_cast<double>(reused) / static_cast<double>(rows); }
  double mean_error() const noexcept { return audited == 0 ? 0.0 : error_sum / static_cast<double>(audited); }
};

/// Around any layer with `forward(Call, Workspace)` and `hidden()`: for iterations over the same positions, as in
/// diffusion (the rule behind HarmoniCa, Huang et al. 2025, and EffiDiffAct, at the grain of rows); of no use to
/// autoregressive decoding. The last input that was computed at each position, and its output, are kept:
/// 8 * positions * hidden bytes, taken at construction. O(hidden) per row on top of what is computed.
///
/// Rows to compute go to the layer together, with their positions, tokens and rules. With tolerance 0 results do not
/// change: rows are independent of each other (batch routers and capacities do not compile here), provided that the
/// routing does not depend on the seed. A row whose token or rule changed is computed. Call `forget()` when weights,
/// the mask of allowed experts or `max_slots` changed. Calls that bring `x_router`, logits, a table, a router state,
/// modalities or picks, or other types than float32, are handed on as they are. Not for several threads at once.
template <class Layer>
class ReuseOutputs {
 public:
  /// Throws Error for options out of range.
  ReuseOutputs(Layer layer, ReuseOptions options)
      : layer_(std::move(layer)), options_(options), hidden_(layer_.hidden()) {
    if constexpr (requires { layer_.router(); }) {
      using Router = std::remove_cvref_t<decltype(layer_.router())>;
      static_assert(
          TokenRouter<Router> && !has_column_rule<Router>(),
          "moe::ReuseOutputs: this layer's router looks at the whole batch, so its rows cannot be computed one "
          "without the other (docs/policies.md#router)");
    }
    constexpr const char* where = "moe::ReuseOutputs";
    if (options.positions < 0) raise(Error(where, "positions", "0 or more", std::to_string(options.positions)));
    if (options.rows < 1) raise(Error(where, "rows", "at least 1", std::to_string(options.rows)));
    if (!(options.tolerance >= 0)) raise(Error(where, "tolerance", "0 or more", std::to_string(options.tolerance)));
    const auto floats = [&](int rows) { return static_cast<std::size_t>(rows) * static_cast<std::size_t>(hidden_); };
    const auto rows = static_cast<std::size_t>(options.rows);
    last_.resize(static_cast<std::size_t>(options.positions));
    last_x_.resize(floats(options.positions));
    last_y_.resize(floats(options.positions));
    x_.resize(floats(options.rows));
    y_.resize(floats(options.rows));
    for (std::vector<int>* list : {&tokens_, &rules_, &positions_}) list->resize(rows);
    pending_.resize(rows);
  }

  /// As the layer's own; throws what it throws, and then remembers nothing of the rows it was computing.
  void forward(const Call<>& call, Workspace<>& ws) {
    const bool more_inputs = call.x_router.data != nullptr || call.logits.data != nullptr || call.brings_table() ||
                             call.router_state_in.data != nullptr || call.router_state_out.data != nullptr;
    const bool more_facts = call.context.modalities != nullptr || call.context.picks != nullptr;
    const bool other_types = !call.x.is_float() || !call.y.is_float();
    if (more_inputs || more_facts || other_types || call.x.cols != hidden_ || call.y.rows != call.x.rows)
      return layer_.forward(call, ws);
    int pending = 0;
    for (int t = 0; t < call.x.rows; ++t) {
      const bool reusable = is_near(call, t), audit = reusable && audit_is_due();
      if (reusable && !audit) {
        reuse(call, t);
        continue;
      }
      pending_[static_cast<std::size_t>(pending)] = {t, audit};
      if (++pending == options_.rows) compute(call, ws, std::exchange(pending, 0));
    }
    if (pending > 0) compute(call, ws, pending);
    statistics_.rows += static_cast<std::uint64_t>(call.x.rows);
  }
  void forward(View<const float> x, View<float> y, Workspace<>& ws) { forward(Call<>{.x = x, .y = y}, ws); }

  void forget() noexcept {
    for (Last& last : last_) last.known = false;
  }
  WorkspaceSize workspace(int max_tokens) const {
    return layer_.workspace(max_tokens < options_.rows ? max_tokens : options_.rows);
  }
  int hidden() const noexcept { return hidden_; }
  const Layer& layer() const noexcept { return layer_; }
  const ReuseStatistics& statistics() const noexcept { return statistics_; }

 private:
  struct Last {
    int token = -1, rule = 0;
    bool known = false;
  };
  struct Pending {
    int row = 0;
    bool audit = false;  // computed to compare
  };

  Row<float> at(std::vector<float>& of, int row) noexcept {
    return {of.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(hidden_), hidden_};
  }
  static void copy(Row<const float> from, Row<float> to) noexcept {
    for (int i = 0; i < from.size(); ++i) to[i] = from[i];
  }
  static double squared(Row<const float> a) noexcept {
    double sum = 0;
    for (const float v : a) sum += static_cast<double>(v) * static_cast<double>(v);
    return sum;
  }
  static double squared_distance(Row<const float> a, Row<const float> b) noexcept {
    double sum = 0;
    for (int i = 0; i < a.size(); ++i) {
      const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      sum += d * d;
    }
    return sum;
  }
  static RowContext context_of(const Call<>& call, int t) noexcept { return call.context.at(t, {}); }
  /// Null: this position is not remembered.
  Last* last_of(const RowContext& row) noexcept {
    const bool inside = row.position >= 0 && row.position < options_.positions;
    return inside ? &last_[static_cast<std::size_t>(row.position)] : nullptr;
  }

  /// Whether the last y of this row's position may be its y.
  bool is_near(const Call<>& call, int t) noexcept {
    const RowContext row = context_of(call, t);
    const Last* last = last_of(row);
    if (last == nullptr || !last->known || last->token != row.token || last->rule != row.rule) return false;
    const Row<const float> before = at(last_x_, row.position);
    const double limit = static_cast<double>(options_.tolerance) * static_cast<double>(options_.tolerance);
    return squared_distance(call.x.floats().row(t), before) <= limit * squared(before);
  }
  /// By chance, so that it is not the same positions' turn in every iteration.
  bool audit_is_due() noexcept {
    const auto number = static_cast<int>(reusable_++ & 0x7fffffffu);
    return options_.audit_every > 0 && counter_random(0, number, 0) * static_cast<float>(options_.audit_every) < 1;
  }
  void reuse(const Call<>& call, int t) noexcept {
    copy(at(last_y_, context_of(call, t).position), call.y.floats().row(t));
    ++statistics_.reused;
  }

  void compute(const Call<>& call, Workspace<>& ws, int n) {
    for (int i = 0; i < n; ++i) {
      const auto at_list = static_cast<std::size_t>(i);
      const RowContext row = context_of(call, pending_[at_list].row);
      copy(call.x.floats().row(pending_[at_list].row), at(x_, i));
      tokens_[at_list] = row.token;
      rules_[at_list] = row.rule;
      positions_[at_list] = row.position;
    }
    Call<> inner = call;
    inner.x = {x_.data(), n, hidden_};
    inner.y = {y_.data(), n, hidden_};
    inner.context.first_row = 0;
    inner.context.positions = positions_.data();
    if (call.context.tokens != nullptr) inner.context.tokens = tokens_.data();
    if (call.context.rules != nullptr) inner.context.rules = rules_.data();
    layer_.forward(inner, ws);
    for (int i = 0; i < n; ++i) finish(call, i);
  }
  void finish(const Call<>& call, int i) {
    const Pending& pending = pending_[static_cast<std::size_t>(i)];
    const RowContext row = context_of(call, pending.row);
    copy(at(y_, i), call.y.floats().row(pending.row));
    Last* last = last_of(row);
    if (last == nullptr) return;
    if (pending.audit) record(at(last_y_, row.position), at(y_, i));
    *last = {row.token, row.rule, true};
    copy(at(x_, i), at(last_x_, row.position));
    copy(at(y_, i), at(last_y_, row.position));
  }
  void record(Row<const float> before, Row<const float> now) noexcept {
    const double size = squared(now), apart = squared_distance(before, now);
    const double error = size > 0 ? std::sqrt(apart / size) : (apart > 0 ? 1.0 : 0.0);
    ++statistics_.audited;
    statistics_.error_sum += error;
    if (error > statistics_.largest_error) statistics_.largest_error = error;
  }

  Layer layer_;
  ReuseOptions options_;
  int hidden_;
  std::vector<Last> last_;                       // [positions]
  std::vector<float> last_x_, last_y_;           // [positions, hidden]
  std::vector<float> x_, y_;                     // [rows, hidden] of the rows that are computed
  std::vector<Pending> pending_;                 // [rows]
  std::vector<int> tokens_, rules_, positions_;  // [rows]
  std::uint64_t reusable_ = 0;
  ReuseStatistics statistics_;
};

}  // namespace moe
