// ApproximateKeyCache: remembers the choices of rows that look alike, and checks itself now and then.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <moe/error.hpp>
#include <moe/router_hooks.hpp>
#include <moe/routers/largest.hpp>

namespace moe {

/// A key of `bits` (at most 64) signs of projections on random vectors of +1 and -1: rows at a small angle often share
/// it. O(bits * columns), so rather a key of logits than of x, where the gate costs no more.
struct SignProjection {
  int bits = 32;
  std::uint64_t seed = 1;

  std::uint64_t operator()(Row<const float> row) const noexcept {
    float sum[64] = {};
    for (int i = 0; i < row.size(); ++i) {
      const std::uint64_t signs = random_at(seed, static_cast<std::uint64_t>(i));
      for (int b = 0; b < bits; ++b) sum[b] += ((signs >> b) & 1u) != 0 ? row[i] : -row[i];
    }
    std::uint64_t key = 0;
    for (int b = 0; b < bits; ++b) key |= std::uint64_t{sum[b] > 0} << b;
    return key;
  }
};

/// A key of the `count` (at most 16) coordinates that are largest in magnitude: which they are, and their values
/// rounded to `levels` steps of the largest on each side of zero (7: four bits). O(count * columns).
struct RoundedTop {
  int count = 4;
  int levels = 7;

  std::uint64_t operator()(Row<const float> row) const noexcept {
    Slot top[16];
    const Row<Slot> list{top, count < row.size() ? count : row.size()};
    int n = 0;
    for (int i = 0; i < row.size(); ++i) n = detail::insert_largest(list, n, {i, std::fabs(row[i])});
    std::uint64_t key = 0;
    for (const Slot& s : list.first(n)) {
      const float step = top[0].weight > 0 ? s.weight / top[0].weight * static_cast<float>(levels) : 0.0f;
      const long rounded = step <= static_cast<float>(levels) ? std::lround(std::copysign(step, row[s.expert])) : 0;
      key = random_at(key + static_cast<std::uint64_t>(rounded + levels + 1), static_cast<std::uint64_t>(s.expert));
    }
    return key;
  }
};

/// Reuse of routing by approximate keys, error-controlled (Finamore et al. 2022, "Error-controlled approximate-key
/// caching", auto-refresh). A key's entry is computed anew at every `interval`-th look-up. If the same experts come
/// out, the interval grows by `beta`; else it begins at 1 again, and the key must give the same experts 1 / target
/// times in a row before it grows (ours: a key that has been wrong must show that it is wrong more seldom than
/// `target`). What the checks find, weighed by the answers that each stands for, estimates the share of wrong answers;
/// when it exceeds `target`, all intervals halve.
///
/// With beta = 1 every answer is computed, and nothing changes. Otherwise weights, and rarely ids, are those of an
/// earlier row with the same key: good for guesses (`MoELayer::prefetch`), and for results only if you measured what it
/// does to yours. The share of wrong answers is steered, not bounded. O(K^2) per look-up; memory is taken at
/// construction. One per thread and layer.
class ApproximateKeyCache {
 public:
  struct Options {
    int entries = 4096;  // a new key takes the place of the one that was there
    int slots = 0;       // choices per row, at most
    double beta = 2;
    double longest = 1024;  // interval
    double target = 0.01;   // share of answers with other experts than computing would give
    double memory = 0.99;   // of the estimate: the weight of what it was, per answer
  };
  struct Statistics {
    std::uint64_t lookups = 0;
    std::uint64_t reused = 0;  // answered without computing
    std::uint64_t checks = 0;  // computed although the key was known
    std::uint64_t wrong = 0;   // checks that gave other experts
    std::uint64_t halvings = 0;
  };

  /// Throws Error for options out of range.
  explicit ApproximateKeyCache(const Options& options) : options_(options) {
    constexpr const char* where = "moe::ApproximateKeyCache";
    if (options.entries < 1) raise(Error(where, "entries", "at least 1", std::to_string(options.entries)));
    if (options.slots < 1) raise(Error(where, "slots", "at least 1", std::to_string(options.slots)));
    if (!(options.target > 0)) raise(Error(where, "target", "above 0", std::to_string(options.target)));
    if (!(options.beta >= 1)) raise(Error(where, "beta", "at least 1", std::to_string(options.beta)));
    entries_.resize(static_cast<std::size_t>(options.entries));
    slots_.resize(entries_.size() * static_cast<std::size_t>(options.slots));
  }

  /// The choices for `key` in out; their number. `compute(out)` gives it afresh, like `select`.
  template <class Compute>
  int decide(std::uint64_t key, Row<Slot> out, Compute&& compute) {
    ++statistics_.lookups;
    const std::size_t at = mix_bits(key) % entries_.size();
    Entry& entry = entries_[at];
    const bool known = entry.interval > 0 && entry.key == key;
    if (known && ++entry.served < interval(entry)) return reuse(entry, at, out);
    const int n = compute(out);
    if (known)
      check(entry, same_experts(entry, at, out.first(n)));
    else
      entry = {.key = key, .interval = 1};
    entry.served = 0;
    entry.halvings = statistics_.halvings;
    remember(entry, at, out.first(n));
    return n;
  }

  /// Estimated share of wrong answers among those that were reused, recent ones most.
  double error() const noexcept { return error_; }
  const Statistics& statistics() const noexcept { return statistics_; }

 private:
  struct Entry {
    std::uint64_t key = 0, halvings = 0;
    double interval = 0;  // 0: empty
    double doubt = 0;     // checks that must agree before the interval grows
    int served = 0;       // look-ups since it was computed
    int count = 0;
  };

  Row<Slot> slots(const Entry& entry, std::size_t at) noexcept {
    return {slots_.data() + at * static_cast<std::size_t>(options_.slots), entry.count};
  }
  double interval(const Entry& entry) const noexcept {
    return std::ldexp(entry.interval, -static_cast<int>(statistics_.halvings - entry.halvings));
  }
  int reuse(const Entry& entry, std::size_t at, Row<Slot> out) noexcept {
    ++statistics_.reused;
    const int n = entry.count < out.size() ? entry.count : out.size();
    for (int i = 0; i < n; ++i) out[i] = slots(entry, at)[i];
    return n;
  }
  void remember(Entry& entry, std::size_t at, Row<const Slot> picked) noexcept {
    entry.count = picked.size() < options_.slots ? picked.size() : options_.slots;
    for (int i = 0; i < entry.count; ++i) slots(entry, at)[i] = picked[i];
  }
  bool same_experts(const Entry& entry, std::size_t at, Row<const Slot> picked) noexcept {
    if (picked.size() != entry.count) return false;
    for (const Slot& s : picked) {
      bool found = false;
      for (const Slot& before : slots(entry, at)) found = found || before.expert == s.expert;
      if (!found) return false;
    }
    return true;
  }
  void check(Entry& entry, bool same) noexcept {
    const double now = interval(entry);
    ++statistics_.checks;
    statistics_.wrong += same ? 0u : 1u;
    if (!same) {
      entry.interval = 1;
      entry.doubt = 1 / options_.target;
    } else if (entry.doubt >= 1) {
      entry.doubt -= 1;
    } else {
      const double grown = (now < 1 ? 1 : now) * options_.beta;
      entry.interval = grown < options_.longest ? grown : options_.longest;
    }
    learn(same ? 0.0 : 1.0, entry.served - 1);
  }
  /// One check stands for the answers that were given since the one before.
  void learn(double wrong, int answers) noexcept {
    error_ += (1 - std::pow(options_.memory, answers)) * (wrong - error_);
    if (error_ <= options_.target) return;
    ++statistics_.halvings;
    error_ = options_.target;
  }

  Options options_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;  // [entries, options.slots]
  double error_ = 0;
  Statistics statistics_;
};

/// Fills `table` [T,K] for the rows of x [T,H] through `cache`; hand it to the layer as Call::table. `key(row of x)` is
/// the key; `logits(t)` gives the logits of row t as a Row<const float>, and is asked only for rows that are computed.
template <class Router, class Key, class Logits>
void route_approximately(ApproximateKeyCache& cache, const Key& key, const Router& router,
                         const RouteContext<>& context, View<const float> x, Logits&& logits, RoutingTable<>& table) {
  for (int t = 0; t < x.rows; ++t)
    table.count[t] = cache.decide(key(x.row(t)), table.slots.row(t),
                                  [&](Row<Slot> out) { return select(router, context.at(t, logits(t)), out); });
}

}  // namespace moe
