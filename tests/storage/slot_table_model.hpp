// Explores every state that the calls of slot_table_calls.hpp, and reads that end well or badly, can bring a table of
// slots into; or walks through them at random.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "slot_table_calls.hpp"

namespace slot_model {

class Model : public Calls {
 public:
  explicit Model(Setup setup) : Calls(std::move(setup)) {}

  /// `steps` random steps instead of all: for tables too large to explore. Every state is checked as above.
  std::string walk(int steps, std::uint64_t seed) {
    random_ = seed;
    State s = first();
    const std::uint64_t served_before = served_;
    for (int i = 0; i < steps && problem().empty(); ++i) {
      State next = s;
      const ModelStep how = random_step(next);
      check_step(s, next, how);
      check(next);
      check_statistics(next, served_ - served_before);
      s = std::move(next);
    }
    return problem();
  }

 private:
  void expand(const State& s) override {
    for (int t = 0; t < num_threads; ++t) {
      const Call& call = s.calls[static_cast<std::size_t>(t)];
      if (call.at == At::idle)
        for_each_wish([&](const std::vector<ExpertNeed>& wish) {
          step(s, {'b', t, wish[0].expert, second(wish)}, false, [&](State& n) { begin(n, t, wish); });
        });
      if (call.at == At::running) step(s, {'g', t}, true, [&](State& n) { go_on(n, t, false); });
      if (call.at == At::failing) step(s, {'g', t}, true, [&](State& n) { abandon(n, t); });
      if (call.at == At::computing || call.at == At::leaving)
        step(s, {'g', t}, true, [&](State& n) { unpin(n, n.calls[static_cast<std::size_t>(t)]); });
      if (call.at == At::computing) step(s, {'q', t}, false, [&](State& n) { abandon(n, t); });
    }
    for (int slot = 0; slot < static_cast<int>(s.table.slots().size()); ++slot) {
      if (s.table.slot(slot).phase != Phase::loading) continue;
      for (const bool well : {true, false})
        step(s, {well ? 'w' : 'x', slot}, well, [&](State& n) {
          n.table.loaded(slot, well, 1);
          wake(n);
        });
    }
    for_each_wish([&](const std::vector<ExpertNeed>& wish) {
      if (std::any_of(wish.begin(), wish.end(), [](const ExpertNeed& n) { return n.lowest < 0; })) return;
      step(s, {'p', wish[0].expert, second(wish)}, false, [&](State& n) { guess(n, wish); });
    });
  }
  static int second(const std::vector<ExpertNeed>& wish) { return wish.size() > 1 ? wish.back().expert : -1; }
  /// One or two different experts, in every order and with every choice of formats.
  template <class Visit>
  void for_each_wish(const Visit& visit) const {
    for (int a = 0; a < setup_.experts; ++a)
      for (const int low_a : setup_.lowest) {
        visit({need_of(a, low_a, 0)});
        for (int b = 0; b < setup_.experts; ++b)
          for (const int low_b : setup_.lowest)
            if (b != a) visit({need_of(a, low_a, 0), need_of(b, low_b, 0.5f)});
      }
  }

  // ---- random steps

  int below(int n) { return static_cast<int>((moe::next_random(random_) >> 33) % static_cast<std::uint64_t>(n)); }
  std::vector<ExpertNeed> random_wish(bool guess) {
    std::vector<ExpertNeed> wish;
    for (int e = 0; e < setup_.experts; ++e) {
      const int lowest = setup_.lowest[static_cast<std::size_t>(below(static_cast<int>(setup_.lowest.size())))];
      if (below(3) == 0 && (lowest >= 0 || !guess))
        wish.push_back(need_of(e, lowest, static_cast<float>(below(4)) / 4));
    }
    return wish;
  }
  ModelStep random_step(State& s) {
    const int what = below(8), t = below(num_threads);
    Call& call = s.calls[static_cast<std::size_t>(t)];
    if (what == 0) {
      guess(s, random_wish(true));
      return {'p'};
    }
    if (what <= 4) {
      const int slot = below(static_cast<int>(s.table.slots().size()));
      if (s.table.slot(slot).phase != Phase::loading) return {};
      s.table.loaded(slot, below(8) != 0, 1);
      wake(s);
      return {'w'};
    }
    if (call.at == At::idle) {
      if (below(8) == 0) s.table.begin_sequence();
      begin(s, t, random_wish(false));
      return {'b', t};
    }
    if (call.at == At::failing || (call.at == At::computing && below(16) == 0)) {
      abandon(s, t);
      return {'q', t};
    }
    if (call.at == At::running) go_on(s, t, false);
    if (call.at == At::computing || call.at == At::leaving) unpin(s, call);
    return {'g', t};
  }
  // ---- states

  /// A state up to the names of experts, slots and threads, and to what only counts.
  std::string key(const State& s, bool swapped) const {
    std::vector<int> by_age(static_cast<std::size_t>(setup_.experts)), age(by_age.size());
    for (std::size_t e = 0; e < by_age.size(); ++e) by_age[e] = static_cast<int>(e);
    const auto last_use = [&](int e) { return s.table.entry(0, e).last_use; };
    std::sort(by_age.begin(), by_age.end(), [&](int a, int b) { return last_use(a) < last_use(b); });
    for (std::size_t i = 0; i < by_age.size(); ++i) age[static_cast<std::size_t>(by_age[i])] = static_cast<int>(i);
    const auto name = [&](int expert) { return static_cast<char>(age[static_cast<std::size_t>(expert)]); };
    const auto thread = [&](int t) { return swapped ? num_threads - 1 - t : t; };
    std::string out;
    for (const int e : by_age) {
      out += s.expected[static_cast<std::size_t>(e)] ? 'e' : '-';
      for (int f = 0; f < formats(); ++f) {
        const CacheSlot* const slot = find(s, e, f);
        if (slot == nullptr) {
          out += '\0';
          continue;
        }
        int owner = 0;
        for (int t = 0; t < num_threads; ++t)
          if (belongs_to(s, *slot, t)) owner = 1 + thread(t);
        const bool guessed_and_streamed = slot->loaded_for == For::guess && slot->streamed;  // others only count
        out += static_cast<char>(static_cast<int>(slot->phase) | (guessed_and_streamed ? 4 : 0) |
                                 (slot->streamed ? 8 : 0) | owner << 4 | (slot->joined ? 64 : 0));
        out += static_cast<char>(slot->pins);
      }
    }
    for (int t = 0; t < num_threads; ++t) {
      const Call& call = s.calls[static_cast<std::size_t>(thread(t))];
      out += static_cast<char>(call.at);
      if (call.at == At::idle) continue;
      for (const ExpertNeed& need : call.todo) out += {name(need.expert), static_cast<char>(need.lowest)};
      out += '\x7f';
      for (const int pin : call.pins)
        out += {name(s.table.slot(pin).expert), static_cast<char>(s.table.slot(pin).format)};
      const auto used_since =
          std::count_if(by_age.begin(), by_age.end(), [&](int e) { return last_use(e) >= call.ticket; });
      if (!call.todo.empty()) out += static_cast<char>(used_since);
      out += '\x7e';
    }
    return out;
  }
  std::string key(const State& s) const override { return std::min(key(s, false), key(s, true)); }
  bool finished(const State& s) const override {
    return s.table.loading(0) == 0 &&
           std::all_of(s.calls.begin(), s.calls.end(), [](const Call& call) { return call.at == At::idle; });
  }

  std::uint64_t random_ = 0;
};

}  // namespace slot_model
