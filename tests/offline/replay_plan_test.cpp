#include <doctest/doctest.h>

#include <map>
#include <moe/offline/replay_plan.hpp>
#include <moe/offline/trace_generator.hpp>
#include <tuple>

#include "offline/replay_oracle.hpp"

using namespace replay_oracle;
using moe::CacheScope;
using moe::ReplayCounts;

namespace {

/// The plan cache with a perfect predictor, in lists. Passes of the trace are the tokens.
class PlainPlan {
 public:
  PlainPlan(const Trace& trace, bool layered, int slots) : trace_(trace), layered_(layered) {
    pools_.assign(layered ? static_cast<std::size_t>(trace.layers) : 1, Pool{slots, {}});
  }
  Counts counts;
  int prefetched = 0;

  void run() {
    for (std::size_t r = 0; r < trace_.records.size(); ++r) {
      const Record& record = trace_.records[r];
      if (r == 0 || record.layer != trace_.records[r - 1].layer) enter(r);
      for (const Pick& pick : record.picks) {
        ++counts.picks;
        ++time_;
        const Id id(record.layer, pick.expert);
        last_use_[id] = time_;
        if (pool(id).holds(id)) {
          ++counts.hits;
          continue;
        }
        const auto asked = [&](Id held) {
          return held.first == record.layer && std::any_of(record.picks.begin(), record.picks.end(),
                                                           [&](const Pick& p) { return p.expert == held.second; });
        };
        ++counts.high_loads;
        if (!bring_over(id, asked)) ++counts.streamed;
      }
    }
  }

 private:
  Pool& pool(Id id) { return pools_[layered_ ? static_cast<std::size_t>(id.first) : 0]; }

  /// Wanted from layer `records[first].layer` on, in this pass: by layer, then by weight, then by id.
  std::vector<Id> path(std::size_t first) const {
    std::map<Id, double> mass;
    for (std::size_t r = first; r < trace_.records.size() && (r == first || !new_pass(r)); ++r) {
      double total = 0;
      for (const Pick& p : trace_.records[r].picks) total += p.weight;
      for (const Pick& p : trace_.records[r].picks) mass[{trace_.records[r].layer, p.expert}] += p.weight / total;
    }
    std::vector<Id> ids;
    for (const auto& [id, weight] : mass) ids.push_back(id);
    std::stable_sort(ids.begin(), ids.end(), [&](Id a, Id b) {
      return std::make_pair(a.first, -mass.at(a)) < std::make_pair(b.first, -mass.at(b));
    });
    return ids;
  }
  bool new_pass(std::size_t r) const { return trace_.records[r].layer < trace_.records[r - 1].layer; }

  void enter(std::size_t first) {
    layer_ = trace_.records[first].layer;
    want_.clear();
    std::map<Pool*, int> taken;
    const std::vector<Id> ids = path(first);
    for (const Id& id : ids)
      if (taken[&pool(id)] < pool(id).slots) {
        ++taken[&pool(id)];
        want_.insert(id);
      }
    for (const Id& id : ids)
      if (want_.count(id) != 0 && !pool(id).holds(id)) {
        ++prefetched;
        CHECK(bring_over(id, [&](Id held) { return want_.count(held) != 0; }));
      }
    for (const Id& id : ids)
      if (id.first == layer_) want_.insert(id);
  }
  template <class Kept>
  bool bring_over(Id id, const Kept& kept) {
    std::vector<Id>& held = pool(id).held;
    if (static_cast<int>(held.size()) < pool(id).slots) {
      held.push_back(id);
      return true;
    }
    // Unplanned before planned, of those this layer's first; the later its turn the sooner it goes; the older use.
    std::vector<std::tuple<bool, bool, int, int, Id>> candidates;
    for (const Id& h : held) {
      const int ahead = (h.first - layer_ + trace_.layers) % trace_.layers;
      const bool planned = want_.count(h) != 0;
      if (!kept(h)) candidates.emplace_back(planned, planned || ahead != 0, -ahead, last_use_[h], h);
    }
    if (candidates.empty()) return false;
    held.erase(
        std::find(held.begin(), held.end(), std::get<4>(*std::min_element(candidates.begin(), candidates.end()))));
    held.push_back(id);
    ++counts.evictions;
    return true;
  }

  const Trace& trace_;
  bool layered_;
  std::vector<Pool> pools_;
  std::set<Id> want_;
  std::map<Id, int> last_use_;
  int layer_ = 0, time_ = 0;
};

/// Trace of the paper's ratio: 16 sequences together, one pick of 32 experts.
moe::RoutingTrace batch_of_16() {
  return moe::generate_trace({.layers = 6, .experts = 32, .k = 1, .sequences = 16, .tokens = 60, .batch = 16});
}

}  // namespace

TEST_CASE("four slots for a path of 3 and 2 experts: three and one, then the slots of the layer that is over") {
  moe::RoutingTrace trace(2, 4);
  const moe::Slot first[] = {{0, 0.5f}, {1, 0.25f}, {2, 0.25f}}, second[] = {{3, 0.5f}, {1, 0.5f}};
  trace.add(0, 0, 0, {first, 3});
  trace.add(0, 0, 1, {second, 2});
  const ReplayCounts c = moe::replay_plan(trace, {CacheScope::global, 4});
  CHECK(c.hits == 5);
  CHECK(c.prefetched == 5);
  CHECK(c.loads == 5);
  CHECK(c.evictions == 1);
  CHECK(c.prefetch_wasted == 0);
}

TEST_CASE("a perfect plan does what its words say") {
  std::uint64_t on_demand = 0;
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    Trace trace = random_trace(seed, seed % 2 == 0);
    // The oracle takes layers for what begins anew with each change of the number.
    for (Record& r : trace.records)
      if (r.picks.empty()) r.picks.push_back({0, 1});
    const int slots = static_cast<int>(seed % 7);
    for (const bool layered : {false, true}) {
      CAPTURE(seed);
      CAPTURE(layered);
      PlainPlan expected(trace, layered, slots);
      expected.run();
      const ReplayCounts found =
          moe::replay_plan(trace.get(), {layered ? CacheScope::layer : CacheScope::global, slots});
      CHECK(found.hits == static_cast<std::uint64_t>(expected.counts.hits));
      CHECK(found.prefetched == static_cast<std::uint64_t>(expected.prefetched));
      CHECK(found.loads - found.prefetched == static_cast<std::uint64_t>(expected.counts.high_loads));
      CHECK(found.streamed == static_cast<std::uint64_t>(expected.counts.streamed));
      CHECK(found.evictions == static_cast<std::uint64_t>(expected.counts.evictions));
      on_demand += found.loads - found.prefetched;
    }
  }
  CHECK(on_demand > 1000);
}

TEST_CASE("with a perfect plan and slots for a layer's experts nothing is loaded on demand") {
  const ReplayCounts c = moe::replay_plan(batch_of_16(), {CacheScope::global, 20});
  CHECK(c.hits == c.picks);
  CHECK(c.loads == c.prefetched);
  CHECK(c.prefetch_used == c.prefetched);
}

TEST_CASE("picks and loads add up whatever the accuracy") {
  const moe::RoutingTrace trace = batch_of_16();
  double last_rate = 0;
  for (const double accuracy : {0.0, 0.5, 0.8, 0.95}) {
    const ReplayCounts c = moe::replay_plan(trace, {CacheScope::global, 48}, {accuracy, 3});
    CHECK(c.picks == c.hits + c.loads - c.prefetched);
    CHECK(c.prefetched == c.prefetch_used + c.prefetch_wasted);
    CHECK(c.prefetch_wasted > 0);
    CHECK(c.hit_rate() > last_rate);
    last_rate = c.hit_rate();
    const ReplayCounts again = moe::replay_plan(trace, {CacheScope::global, 48}, {accuracy, 3});
    CHECK(again.loads == c.loads);
    const ReplayCounts other = moe::replay_plan(trace, {CacheScope::global, 48}, {accuracy, 4});
    CHECK(std::make_pair(other.hits, other.loads) != std::make_pair(c.hits, c.loads));
  }
}

TEST_CASE("a plan may raise the hit rate and the traffic") {
  const moe::RoutingTrace trace = batch_of_16();
  const moe::ReplaySlots half{CacheScope::global, 96};
  const ReplayCounts lru = moe::replay(trace, half, moe::Lru{}), plan = moe::replay_plan(trace, half, {0.8, 1});
  CHECK(plan.hit_rate() > lru.hit_rate() + 0.1);
  CHECK(plan.loads > lru.loads);
}

TEST_CASE("an accuracy is a probability") {
  const moe::RoutingTrace trace(1, 2);
  CHECK_THROWS_AS(moe::replay_plan(trace, {}, {1.5, 0}), moe::Error);
  CHECK_THROWS_AS(moe::replay_plan(trace, {}, {std::nan(""), 0}), moe::Error);
}
