#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include <moe/storage/eviction.hpp>

#include "slot_driver.hpp"

namespace {

constexpr int layers = 4, experts = 6;

/// Remembers every use by itself, and scores by its own reading of the papers whatever could have gone.
class Checked : public SlotDriver {
 public:
  struct Use {
    int layer, expert, token;
    bool high;
  };
  using SlotDriver::SlotDriver;

  void begin_sequence() {
    table.begin_sequence();
    uses.clear();
    token = 0;
  }
  void use(int layer, const std::vector<int>& wanted, const std::vector<int>& lowest) {
    if (layer == 0) ++token;
    for (const int e : wanted) {
      uses.push_back({layer, e, token, false});
      ++all_uses;
      before_use(layer, e);
    }
    SlotDriver::use(layer, wanted, lowest);
  }
  template <class Count>
  double count(int layer, int expert, const Count& one) const {
    double sum = 0;
    for (const Use& u : uses)
      if (u.layer == layer && u.expert == expert) sum += one(u);
    return sum;
  }
  double last_token(int layer, int expert) const {
    double last = 0;
    for (const Use& u : uses)
      if (u.layer == layer && u.expert == expert) last = u.token;
    return last;
  }
  static int distance(int layer, int now) { return ((layer - now) % layers + layers) % layers; }

  std::vector<Use> uses;  // of this sequence
  int token = 0, all_uses = 0;

 protected:
  virtual double score(int layer, int expert, int now) const = 0;
  virtual void before_use(int, int) {}

  void served(int layer, int expert, int format) override {
    for (auto u = uses.rbegin(); u != uses.rend(); ++u)
      if (u->layer == layer && u->expert == expert) {
        u->high = format == 0;
        return;
      }
  }
  void evicted(const moe::detail::SlotTable& before, const Eviction& victim, int now,
               const std::vector<moe::ExpertNeed>& call) override {
    const double given = score(victim.layer, victim.expert, now);
    for (const moe::detail::CacheSlot& slot : before.slots()) {
      const bool wanted = slot.layer == now && std::any_of(call.begin(), call.end(), [&](const moe::ExpertNeed& need) {
                            return need.expert == slot.expert;
                          });
      if (slot.format != victim.format || slot.phase != moe::detail::Phase::ready || wanted) continue;
      const double other = score(slot.layer, slot.expert, now);
      CHECK(given <= other + 1e-12);
      const auto age = [&](int l, int e) { return before.entry(l, e).last_use; };
      if (given == other) CHECK(age(victim.layer, victim.expert) <= age(slot.layer, slot.expert));
    }
  }
};

/// HOBBIT's formula, each term counted anew.
struct Hobbit : Checked {
  Hobbit(double a, double b, double c, double d)
      : Checked(moe::Multidimensional{a, b, c, d}, {{9, 4}, {}, 0}, layers, experts), w{a, b, c, d} {}
  double score(int l, int e, int now) const override {
    // Exact up to the division: rounding must not make or break ties.
    const double of_sequence = w[0] * last_token(l, e) + w[1] * count(l, e, [](const Use&) { return 1; }) +
                               w[2] * count(l, e, [](const Use& u) { return u.high ? 1 : 0; });
    return of_sequence / token + w[3] * (1 - distance(l, now) / static_cast<double>(layers));
  }
  double w[4];
};
struct Apex : Checked {
  Apex() : Checked(moe::MissCost{0.25}, {{9, 4}, {}, 0}, layers, experts) {}
  double score(int l, int e, int now) const override {
    const double cost = count(l, e, [](const Use& u) { return u.high ? 1 : 0.25; });
    const double last = last_token(l, e);
    const double near = 1 / (distance(l, now) + 0.1);  // decides between equals only
    return cost / token + (last > 0 && last >= token - 1 ? 1 : 0) + 1e-9 * near;
  }
};
/// SE-MoE's counts as the paper has them: all are multiplied when a period ends.
struct DecayedCounts : Checked {
  static constexpr int period = 10;
  DecayedCounts() : Checked(moe::Lfu{.decay = 0.5, .period = period}, {{9}, {}, 0}, layers, experts) {}
  double score(int l, int e, int) const override { return hits[l][e]; }
  void before_use(int l, int e) override {
    if (all_uses % period == 0)
      for (auto& layer : hits)
        for (double& h : layer) h *= 0.5;
    hits[l][e] += 1;
  }
  void begin_sequence() {
    Checked::begin_sequence();
    for (auto& layer : hits) std::fill(std::begin(layer), std::end(layer), 0.0);
  }
  double hits[layers][experts] = {};
};

/// The plain driver under the same calls.
struct Plain : SlotDriver {
  using SlotDriver::SlotDriver;
  void begin_sequence() { table.begin_sequence(); }
};
std::vector<Eviction> evictions_of(const moe::AnyEviction& eviction) {
  Plain driver(eviction, {{9}, {}, 0}, layers, experts);
  random_calls(driver, 200, layers, experts, 2, 1, 11);
  CHECK(driver.given_up.size() > 200);
  return driver.given_up;
}

/// Hits per use of one expert in each of 16 layers, over and over, with room for 8.
double hit_rate_on_constant_routing(const moe::AnyEviction& eviction) {
  Plain driver(eviction, {{8}, {}, 0}, 16, 2);
  for (int token = 0; token < 1000; ++token)
    for (int layer = 0; layer < 16; ++layer) driver.use(layer, {1});
  return static_cast<double>(driver.table.statistics().hits) / (16 * 1000);
}

struct NoPreference {
  double keep_score(const moe::CacheEntry&, const moe::CacheClock&) const noexcept { return 0; }
};
struct NewestToken {
  double keep_score(const moe::CacheEntry& e, const moe::CacheClock&) const noexcept {
    return static_cast<double>(e.last_token);
  }
};

moe::CacheEntry entry_of(int layer, bool planned) {
  moe::CacheEntry entry;
  entry.layer = layer;
  entry.planned = planned;
  return entry;
}

}  // namespace

TEST_CASE("LRU keeps what was used later, also after very many uses") {
  moe::CacheEntry older, newer;
  older.last_use = 1ull << 52;
  newer.last_use = older.last_use + 1;
  const moe::CacheClock now{newer.last_use + 1, 1, 0, 1};
  CHECK(moe::Lru{}.keep_score(older, now) < moe::Lru{}.keep_score(newer, now));
}

TEST_CASE("of experts with equal scores the one with the older use goes") {
  CHECK(evictions_of(NoPreference{}) == evictions_of(moe::Lru{}));
}

TEST_CASE("every eviction's score is a number, also while no token of the sequence has begun") {
  moe::CacheEntry used = entry_of(1, true);
  used.last_use = used.last_token = used.uses = used.high_uses = 3;
  const std::vector<moe::AnyEviction> evictions{moe::Lru{},           moe::Lfu{},      moe::Lfu{.decay = 0.5},
                                                moe::FurthestLayer{}, moe::MissCost{}, moe::Multidimensional{},
                                                moe::ByPlan{}};
  for (const moe::AnyEviction& eviction : evictions)
    for (const moe::CacheEntry& entry : {entry_of(0, false), used})
      for (const std::uint64_t token : {0u, 1u, 3u}) CHECK(std::isfinite(eviction.keep_score(entry, {4, token, 0, 2})));
}
TEST_CASE("a call of a layer that lies no deeper than the call before begins a token") {
  Plain driver(moe::Lru{}, {{9}, {}, 0}, 2, 6);
  int expert = 0;
  std::vector<std::uint64_t> tokens;
  for (const int layer : {0, 1, 1, 0, 0, 1}) {
    driver.use(layer, {expert});
    tokens.push_back(driver.table.entry(layer, expert++).last_token);
  }
  CHECK(tokens == std::vector<std::uint64_t>{1, 1, 2, 3, 4, 4});
}
TEST_CASE("HOBBIT's priority gives up what the paper's formula says, at every eviction") {
  const std::vector<std::vector<double>> weights{{0.25, 0.25, 0.25, 0.25}, {0.5, 0.125, 0.125, 0.25}, {0, 0, 0.5, 0.5}};
  for (const std::vector<double>& w : weights) {
    Hobbit driver(w[0], w[1], w[2], w[3]);
    random_calls(driver, 150, layers, experts, 2, 2, 3);
    CHECK(driver.given_up.size() > 100);
  }
}
TEST_CASE("HOBBIT's recency alone is LRU by tokens") {
  CHECK(evictions_of(moe::Multidimensional{1, 0, 0, 0}) == evictions_of(NewestToken{}));
}
TEST_CASE("HOBBIT's frequency alone is LFU of the sequence") {
  CHECK(evictions_of(moe::Multidimensional{0, 1, 0, 0}) == evictions_of(moe::Lfu{}));
}
TEST_CASE("HOBBIT's nearness alone gives up the furthest layer") {
  CHECK(evictions_of(moe::Multidimensional{0, 0, 0, 1}) == evictions_of(moe::FurthestLayer{}));
}

TEST_CASE("giving up the furthest layer is optimal on constant routing, where LRU finds nothing") {
  CHECK(hit_rate_on_constant_routing(moe::Lru{}) == 0);
  CHECK(hit_rate_on_constant_routing(moe::FurthestLayer{}) == doctest::Approx(7.0 / 15).epsilon(0.005));
}

TEST_CASE("LFU with decay gives up what counts that are halved after every period would") {
  DecayedCounts driver;
  random_calls(driver, 150, layers, experts, 2, 1, 5);
  CHECK(driver.given_up.size() > 100);
}
TEST_CASE("LFU without decay gives up the fewest uses of the sequence") {
  struct Counts : Checked {
    Counts() : Checked(moe::Lfu{}, {{9}, {}, 0}, layers, experts) {}
    double score(int l, int e, int) const override {
      return count(l, e, [](const Use&) { return 1; });
    }
  } driver;
  random_calls(driver, 150, layers, experts, 2, 1, 6);
  CHECK(driver.given_up.size() > 100);
}

TEST_CASE("the cost of a miss gives up what MoE-APEX's terms say, at every eviction") {
  Apex driver;
  random_calls(driver, 150, layers, experts, 2, 2, 4);
  CHECK(driver.given_up.size() > 100);
}
TEST_CASE("the cost of a miss stays small where a sequence began between a use and its serving") {
  moe::CacheEntry entry = entry_of(0, false), unused = entry;
  entry.high_uses = 1;
  const moe::CacheClock now{9, 4, 0, 2};
  CHECK(moe::MissCost{}.keep_score(entry, now) - moe::MissCost{}.keep_score(unused, now) == doctest::Approx(0.25));
}

TEST_CASE(
    "a plan's cache gives up unplanned experts of this layer, of layers that are over, of others, and then the "
    "planned ones of the furthest layer") {
  const moe::CacheClock now{100, 5, 2, 5};  // layer 2 of 5 needs room
  std::vector<double> scores;
  for (const bool planned : {false, true}) {
    if (!planned) scores.push_back(moe::ByPlan{}.keep_score(entry_of(2, false), now));
    if (!planned)
      for (const int layer : {1, 0, 4, 3}) scores.push_back(moe::ByPlan{}.keep_score(entry_of(layer, false), now));
    if (planned)
      for (const int layer : {1, 0, 4, 3, 2}) scores.push_back(moe::ByPlan{}.keep_score(entry_of(layer, true), now));
  }
  for (std::size_t i = 1; i < scores.size(); ++i) CHECK(scores[i - 1] < scores[i]);
}
