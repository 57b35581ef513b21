// What every router that decides row by row must do. Each law takes a router (or makes routers) and is one fact.
#pragma once

#include <algorithm>
#include <cmath>
#include <moe/concepts.hpp>
#include <numeric>
#include <set>
#include <vector>

#include "problem.hpp"

namespace router_laws {

using moe::Slot;

/// What `router` chooses, given room for `slots` choices (by default all that it can make).
template <class R>
std::vector<Slot> choose(const R& router, const std::vector<float>& logits, int slots = -1,
                         const std::uint32_t* allowed = nullptr) {
  std::vector<Slot> out(static_cast<std::size_t>(slots < 0 ? router.max_slots() : slots), Slot{-77, not_a_number});
  moe::RouteContext<> context;
  context.allowed = allowed;
  const int n = moe::select(router, context.at(0, {logits.data(), static_cast<int>(logits.size())}),
                            moe::Row<Slot>{out.data(), static_cast<int>(out.size())});
  REQUIRE(n >= 0);
  REQUIRE(n <= static_cast<int>(out.size()));
  out.resize(static_cast<std::size_t>(n));
  return out;
}
inline std::vector<int> ids(const std::vector<Slot>& slots) {
  std::vector<int> out;
  for (const Slot& s : slots) out.push_back(s.expert);
  return out;
}
inline std::vector<float> weights(const std::vector<Slot>& slots) {
  std::vector<float> out;
  for (const Slot& s : slots) out.push_back(s.weight);
  return out;
}

/// Logits that repeat: many ties.
inline std::vector<float> coarse_logits(oracle::Random& random, int n) {
  std::vector<float> out;
  for (int i = 0; i < n; ++i) out.push_back(static_cast<float>(random.between(-2, 2)));
  return out;
}
/// Distinct multiples of 1/64 within [-8, 8): sums and differences with small integers are exact.
inline std::vector<float> distinct_logits(oracle::Random& random, int n) {
  std::vector<float> all(1024);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<float>(i) / 64 - 8;
  std::shuffle(all.begin(), all.end(), random.engine);
  all.resize(static_cast<std::size_t>(n));
  return all;
}
/// Calls f(logits) for rows of many kinds.
template <class R, class F>
void for_many_rows(const R& router, const F& f) {
  oracle::Random random(11);
  CAPTURE(random.seed);
  const int n = router.num_logits();
  for (int i = 0; i < 25; ++i) {
    f(random.reals(n, 8));
    f(coarse_logits(random, n));
  }
  f(std::vector<float>(static_cast<std::size_t>(n), 0.0f));
}

template <class R>
void ids_are_distinct_and_in_range(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<int> found = ids(choose(router, logits));
    CHECK(std::set<int>(found.begin(), found.end()).size() == found.size());
    for (const int e : found) CHECK((e >= 0 && e < router.num_experts()));
  });
}
template <class R>
void fills_every_slot(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    CHECK(static_cast<int>(choose(router, logits).size()) == router.max_slots());
  });
}
template <class R>
void weights_descend(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<float> found = weights(choose(router, logits));
    CHECK(std::is_sorted(found.rbegin(), found.rend()));
  });
}
template <class R>
void ties_go_to_the_lower_id(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<int> found = ids(choose(router, logits));
    const auto logit = [&](int e) { return logits[static_cast<std::size_t>(e)]; };
    for (std::size_t k = 1; k < found.size(); ++k)
      if (logit(found[k - 1]) == logit(found[k])) CHECK(found[k - 1] < found[k]);
    if (found.empty()) return;
    for (int e = 0; e < found.back(); ++e)  // who equals the last choice and was not chosen has a higher id
      if (logit(e) == logit(found.back())) CHECK(std::count(found.begin(), found.end(), e) == 1);
  });
}
template <class R>
void answers_the_same_twice(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<Slot> first = choose(router, logits), second = choose(router, logits);
    CHECK(ids(first) == ids(second));
    CHECK(bits(weights(first)) == bits(weights(second)));
  });
}
template <class R>
void fewer_slots_give_the_first_picks(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<int> all = ids(choose(router, logits));
    for (std::size_t n = 0; n <= all.size(); ++n) {
      const std::vector<int> some = ids(choose(router, logits, static_cast<int>(n)));
      CHECK(some == std::vector<int>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(n)));
    }
  });
}

/// All 3^8 patterns of NaN, +inf, -inf over finite logits, and all 4^8 with a finite fourth.
template <class R>
void survives_every_pattern(const R& router) {
  REQUIRE(router.num_logits() == 8);
  const float kinds[] = {not_a_number, infinity, -infinity, 0};
  for (int pattern = 0; pattern < 1 << 16; ++pattern) {
    CAPTURE(pattern);
    std::vector<float> logits;
    for (int e = 0; e < 8; ++e) {
      const int kind = pattern >> (2 * e) & 3;
      logits.push_back(kind == 3 ? static_cast<float>(e % 3) - 1 : kinds[kind]);
    }
    const std::vector<Slot> slots = choose(router, logits);
    bool sound = static_cast<int>(slots.size()) == router.max_slots();
    std::uint32_t seen = 0;
    for (const Slot& s : slots) {
      sound = sound && s.expert >= 0 && s.expert < 8 && (seen >> s.expert & 1) == 0;
      sound = sound && std::isfinite(s.weight) && s.weight >= 0;
      seen |= s.expert >= 0 && s.expert < 8 ? 1u << s.expert : 0u;
    }
    if (!sound) CHECK(sound);  // one assertion for each bad pattern, not 65536
  }
}
template <class R>
void ranks_not_a_number_below_every_number(const R& router) {
  std::vector<float> logits(static_cast<std::size_t>(router.num_logits()), not_a_number);
  logits.back() = -infinity;
  CHECK(choose(router, logits).front().expert == router.num_logits() - 1);
}

/// The sums are exact, so that softmax sees the same differences.
template <class R>
void adding_a_constant_changes_nothing(const R& router) {
  oracle::Random random(12);
  for (int i = 0; i < 100; ++i) {
    std::vector<float> logits = distinct_logits(random, router.num_logits());
    const std::vector<Slot> before = choose(router, logits);
    for (float& l : logits) l += static_cast<float>(i - 50);
    const std::vector<Slot> after = choose(router, logits);
    CHECK(ids(before) == ids(after));
    CHECK(bits(weights(before)) == bits(weights(after)));
  }
}
template <class R>
void permuting_experts_permutes_the_answer(const R& router) {
  oracle::Random random(13);
  const auto n = static_cast<std::size_t>(router.num_logits());
  std::vector<int> to(n);
  std::iota(to.begin(), to.end(), 0);
  for (int i = 0; i < 100; ++i) {
    std::shuffle(to.begin(), to.end(), random.engine);
    const std::vector<float> logits = distinct_logits(random, router.num_logits());
    std::vector<float> permuted(n);
    for (std::size_t e = 0; e < n; ++e) permuted[static_cast<std::size_t>(to[e])] = logits[e];
    std::vector<int> expected;
    for (const int e : ids(choose(router, logits))) expected.push_back(to[static_cast<std::size_t>(e)]);
    CHECK(ids(choose(router, permuted)) == expected);
  }
}

template <class R>
void picks_only_what_is_allowed(const R& router) {
  oracle::Random random(14);
  const int n = router.num_experts();
  for (int i = 0; i < 200; ++i) {
    std::vector<std::uint32_t> mask(static_cast<std::size_t>(n + 31) / 32);
    for (std::uint32_t& word : mask) word = static_cast<std::uint32_t>(random.engine());
    int allowed = 0;
    for (int e = 0; e < n; ++e) allowed += static_cast<int>(mask[static_cast<std::size_t>(e / 32)] >> (e % 32) & 1u);
    const std::vector<Slot> slots = choose(router, random.reals(n, 4), -1, mask.data());
    for (const Slot& s : slots) CHECK((mask[static_cast<std::size_t>(s.expert / 32)] >> (s.expert % 32) & 1u) == 1u);
    CHECK(static_cast<int>(slots.size()) == std::min(allowed, router.max_slots()));
  }
}
template <class R>
void nothing_allowed_gives_no_slot(const R& router) {
  const std::vector<std::uint32_t> mask(static_cast<std::size_t>(router.num_experts() + 31) / 32, 0u);
  CHECK(
      choose(router, std::vector<float>(static_cast<std::size_t>(router.num_logits()), 1.0f), -1, mask.data()).empty());
}

/// Weights against the oracle's text of the same rule.
template <class R>
void weights_agree_with_oracle(const R& router, const oracle::Routing& rule) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<Slot> found = choose(router, logits);
    const std::vector<oracle::Pick> expected = oracle::route(rule, logits, router.max_slots());
    REQUIRE(found.size() == expected.size());
    for (std::size_t k = 0; k < found.size(); ++k) {
      CHECK(found[k].expert == expected[k].expert);
      CHECK(within(found[k].weight, expected[k].weight));
    }
  });
}

}  // namespace router_laws
