// ApproximateKeyCache: transparent where it must be, its schedule step by step, and its measured error on a trace.
#include <moe/routers/approximate_key.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

using moe::ApproximateKeyCache;
using moe::RoundedTop;
using moe::SignProjection;
using moe::Slot;
using moe::TopK;

namespace {

/// A cache in front of answers {value, value + 1} that are made by hand.
struct Asked {
  ApproximateKeyCache cache;
  int computed = 0;

  int ask(std::uint64_t key, int value) {
    Slot out[2];
    const int n = cache.decide(key, {out, 2}, [&](moe::Row<Slot> fresh) {
      ++computed;
      fresh[0] = {value, 0.75f};
      fresh[1] = {value + 1, 0.25f};
      return 2;
    });
    REQUIRE(n == 2);
    CHECK(out[1].expert == out[0].expert + 1);
    return out[0].expert;
  }
};
Asked asked(double beta, int entries = 64) {
  return {ApproximateKeyCache({.entries = entries, .slots = 2, .beta = beta}), 0};
}

/// Token of a Zipf law with exponent 1 over `ranks` ranks.
class Zipf {
 public:
  explicit Zipf(int ranks) {
    double sum = 0;
    for (int r = 1; r <= ranks; ++r) below_.push_back(sum += 1.0 / r);
  }
  int draw(oracle::Random& random) const {
    const double u = (static_cast<double>(random.real()) + 1) / 2 * below_.back();
    return static_cast<int>(std::lower_bound(below_.begin(), below_.end() - 1, u) - below_.begin());
  }

 private:
  std::vector<double> below_;
};

struct Measured {
  double wrong = 0;  // share of reused answers with other experts
  double saved = 0;  // share of look-ups that computed nothing
  double reused = 0;
  double estimate = 0;
};
/// One key in ten stands for rows that disagree with each other in `doubt` of the cases.
Measured on_zipf(double target, double doubt, std::uint64_t seed) {
  oracle::Random random(seed);
  const Zipf zipf(500);
  Asked a{ApproximateKeyCache({.entries = 1 << 14, .slots = 2, .target = target}), 0};
  constexpr int lookups = 200000;
  int wrong = 0;
  for (int i = 0; i < lookups; ++i) {
    const int token = zipf.draw(random);
    const bool odd = token % 10 == 3 && static_cast<double>(random.real() + 1) / 2 < doubt;
    const int truth = odd ? 100 : token % 8;
    wrong += a.ask(static_cast<std::uint64_t>(token), truth) == truth ? 0 : 1;
  }
  const auto& s = a.cache.statistics();
  CHECK(s.lookups == lookups);
  CHECK(s.reused + static_cast<std::uint64_t>(a.computed) == lookups);
  const auto reused = static_cast<double>(s.reused);
  return {reused > 0 ? wrong / reused : 0, reused / lookups, reused, a.cache.error()};
}

}  // namespace

TEST_CASE("with beta of one every answer is computed") {
  Asked a = asked(1);
  oracle::Random random(141);
  for (int i = 0; i < 500; ++i) {
    const int value = random.below(100);
    CHECK(a.ask(static_cast<std::uint64_t>(random.below(10)), value) == value);
  }
  CHECK(a.computed == 500);
}
TEST_CASE("intervals grow by beta while the answer stays the same") {
  Asked a = asked(2);
  std::vector<int> at;  // look-ups that computed
  for (int i = 1; i <= 64; ++i) {
    const int before = a.computed;
    a.ask(5, 7);
    if (a.computed > before) at.push_back(i);
  }
  CHECK(at == std::vector<int>{1, 2, 4, 8, 16, 32, 64});
}
TEST_CASE("an answer that changed begins at an interval of one again") {
  Asked a{ApproximateKeyCache({.slots = 2, .target = 1}), 0};
  for (int i = 0; i < 8; ++i) a.ask(5, 7);
  std::vector<int> seen;
  for (int i = 0; i < 8; ++i) seen.push_back(a.ask(5, 9));  // after look-up 8 the next one is computed at 16
  CHECK(seen == std::vector<int>{7, 7, 7, 7, 7, 7, 7, 9});
  const int before = a.computed;
  a.ask(5, 9);
  CHECK(a.computed == before + 1);
}
TEST_CASE("a key that was wrong must agree 1 / target times before its interval grows") {
  Asked a{ApproximateKeyCache({.slots = 2, .target = 0.25}), 0};
  a.ask(5, 7);
  a.ask(5, 9);  // checked, and wrong
  std::vector<int> at;
  for (int i = 1; i <= 12; ++i) {
    const int before = a.computed;
    a.ask(5, 9);
    if (a.computed > before) at.push_back(i);
  }
  CHECK(at == std::vector<int>{1, 2, 3, 4, 5, 7, 11});
}
TEST_CASE("answers of fewer choices than the cache has room for are given again as they were") {
  ApproximateKeyCache cache({.slots = 4});
  Slot out[4];
  const auto ask = [&](int fresh) {
    for (Slot& s : out) s = {-77, not_a_number};
    return cache.decide(5, {out, 4}, [&](moe::Row<Slot> choices) {
      for (int i = 0; i < fresh; ++i) choices[i] = {10 + i, 0.5f};
      return fresh;
    });
  };
  for (int i = 1; i <= 3; ++i) {  // the third is given again
    CHECK(ask(2) == 2);
    CHECK(out[0].expert == 10);
    CHECK(out[1].expert == 11);
    CHECK(out[2].expert == -77);
  }
  CHECK(cache.statistics().reused == 1);
  CHECK(cache.statistics().wrong == 0);
}
TEST_CASE("an interval is never longer than `longest`") {
  Asked a{ApproximateKeyCache({.slots = 2, .longest = 4}), 0};
  for (int i = 0; i < 400; ++i) a.ask(5, 7);
  CHECK(a.computed == 2 + 1 + 99);  // look-ups 1, 2, 4, and then one in four
}
TEST_CASE("an error above the target halves the intervals of every key") {
  Asked a{ApproximateKeyCache({.slots = 2, .target = 0.01, .memory = 0.9}), 0};
  for (int i = 0; i < 32; ++i) a.ask(1, 7);  // next computed at 64
  for (int i = 0; i < 8; ++i) a.ask(2, 7);
  for (int i = 0; i < 8; ++i) a.ask(2, 9);  // wrong for seven answers
  CHECK(a.cache.statistics().halvings == 1);
  int steps = 0;
  for (const int before = a.computed; a.computed == before; ++steps) a.ask(1, 7);
  CHECK(steps == 16);  // not 32
}
TEST_CASE("keys that share an entry take it from each other and are never mixed up") {
  Asked a = asked(2, 1);
  for (int i = 0; i < 100; ++i) CHECK(a.ask(static_cast<std::uint64_t>(i % 2), i % 2 * 10) == i % 2 * 10);
  CHECK(a.computed == 100);
}
TEST_CASE("on a Zipf trace with clear keys nothing is wrong and most is saved") {
  const Measured m = on_zipf(0.01, 0, 142);
  MESSAGE("saved ", m.saved, ", wrong ", m.wrong);
  CHECK(m.wrong == 0);
  CHECK(m.saved > 0.95);
}
TEST_CASE("on a Zipf trace with doubtful keys the measured error stays within the target") {
  for (const double target : {0.005, 0.01, 0.02})
    for (const double doubt : {0.05, 0.2, 0.5}) {
      const Measured m = on_zipf(target, doubt, 143);
      MESSAGE("target ", target, ", doubt ", doubt, ": wrong ", m.wrong, ", estimate ", m.estimate, ", saved ",
              m.saved);
      CHECK(m.wrong <= target + 3 * std::sqrt(target / std::max(m.reused, 1.0)));
      CHECK(m.saved > 0.5);
    }
}
TEST_CASE("ApproximateKeyCache refuses options that mean nothing") {
  CHECK(message_of([] { ApproximateKeyCache({.entries = 0, .slots = 2}); }).find("entries") != std::string::npos);
  CHECK(message_of([] { ApproximateKeyCache({.slots = 0}); }).find("slots") != std::string::npos);
  CHECK(message_of([] { ApproximateKeyCache({.slots = 2, .beta = 0.5}); }).find("beta") != std::string::npos);
}

// ---- keys

TEST_CASE("a sign key sees directions, not lengths") {
  oracle::Random random(144);
  for (int i = 0; i < 50; ++i) {
    std::vector<float> x = random.reals(16);
    const auto key = [&] { return SignProjection{}(moe::Row<const float>{x.data(), 16}); };
    const std::uint64_t before = key();
    for (float& v : x) v *= 4;
    CHECK(key() == before);
    for (float& v : x) v = -v;
    CHECK((key() ^ before) == 0xffffffffull);  // no sum is zero
  }
}
TEST_CASE("the share of sign bits that differ is the angle by pi") {
  oracle::Random random(145);
  double bits_differ = 0, angles = 0;
  for (int i = 0; i < 400; ++i) {
    const std::vector<float> a = random.reals(64);
    std::vector<float> b = a;
    for (float& v : b) v += random.real() / 2;
    double ab = 0, aa = 0, bb = 0;
    for (std::size_t e = 0; e < 64; ++e) {
      ab += static_cast<double>(a[e] * b[e]);
      aa += static_cast<double>(a[e] * a[e]);
      bb += static_cast<double>(b[e] * b[e]);
    }
    angles += std::acos(ab / std::sqrt(aa * bb)) / std::acos(-1.0);
    const SignProjection key{64, static_cast<std::uint64_t>(i)};
    const std::uint64_t d = key({a.data(), 64}) ^ key({b.data(), 64});
    for (int bit = 0; bit < 64; ++bit) bits_differ += static_cast<double>(d >> bit & 1u) / 64;
  }
  // 25600 bits of chance about 0.15, and +-1 vectors are Gaussian ones up to O(1 / columns).
  CHECK(std::fabs(bits_differ - angles) / 400 < 5 * std::sqrt(0.15 * 0.85 / 25600) + 1.0 / 64);
}
TEST_CASE("a rounded key stays for small moves and changes with the largest coordinates") {
  const std::vector<float> x{0.1f, 7, -4, 0.2f, 3}, near{0.11f, 7, -4.1f, -0.2f, 3.05f}, swapped{0.1f, 4, -7, 0.2f, 3};
  const RoundedTop key{3, 7};
  const auto of = [&](const std::vector<float>& v) { return key({v.data(), 5}); };
  CHECK(of(x) == of(near));
  CHECK(of(x) != of(swapped));
  CHECK(of({0, 0, 0, 0, 0}) == of({0, 0, 0, 0, 0}));
}
TEST_CASE("a rounded key is a number for rows of NaN and infinities too") {
  CHECK(RoundedTop{2, 7}({std::vector<float>{not_a_number, infinity, 1}.data(), 3}) != 0);
}

// ---- a table for the layer

TEST_CASE("route_approximately fills the router's own table when every answer is computed") {
  oracle::Random random(146);
  const TopK router{.experts = 8, .k = 2};
  const std::vector<float> logits = random.reals(20 * 8, 4);
  const std::vector<float> x = random.reals(20 * 4);
  ApproximateKeyCache cache({.slots = 2, .beta = 1});
  Table table(20, 2), expected(20, 2);
  moe::RoutingTable<> filled = table.get();
  for (int round = 0; round < 3; ++round) {
    moe::route_approximately(
        cache, RoundedTop{}, router, {}, view(x, 4), [&](int t) { return view(logits, 8).row(t); }, filled);
    for (int t = 0; t < 20; ++t) {
      moe::select(router, moe::RouteContext<>{}.at(t, view(logits, 8).row(t)), moe::Row<Slot>{&expected.at(t, 0), 2});
      for (int k = 0; k < 2; ++k) {
        CHECK(table.at(t, k).expert == expected.at(t, k).expert);
        CHECK(table.at(t, k).weight == expected.at(t, k).weight);
      }
    }
  }
}
