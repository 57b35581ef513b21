// What routers that decide row by row must do. Each law takes a router and is one fact. Those above the line hold for
// all of them; those below it for routers that choose by logits alone, fill every slot, or weigh by softmax.
#pragma once

#include <algorithm>
#include <cmath>
#include <moe/concepts.hpp>
#include <numeric>
#include <set>
#include <type_traits>
#include <vector>

#include "problem.hpp"

namespace router_laws {

using moe::Slot;

/// What `router` chooses, given room for `slots` choices (by default all that it can make).
template <class R>
std::vector<Slot> choose(const R& router, const std::vector<float>& logits, int slots = -1,
                         const std::uint32_t* allowed = nullptr) {
  std::vector<Slot> out(static_cast<std::size_t>(slots < 0 ? moe::max_slots(router) : slots), Slot{-77, not_a_number});
  const int token = 3, rule = 1, position = 5;
  const std::vector<std::uint32_t> all(64, ~0u);
  moe::RouteContext<> context;
  context.tokens = &token;
  context.rules = &rule;
  context.positions = &position;
  context.resident = all.data();
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
  const int n = moe::num_logits(router);
  for (int i = 0; i < 25; ++i) {
    f(random.reals(n, 8));
    f(coarse_logits(random, n));
  }
  f(std::vector<float>(static_cast<std::size_t>(n), 0.0f));
}

// ---- for all routers

/// Ids that a table may hold: networks, identities, and what else has a logit (MoE++'s constants).
template <class R>
int known_ids(const R& router) {
  const moe::IdMap ids = moe::ids_of(router);
  return std::max(ids.networks + ids.identities, moe::num_logits(router));
}
/// Ids that a mask of allowed experts has bits for.
template <class R>
int masked_ids(const R& router) {
  return std::max(moe::num_experts(router), moe::num_logits(router));
}

/// Rows of NaN, infinities and both zeros among numbers, of any width; the first are all the same.
template <class R, class F>
void for_broken_rows(const R& router, const F& f) {
  oracle::Random random(15);
  CAPTURE(random.seed);
  const float kinds[] = {not_a_number, infinity,           -infinity,           0,
                         -0.0f,        moe::largest_float, -moe::largest_float, 0x1p-140f};
  for (int i = 0; i < 1000; ++i) {
    std::vector<float> logits;
    for (int e = 0; e < moe::num_logits(router); ++e) {
      const int kind = i < 8 ? i : random.between(0, 11);
      logits.push_back(kind < 8 ? kinds[kind] : random.real());
    }
    f(logits);
  }
}
/// f(mask) for many masks of `n` ids.
template <class F>
void for_many_masks(int n, const F& f) {
  oracle::Random random(14);
  for (int i = 0; i < 200; ++i) {
    std::vector<std::uint32_t> mask(static_cast<std::size_t>(n + 31) / 32);
    for (std::uint32_t& word : mask) word = static_cast<std::uint32_t>(random.engine());
    f(mask);
  }
}
inline bool has_bit(const std::vector<std::uint32_t>& mask, int e) { return moe::has_expert(mask.data(), e); }

/// No state to share or to move: a kernel takes it by value.
template <class R>
void is_a_plain_value(const R&) {
  static_assert(std::is_trivially_copyable_v<R>);
  static_assert(moe::TokenRouter<R>);
}
template <class R>
void ids_are_distinct_and_known(const R& router) {
  const auto check = [&](const std::vector<float>& logits) {
    const std::vector<int> found = ids(choose(router, logits));
    CHECK(std::set<int>(found.begin(), found.end()).size() == found.size());
    for (const int e : found) CHECK((e >= 0 && e < known_ids(router)));
  };
  for_many_rows(router, check);
  for_broken_rows(router, check);
}
template <class R>
void weights_are_finite_and_not_negative(const R& router) {
  const auto check = [&](const std::vector<float>& logits) {
    for (const float w : weights(choose(router, logits))) CHECK((std::isfinite(w) && w >= 0));
  };
  for_many_rows(router, check);
  for_broken_rows(router, check);
}
template <class R>
void fewer_slots_give_a_prefix(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<int> all = ids(choose(router, logits));
    for (int n = 0; n <= moe::max_slots(router); ++n) {
      const std::vector<int> some = ids(choose(router, logits, n));
      REQUIRE(some.size() <= all.size());
      CHECK(std::equal(some.begin(), some.end(), all.begin()));
    }
  });
}
template <class R>
void no_room_gives_no_slot(const R& router) {
  for_broken_rows(router, [&](const std::vector<float>& logits) { CHECK(choose(router, logits, 0).empty()); });
}
template <class R>
void chooses_only_what_is_allowed(const R& router) {
  oracle::Random random(16);
  for_many_masks(masked_ids(router), [&](const std::vector<std::uint32_t>& mask) {
    for (const Slot& s : choose(router, random.reals(moe::num_logits(router), 4), -1, mask.data()))
      CHECK(has_bit(mask, s.expert));
  });
}
template <class R>
void nothing_allowed_gives_nothing(const R& router) {
  const std::vector<std::uint32_t> mask(static_cast<std::size_t>(masked_ids(router) + 31) / 32, 0u);
  for_many_rows(router,
                [&](const std::vector<float>& logits) { CHECK(choose(router, logits, -1, mask.data()).empty()); });
}
/// A device that picks the largest keys, ties to the lower id, chooses and weighs as `select` does.
template <class R>
void keys_choose_as_select(const R& router) {
  if constexpr (moe::KeyRouter<R>) {
    const auto check = [&](const std::vector<float>& logits) {
      moe::RouteContext<> context;
      const moe::RowContext row = context.at(0, {logits.data(), static_cast<int>(logits.size())});
      const auto key_of = router.keys(row);
      std::vector<Slot> all;
      for (int e = 0; e < known_ids(router); ++e)
        if (float key = not_a_number; key_of(e, key)) all.push_back({e, key});
      std::stable_sort(all.begin(), all.end(), [](const Slot& a, const Slot& b) { return a.weight > b.weight; });
      all.resize(std::min(all.size(), static_cast<std::size_t>(moe::max_slots(router))));
      router.weigh(row, {all.data(), static_cast<int>(all.size())});
      const std::vector<Slot> chosen = choose(router, logits);
      CHECK(ids(all) == ids(chosen));
      CHECK(bits(weights(all)) == bits(weights(chosen)));
    };
    for_many_rows(router, check);
    for_broken_rows(router, check);
  }
}
/// A row's number in its batch is not its position: splitting a batch must change nothing.
template <class R>
void the_row_of_the_batch_does_not_matter(const R& router) {
  const auto ask = [&](moe::RowContext row, int number) {
    std::vector<Slot> out(static_cast<std::size_t>(moe::max_slots(router)));
    row.row = number;
    out.resize(static_cast<std::size_t>(moe::select(router, row, {out.data(), static_cast<int>(out.size())})));
    return out;
  };
  for_many_rows(router, [&](const std::vector<float>& logits) {
    moe::RowContext row{{logits.data(), static_cast<int>(logits.size())}};
    row.token = 3;
    const std::vector<Slot> first = ask(row, 0), second = ask(row, 1000);
    CHECK(ids(first) == ids(second));
    CHECK(bits(weights(first)) == bits(weights(second)));
  });
}

// ---- for routers that say so

template <class R>
void ids_are_distinct_and_in_range(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<int> found = ids(choose(router, logits));
    CHECK(std::set<int>(found.begin(), found.end()).size() == found.size());
    for (const int e : found) CHECK((e >= 0 && e < moe::num_experts(router)));
  });
}
template <class R>
void fills_every_slot(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    CHECK(static_cast<int>(choose(router, logits).size()) == moe::max_slots(router));
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
/// Of equal logits the lower id comes first, and no higher one without it.
template <class R>
void ties_between_chosen_go_to_the_lower_id(const R& router) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<int> found = ids(choose(router, logits));
    for (std::size_t k = 0; k < found.size(); ++k)
      for (int e = 0; e < found[k]; ++e)
        if (logits[static_cast<std::size_t>(e)] == logits[static_cast<std::size_t>(found[k])])
          CHECK(std::find(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(k), e) !=
                found.begin() + static_cast<std::ptrdiff_t>(k));
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
  REQUIRE(moe::num_logits(router) == 8);
  const float kinds[] = {not_a_number, infinity, -infinity, 0};
  for (int pattern = 0; pattern < 1 << 16; ++pattern) {
    CAPTURE(pattern);
    std::vector<float> logits;
    for (int e = 0; e < 8; ++e) {
      const int kind = pattern >> (2 * e) & 3;
      logits.push_back(kind == 3 ? static_cast<float>(e % 3) - 1 : kinds[kind]);
    }
    const std::vector<Slot> slots = choose(router, logits);
    bool sound = static_cast<int>(slots.size()) == moe::max_slots(router);
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
  std::vector<float> logits(static_cast<std::size_t>(moe::num_logits(router)), not_a_number);
  logits.back() = -infinity;
  CHECK(choose(router, logits).front().expert == moe::num_logits(router) - 1);
}

/// The sums are exact, so that softmax sees the same differences.
template <class R>
void adding_a_constant_changes_nothing(const R& router) {
  oracle::Random random(12);
  for (int i = 0; i < 100; ++i) {
    std::vector<float> logits = distinct_logits(random, moe::num_logits(router));
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
  const auto n = static_cast<std::size_t>(moe::num_logits(router));
  std::vector<int> to(n);
  std::iota(to.begin(), to.end(), 0);
  for (int i = 0; i < 100; ++i) {
    std::shuffle(to.begin(), to.end(), random.engine);
    const std::vector<float> logits = distinct_logits(random, moe::num_logits(router));
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
  const int n = moe::num_experts(router);
  for (int i = 0; i < 200; ++i) {
    std::vector<std::uint32_t> mask(static_cast<std::size_t>(n + 31) / 32);
    for (std::uint32_t& word : mask) word = static_cast<std::uint32_t>(random.engine());
    int allowed = 0;
    for (int e = 0; e < n; ++e) allowed += static_cast<int>(mask[static_cast<std::size_t>(e / 32)] >> (e % 32) & 1u);
    const std::vector<Slot> slots = choose(router, random.reals(n, 4), -1, mask.data());
    for (const Slot& s : slots) CHECK((mask[static_cast<std::size_t>(s.expert / 32)] >> (s.expert % 32) & 1u) == 1u);
    CHECK(static_cast<int>(slots.size()) == std::min(allowed, moe::max_slots(router)));
  }
}
template <class R>
void nothing_allowed_gives_no_slot(const R& router) {
  const std::vector<std::uint32_t> mask(static_cast<std::size_t>(moe::num_experts(router) + 31) / 32, 0u);
  CHECK(choose(router, std::vector<float>(static_cast<std::size_t>(moe::num_logits(router)), 1.0f), -1, mask.data())
            .empty());
}

/// Weights against the oracle's text of the same rule.
template <class R>
void weights_agree_with_oracle(const R& router, const oracle::Routing& rule) {
  for_many_rows(router, [&](const std::vector<float>& logits) {
    const std::vector<Slot> found = choose(router, logits);
    const std::vector<oracle::Pick> expected = oracle::route(rule, logits, moe::max_slots(router));
    REQUIRE(found.size() == expected.size());
    for (std::size_t k = 0; k < found.size(); ++k) {
      CHECK(found[k].expert == expected[k].expert);
      CHECK(within(found[k].weight, expected[k].weight));
    }
  });
}

}  // namespace router_laws
