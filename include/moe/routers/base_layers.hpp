// BaseLayers: every expert gets the same number of rows, and the sum of their logits is the largest possible.
#pragma once

#include <cmath>
#include <string>

#include <moe/error.hpp>
#include <moe/router_hooks.hpp>

namespace moe {

/// One expert per row, at most ceil(T / E) rows per expert, the sum of the chosen logits within T * epsilon of the best
/// such assignment; the weight is sigmoid(logit). Lewis et al. 2021 (BASE layers); for training: evaluate
/// with `TopK{.k = 1, .score = Score::sigmoid}`.
///
/// An auction (Bertsekas and Castanon 1989, similar objects; epsilon scaling) in integers, so that it always ends: a
/// row bids for the expert of most value as much as makes the second best as good, and a full expert lets its lowest
/// bid go. Places that stay empty are held by rows without wishes. O(bids (T + E)), usually a few bids per row and
/// round, with log8(spread of the logits / epsilon) rounds. Works in the table's memory and 3 arrays of E on the stack.
/// A spread beyond 2^23 epsilon makes epsilon larger.
struct BaseLayers {
  static constexpr int most_experts = 4096;

  int experts = 0;
  float epsilon = 1e-2f;

  static constexpr bool causal = false;

  int num_logits() const noexcept { return experts; }
  int num_experts() const noexcept { return experts; }
  int max_slots() const noexcept { return 1; }

  void check() const {
    if (experts < 1 || experts > most_experts)
      raise(Error("moe::BaseLayers", "experts", concat("1 to ", most_experts), std::to_string(experts)));
    if (!(epsilon > 0)) raise(Error("moe::BaseLayers", "epsilon", "above 0", std::to_string(epsilon)));
  }

  void route(const RouteContext<>& context, View<const float> logits, RoutingTable<>& table) const {
    const RowContext mask = context.at(0, {});
    int usable = 0;
    for (ExpertId e = 0; e < experts; ++e) usable += mask.may_use(e) ? 1 : 0;
    for (int t = 0; t < logits.rows; ++t) table.count[t] = usable > 0 ? 1 : 0;
    if (usable == 0 || logits.rows == 0) return;

    Experts state;
    for (ExpertId e = 0; e < experts; ++e) state.price[e] = 0;
    const int capacity = pieces(logits.rows, usable), places = usable * capacity;
    const Scale scale = scale_of(logits, places);
    const Auction auction{logits, mask, table.slots, state, experts, capacity, places, scale};
    for (std::int64_t step = scale.spread / 8; step > 1; step /= 8) auction.round(step);
    auction.round(1);
    for (int t = 0; t < logits.rows; ++t) {
      Slot& slot = table.slots.row(t)[0];
      slot.weight = sigmoid(finite_logit(logits.row(t)[slot.expert]));
    }
  }

 private:
  struct Experts {
    std::int64_t price[most_experts];  // of one more place: the lowest bid of a full expert
    int held[most_experts];
    Slot dummies[most_experts];  // rows without wishes, as many as there are empty places
  };

  /// Logits become integers: (logit - least) * per_unit, at most `spread`.
  struct Scale {
    double least = 0, per_unit = 1;
    std::int64_t spread = 0;
    std::int64_t operator()(float logit) const noexcept {
      const float l = finite_logit(logit);
      return l < -largest_float ? 0 : std::llrint((static_cast<double>(l) - least) * per_unit);
    }
  };
  /// Every place may miss the best by a unit and every row by the rounding of two values, together T epsilon.
  Scale scale_of(View<const float> logits, int places) const noexcept {
    double least = HUGE_VAL, most = -HUGE_VAL;
    for (int t = 0; t < logits.rows; ++t)
      for (const float logit : logits.row(t)) {
        if (!(logit == logit)) continue;
        least = std::fmin(least, static_cast<double>(finite_logit(logit)));
        most = std::fmax(most, static_cast<double>(finite_logit(logit)));
      }
    if (!(most > least)) return {};
    const double per_row = 1 + static_cast<double>(places) / logits.rows;
    const double wanted = per_row / static_cast<double>(epsilon), possible = 0x1p24 / (most - least);
    const double per_unit = wanted < possible ? wanted : possible;
    return {least, per_unit, std::llrint((most - least) * per_unit)};
  }

  /// A row's slot holds the expert that it has and, as bits, what it bid. Prices rise by less than three spreads in a
  /// round and there are 8 rounds, so bids fit 32 bits.
  struct Auction {
    View<const float> logits;
    RowContext mask;
    View<Slot> slots;
    Experts& state;
    int experts, capacity, places;
    Scale scale;

    /// Hands out all places from the prices of the round before, which end at most `step` from where nobody would move.
    void round(std::int64_t step) const noexcept {
      for (ExpertId e = 0; e < experts; ++e) state.held[e] = 0;
      for (int t = 0; t < places; ++t) slot(t) = {-1, 0};
      for (int t = 0; t < places; ++t)
        for (int bidder = t; bidder >= 0;) bidder = bid(bidder, step);
    }

   private:
    Slot& slot(int t) const noexcept { return t < slots.rows ? slots.row(t)[0] : state.dummies[t - slots.rows]; }
    std::int64_t value(int t, ExpertId e) const noexcept { return t < slots.rows ? scale(logits.row(t)[e]) : 0; }
    int amount_of(int t) const noexcept { return bit_cast<int>(slot(t).weight); }

    /// Gives row t an expert; returns the row that lost its place, or -1.
    int bid(int t, std::int64_t step) const noexcept {
      ExpertId best = -1;
      std::int64_t first = 0, second = 0;
      int seen = 0;
      for (ExpertId e = 0; e < experts; ++e) {
        if (!mask.may_use(e)) continue;
        const std::int64_t gain = value(t, e) - state.price[e];
        const bool better = seen == 0 || gain > first;
        if (seen == 1 || (seen > 1 && (better || gain > second))) second = better ? first : gain;
        if (better) {
          first = gain;
          best = e;
        }
        ++seen;
      }
      if (seen == 1) second = first;
      return take(t, best, static_cast<int>(state.price[best] + first - second + step));
    }
    int take(int t, ExpertId e, int amount) const noexcept {
      int loser = -1;
      if (state.held[e] == capacity) {
        loser = lowest(e);
        slot(loser) = {-1, 0};
        --state.held[e];
      }
      slot(t) = {e, bit_cast<float>(amount)};
      if (++state.held[e] == capacity) state.price[e] = amount_of(lowest(e));
      return loser;
    }
    /// The row with the lowest bid for e.
    int lowest(ExpertId e) const noexcept {
      int found = -1;
      for (int t = 0; t < places; ++t)
        if (slot(t).expert == e && (found < 0 || amount_of(t) < amount_of(found))) found = t;
      return found;
    }
  };
};

}  // namespace moe
