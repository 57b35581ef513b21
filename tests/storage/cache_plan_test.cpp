#include <array>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <moe/storage/cache_plan.hpp>

namespace {

using Use = std::pair<int, moe::ExpertId>;

/// Two layers of four experts.
struct Planned {
  explicit Planned(const std::vector<Use>& uses) {
    for (int layer = 0; layer < 2; ++layer) {
      history.add_layer(4);
      plan.add_layer(4);
    }
    plan.replace(uses, history);
  }
  std::vector<Use> reach(int slots) const {
    std::vector<Use> out;
    for (const std::size_t n : plan.reach(slots)) out.emplace_back(history[n].layer, history[n].expert);
    return out;
  }
  /// Experts whose use is to come, by what the history shows to evictions; the plan has to agree.
  std::vector<Use> to_come() const {
    std::vector<Use> out;
    for (std::size_t n = 0; n < history.experts(); ++n) {
      CHECK(history[n].planned == plan.to_come(n, history.experts()));
      if (history[n].planned) out.emplace_back(history[n].layer, history[n].expert);
    }
    return out;
  }
  void route(int layer, const std::vector<moe::ExpertId>& experts) {
    std::vector<moe::ExpertNeed> needs;
    for (const moe::ExpertId e : experts) needs.push_back({e, 1, 1, 0});
    plan.correct(layer, needs, history);
  }
  void use(int layer, moe::ExpertId e) { plan.used(history.number(layer, e), history); }

  moe::detail::CacheHistory history;
  moe::detail::CachePlan plan;
};
using Uses = std::vector<Use>;

}  // namespace

TEST_CASE("a plan reaches as many uses as there are slots, in its order") {
  const Planned p({{0, 2}, {0, 0}, {1, 3}});
  CHECK(p.reach(0).empty());
  CHECK(p.reach(2) == Uses{{0, 2}, {0, 0}});
  CHECK(p.reach(9) == Uses{{0, 2}, {0, 0}, {1, 3}});
}
TEST_CASE("the uses of a layer are those of the layers that are named, on average and rounded up") {
  CHECK(Planned({}).plan.uses_of_a_layer() == 0);
  CHECK(Planned({{1, 2}, {1, 0}, {1, 3}}).plan.uses_of_a_layer() == 3);
  CHECK(Planned({{0, 2}, {0, 0}, {0, 0}, {1, 3}}).plan.uses_of_a_layer() == 2);
}
TEST_CASE("an expert that is named again counts once, where it stood first") {
  const Planned p({{0, 2}, {0, 0}, {0, 2}, {1, 2}});
  CHECK(p.reach(2) == Uses{{0, 2}, {0, 0}});
  CHECK(p.reach(3) == Uses{{0, 2}, {0, 0}, {1, 2}});
}
TEST_CASE("only what is planned is to come, and only before the end that is asked for") {
  const Planned p({{0, 2}, {1, 3}});
  CHECK(p.to_come() == Uses{{0, 2}, {1, 3}});
  CHECK(p.plan.to_come(p.history.number(0, 2), 1));
  CHECK_FALSE(p.plan.to_come(p.history.number(1, 3), 1));
}
TEST_CASE("a use that is over takes no slot, so that the plan reaches further") {
  Planned p({{0, 2}, {0, 0}, {1, 3}});
  p.use(0, 2);
  CHECK(p.to_come() == Uses{{0, 0}, {1, 3}});
  CHECK(p.reach(1).size() == 2);
  CHECK(p.reach(2).size() == 3);
}
TEST_CASE("when a layer is routed, what was planned for it wrongly is over, and what was right is to come") {
  Planned p({{0, 1}, {0, 2}, {1, 1}});
  p.route(0, {2, 3});
  CHECK(p.to_come() == Uses{{0, 2}, {1, 1}});
}
TEST_CASE("when a layer is routed, layers before it are over") {
  Planned p({{0, 1}, {0, 2}, {1, 1}, {1, 0}});
  p.route(1, {1});
  CHECK(p.to_come() == Uses{{1, 1}});
}
TEST_CASE("nothing of a layer that goes is to come") {
  Planned p({{0, 1}, {1, 1}, {1, 2}});
  p.plan.remove_layer(1, p.history);
  CHECK(p.to_come() == Uses{{0, 1}});
}
TEST_CASE("a new plan replaces the one before, and an empty one ends planning") {
  Planned p({{0, 1}, {1, 1}});
  const std::array<Use, 2> next{{{1, 1}, {1, 0}}};
  p.plan.replace(next, p.history);
  CHECK(p.to_come() == Uses{{1, 0}, {1, 1}});
  CHECK(p.reach(1) == Uses{{1, 1}});
  p.plan.replace({}, p.history);
  CHECK(p.to_come().empty());
  CHECK(p.plan.empty());
}
TEST_CASE("a copy of a plan goes its own way") {
  const Planned p({{0, 1}, {1, 1}});
  Planned copy = p;
  copy.use(0, 1);
  CHECK(p.to_come() == Uses{{0, 1}, {1, 1}});
  CHECK(copy.to_come() == Uses{{1, 1}});
}
