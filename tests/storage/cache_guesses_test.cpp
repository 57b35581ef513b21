#include <vector>

#include <doctest/doctest.h>

#include <moe/storage/cache_guesses.hpp>

namespace {

/// Two layers of five experts.
struct Guessed {
  Guessed() {
    guesses.add_layer(5);
    guesses.add_layer(5);
  }
  static std::vector<moe::ExpertNeed> needs_of(const std::vector<moe::ExpertId>& experts) {
    std::vector<moe::ExpertNeed> needs;
    for (const moe::ExpertId e : experts) needs.push_back({.expert = e, .rows = 1});
    return needs;
  }
  void predict(int layer, const std::vector<moe::ExpertId>& experts, bool keep) {
    guesses.predict(layer, needs_of(experts), keep);
  }
  void call(int layer, const std::vector<moe::ExpertId>& experts) {
    guesses.compare(layer, needs_of(experts), statistics);
  }
  std::vector<moe::ExpertId> expected(int layer) const {
    std::vector<moe::ExpertId> out;
    for (moe::ExpertId e = 0; e < 5; ++e)
      if (guesses.expected(layer, e)) out.push_back(e);
    return out;
  }

  moe::detail::CacheGuesses guesses;
  moe::CacheStatistics statistics;
};
using Experts = std::vector<moe::ExpertId>;

}  // namespace

TEST_CASE("what is guessed to be kept is expected until its layer is called, and no longer") {
  Guessed g;
  g.predict(0, {1, 3}, true);
  CHECK(g.expected(0) == Experts{1, 3});
  g.call(1, {1});
  CHECK(g.expected(0) == Experts{1, 3});
  g.call(0, {1});
  CHECK(g.expected(0).empty());
}
TEST_CASE("a newer guess leaves expected what an older one said to keep") {
  Guessed g;
  g.predict(0, {1, 3}, true);
  g.predict(0, {0, 3}, true);
  CHECK(g.expected(0) == Experts{0, 1, 3});
  g.predict(0, {4}, false);
  CHECK(g.expected(0) == Experts{0, 1, 3});
  g.predict(0, {}, true);
  CHECK(g.expected(0) == Experts{0, 1, 3});
}
TEST_CASE("what is guessed without keeping it is not expected") {
  Guessed g;
  g.predict(0, {1, 3}, false);
  g.guesses.add(0, 4);
  CHECK(g.expected(0).empty());
}
TEST_CASE("guesses of a layer say nothing about another") {
  Guessed g;
  g.predict(0, {1}, true);
  CHECK(g.expected(1).empty());
  g.call(1, {1});
  CHECK(g.statistics.needed == 0);
  CHECK(g.statistics.predicted == 0);
}
TEST_CASE("the newest guess is the one that is measured, also where an older one is kept") {
  for (const bool keep : {false, true}) {
    Guessed g;
    g.predict(0, {1, 3, 4}, keep);
    g.predict(0, {0, 3}, keep);
    g.call(0, {1, 3, 4});
    CHECK(g.statistics.needed == 3);
    CHECK(g.statistics.predicted == 2);
    CHECK(g.statistics.predicted_right == 1);
  }
}
TEST_CASE("a guess that is added is measured with those before") {
  Guessed g;
  g.predict(0, {1, 3}, false);
  g.guesses.add(0, 0);
  g.call(0, {0, 2});
  CHECK(g.statistics.needed == 2);
  CHECK(g.statistics.predicted == 3);
  CHECK(g.statistics.predicted_right == 1);
}
TEST_CASE("each guess is measured at one call, and a call that nobody guessed at not at all") {
  Guessed g;
  g.call(0, {1, 2});
  CHECK(g.statistics.needed == 0);
  g.predict(0, {}, false);
  g.call(0, {1, 2});
  CHECK(g.statistics.needed == 2);
  CHECK(g.statistics.predicted == 0);
  g.predict(0, {1, 2}, false);
  g.call(0, {1});
  g.call(0, {2});
  CHECK(g.statistics.needed == 3);
  CHECK(g.statistics.predicted == 2);
  CHECK(g.statistics.predicted_right == 1);
}
