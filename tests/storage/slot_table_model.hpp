// Explores every state that the calls of slot_table_calls.hpp, and reads that end well or badly, can bring a table of
// slots into; or walks through them at random.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "slot_table_calls.hpp"

namespace slot_model {

class Model : Calls {
 public:
  explicit Model(Setup setup) : Calls(std::move(setup)) {}

  /// Empty if everything holds, else what does not and the steps that lead there.
  std::string explore() {
    visit(first(), -1, {});
    while (!open_.empty() && problem_.empty()) {
      auto [state, id] = std::move(open_.front());  // the nearest first: short counterexamples
      open_.pop_front();
      expand(state, id);
    }
    if (problem_.empty()) check_progress();
    return problem_;
  }
  std::size_t states() const { return ids_.size(); }

  /// `steps` random steps instead of all: for tables too large to explore. Every state is checked as above.
  std::string walk(int steps, std::uint64_t seed) {
    random_ = seed;
    State s = first();
    const std::uint64_t served_before = served_;
    for (int i = 0; i < steps && problem_.empty(); ++i) {
      State next = s;
      const Step how = random_step(next);
      check_kept(s, next, how);
      check(next);
      check_statistics(next, served_ - served_before);
      s = std::move(next);
    }
    return problem_;
  }

 private:
  void expand(const State& s, int id) {
    for (int t = 0; t < num_threads; ++t) {
      const Call& call = s.calls[static_cast<std::size_t>(t)];
      if (call.at == At::idle)
        for_each_wish([&](const std::vector<ExpertNeed>& wish) {
          step(s, id, {'b', t, wish[0].expert, second(wish)}, [&](State& n) { begin(n, t, wish); });
        });
      if (call.at == At::running) step(s, id, {'g', t}, [&](State& n) { go_on(n, t, false); });
      if (call.at == At::failing) step(s, id, {'g', t}, [&](State& n) { abandon(n, t); });
      if (call.at == At::computing || call.at == At::leaving)
        step(s, id, {'g', t}, [&](State& n) { unpin(n, n.calls[static_cast<std::size_t>(t)]); });
      if (call.at == At::computing) step(s, id, {'q', t}, [&](State& n) { abandon(n, t); });
    }
    for (int slot = 0; slot < static_cast<int>(s.table.slots().size()); ++slot) {
      if (s.table.slot(slot).phase != Phase::loading) continue;
      for (const bool well : {true, false})
        step(s, id, {well ? 'w' : 'x', slot}, [&](State& n) {
          n.table.loaded(slot, well, 1);
          wake(n);
        });
    }
    for_each_wish([&](const std::vector<ExpertNeed>& wish) {
      if (std::any_of(wish.begin(), wish.end(), [](const ExpertNeed& n) { return lowest_of(n) < 0; })) return;
      step(s, id, {'p', wish[0].expert, second(wish)}, [&](State& n) { guess(n, wish); });
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

  template <class Change>
  void step(const State& s, int id, Step how, const Change& change) {
    if (!problem_.empty()) return;
    State next = s;
    change(next);
    check_kept(s, next, how);
    if (!problem_.empty()) return explain(id, how);
    const int to = visit(std::move(next), id, how);
    if (how.what == 'g' || how.what == 'w') progress_.emplace_back(id, to);
    if (!problem_.empty()) explain(id, how);
  }

  // ---- random steps

  int below(int n) {
    std::uint64_t z = random_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return static_cast<int>(((z ^ (z >> 27)) >> 33) % static_cast<std::uint64_t>(n));
  }
  std::vector<ExpertNeed> random_wish(bool guess) {
    std::vector<ExpertNeed> wish;
    for (int e = 0; e < setup_.experts; ++e) {
      const int lowest = setup_.lowest[static_cast<std::size_t>(below(static_cast<int>(setup_.lowest.size())))];
      if (below(3) == 0 && (lowest >= 0 || !guess))
        wish.push_back(need_of(e, lowest, static_cast<float>(below(4)) / 4));
    }
    return wish;
  }
  Step random_step(State& s) {
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
          if (slot->claim == wave_of(t)) owner = 1 + thread(t);
        const bool guessed_and_streamed = slot->guessed && slot->streamed;  // others only count
        out += static_cast<char>(static_cast<int>(slot->phase) | (guessed_and_streamed ? 4 : 0) |
                                 (slot->streamed ? 8 : 0) | owner << 4 | (slot->joined ? 64 : 0));
        out += static_cast<char>(slot->pins);
      }
    }
    for (int t = 0; t < num_threads; ++t) {
      const Call& call = s.calls[static_cast<std::size_t>(thread(t))];
      out += static_cast<char>(call.at);
      if (call.at == At::idle) continue;
      for (const ExpertNeed& need : call.todo) out += {name(need.expert), static_cast<char>(lowest_of(need))};
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
  int visit(State&& s, int from, Step how) {
    check(s);
    std::string name = std::min(key(s, false), key(s, true));
    const auto [found, fresh] = ids_.emplace(std::move(name), static_cast<int>(ids_.size()));
    if (!fresh) return found->second;
    finished_.push_back(s.table.loading(0) == 0 && std::all_of(s.calls.begin(), s.calls.end(),
                                                               [](const Call& call) { return call.at == At::idle; }));
    came_.emplace_back(from, how);
    open_.emplace_back(std::move(s), found->second);
    return found->second;
  }
  /// If nobody begins anything and reads end well, every order of steps comes to an end, and there all calls have
  /// ended.
  void check_progress() {
    std::vector<int> out(ids_.size(), 0), first_in(ids_.size() + 1, 0), in(progress_.size());
    for (const auto& [from, to] : progress_) {
      ++out[static_cast<std::size_t>(from)];
      ++first_in[static_cast<std::size_t>(to) + 1];
    }
    for (std::size_t i = 1; i < first_in.size(); ++i) first_in[i] += first_in[i - 1];
    std::vector<int> next(first_in);
    for (const auto& [from, to] : progress_) in[static_cast<std::size_t>(next[static_cast<std::size_t>(to)]++)] = from;
    std::vector<int> ends;
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (out[i] != 0) continue;
      if (!finished_[i]) {
        fail("a call stands still");
        return explain(static_cast<int>(i), {});
      }
      ends.push_back(static_cast<int>(i));
    }
    std::size_t ended = 0;
    for (; ended < ends.size(); ++ended) {
      const auto at = static_cast<std::size_t>(ends[ended]);
      for (int i = first_in[at]; i < first_in[at + 1]; ++i)
        if (--out[static_cast<std::size_t>(in[static_cast<std::size_t>(i)])] == 0)
          ends.push_back(in[static_cast<std::size_t>(i)]);
    }
    if (ended != ids_.size()) fail("calls go round in a circle");
  }
  void explain(int id, Step last) {
    std::vector<Step> steps{last};
    for (; id >= 0; id = came_[static_cast<std::size_t>(id)].first)
      steps.push_back(came_[static_cast<std::size_t>(id)].second);
    problem_ += ", after";
    for (auto s = steps.rbegin(); s != steps.rend(); ++s) {
      problem_ += ' ';
      problem_ += s->what;
      for (const int n : {s->a, s->b, s->c})
        if (n >= 0) problem_ += std::to_string(n);
    }
  }

  std::uint64_t random_ = 0;
  std::unordered_map<std::string, int> ids_;
  std::deque<std::pair<State, int>> open_;
  std::vector<std::pair<int, int>> progress_;  // steps in which nobody begins, guesses, fails or quits
  std::vector<bool> finished_;
  std::vector<std::pair<int, Step>> came_;
};

}  // namespace slot_model
