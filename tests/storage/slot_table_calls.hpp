// Calls on two threads and a prefetching thread, as steps on a copyable table of slots, and what must hold after each.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <moe/storage/slot_table.hpp>

#include "explorer.hpp"

namespace slot_model {

using moe::ExpertNeed;
using moe::detail::CacheSlot;
using moe::detail::For;
using moe::detail::Phase;
using moe::detail::SlotTable;

struct Setup {
  moe::detail::SlotLimits limits;
  int experts = 4;
  std::vector<int> lowest = {0};  // what a call may ask for: the least precise format that serves, -1: skip if absent
  bool keep_guesses = true;       // until their layer is called
  bool one_by_one = true;         // a wave's pins go under one lock each
};

inline constexpr int num_threads = 2;
inline ExpertNeed need_of(int expert, int lowest, float mass_ahead) { return {expert, 1, 1, mass_ahead, lowest}; }

/// Where a thread stands in Cached::acquire and around it. It is `running` before it takes the lock, `failing` between
/// the error and Cached::abandon, `leaving` while it drops pins after that.
enum class At : unsigned char { idle, running, waiting, computing, failing, leaving };

struct Call {
  At at = At::idle;
  std::uint64_t ticket = 0;
  std::vector<ExpertNeed> todo;
  std::vector<int> pins;  // slots
  unsigned began = 0;     // bit for each expert that it began to load
};

struct State {
  SlotTable table{moe::Lru{}};
  std::array<Call, num_threads> calls;
  std::vector<bool> expected;  // [expert] guessed, and no call since
};

/// Steps are: begin, go on, a read ends well or badly (w, x), quit, predict.
class Calls : public Explorer<State> {
 public:
  explicit Calls(Setup setup) : setup_(std::move(setup)) {}

 protected:
  int formats() const { return static_cast<int>(setup_.limits.slots.size()); }
  static const CacheSlot* find(const State& s, int expert, int format) {
    for (const CacheSlot& slot : s.table.slots())
      if (slot.phase != Phase::empty && slot.expert == expert && slot.format == format) return &slot;
    return nullptr;
  }

  static bool belongs_to(const State& s, const CacheSlot& slot, int thread) {
    return slot.claim != 0 && slot.claim == s.calls[static_cast<std::size_t>(thread)].ticket;
  }

  /// All experts were used once, so that their last uses have an order by which experts can be named.
  State first() const override {
    State s;
    s.table.cut(setup_.limits);
    s.table.add_layer(setup_.experts);
    s.expected.assign(static_cast<std::size_t>(setup_.experts), false);
    for (int e = 0; e < setup_.experts; ++e) {
      std::array<ExpertNeed, 1> need{need_of(e, 0, 0)};
      s.table.abandon(0, need, s.table.begin_call(0, need));
    }
    return s;
  }

  // ---- steps

  static void wake(State& s) {
    for (Call& call : s.calls)
      if (call.at == At::waiting) call.at = At::running;
  }
  void serve(State& s, int thread, const ExpertNeed& need, int slot) {
    s.table.lend(slot, 0, need, s.calls[static_cast<std::size_t>(thread)].ticket);
    const CacheSlot& lent = s.table.slot(slot);
    const bool right = lent.phase == Phase::ready && lent.expert == need.expert && lent.pins > 0 &&
                       lent.format <= (need.lowest < 0 ? formats() - 1 : need.lowest);
    if (!right) fail("a need was served by a slot that does not hold it");
    ++served_;
    s.calls[static_cast<std::size_t>(thread)].pins.push_back(slot);
  }
  /// The body of the loop of Cached::acquire, under one lock.
  void go_on(State& s, int thread, bool skipped) {
    Call& call = s.calls[static_cast<std::size_t>(thread)];
    for (const ExpertNeed& need : call.todo)
      if (s.table.failed(0, need, call.ticket) >= 0) {
        if ((call.began >> need.expert & 1u) == 0) fail("a call fails by a load that it did not begin");
        call.at = At::failing;
        return;
      }
    std::vector<ExpertNeed> rest;
    for (const ExpertNeed& need : call.todo) {
      const int slot = s.table.place(0, need);
      if (slot >= 0)
        serve(s, thread, need, slot);
      else
        rest.push_back(need);
    }
    call.todo = rest;
    bool loads = false;
    for (const ExpertNeed& need : call.todo) {
      if (s.table.claim_coming(0, need, call.ticket) >= 0) continue;
      if (s.table.claim(0, need, call.ticket) < 0) continue;
      loads = true;
      call.began |= 1u << need.expert;
    }
    if (!call.pins.empty())
      call.at = At::computing;
    else if (call.todo.empty())
      call = {};
    else
      call.at = loads || skipped ? At::running : At::waiting;
  }
  void begin(State& s, int thread, std::vector<ExpertNeed> needs) {
    Call& call = s.calls[static_cast<std::size_t>(thread)];
    call.ticket = s.table.begin_call(0, needs);
    s.expected.assign(s.expected.size(), false);
    const auto skips = [&](const ExpertNeed& need) { return s.table.skips(0, need); };
    const auto skipped = std::erase_if(needs, skips);
    call.todo = std::move(needs);
    go_on(s, thread, skipped > 0);
  }
  void unpin(State& s, Call& call) const {
    do {
      s.table.unpin(call.pins.back());
      call.pins.pop_back();
    } while (!setup_.one_by_one && !call.pins.empty());
    wake(s);
    if (!call.pins.empty()) return;
    if (call.todo.empty())
      call = {};
    else
      call.at = At::running;
  }
  static void abandon(State& s, int thread) {
    Call& call = s.calls[static_cast<std::size_t>(thread)];
    s.table.abandon(0, call.todo, call.ticket);
    call.todo.clear();
    call.began = 0;
    call.at = At::leaving;
    if (call.pins.empty()) call = {};
    wake(s);
  }
  void guess(State& s, const std::vector<ExpertNeed>& guesses) const {
    s.table.predict(0, guesses, setup_.keep_guesses);
    for (const ExpertNeed& g : guesses) s.expected[static_cast<std::size_t>(g.expert)] = setup_.keep_guesses;
    for (const ExpertNeed& g : guesses) {
      if (s.table.absent(0, g) && s.table.claim_guess(0, g) < 0) break;
    }
  }

  // ---- what must hold

  /// Steps that take room leave alone what is in use, and guesses also what is wanted.
  void check_step(const State& before, const State& after, const ModelStep& how) override {
    if (how.what != 'b' && how.what != 'g' && how.what != 'p') return;
    for (std::size_t i = 0; i < before.table.slots().size(); ++i) {
      const CacheSlot &was = before.table.slots()[i], &is = after.table.slots()[i];
      const bool own_step = how.what == 'g' && (belongs_to(before, was, how.a) || was.pins > is.pins);
      if (was.phase == Phase::empty || own_step) continue;
      const bool in_use = was.pins > 0 || was.claim != 0 || was.phase != Phase::ready;
      const bool wanted = how.what == 'p' && before.table.wanted(0, was.expert) > 0;
      if ((in_use || wanted) && (is.expert != was.expert || is.phase != was.phase)) fail("a slot in use was given up");
    }
  }
  void check(const State& s) override {
    std::vector<int> kept(setup_.limits.slots.size(), 0), streamed(kept);
    int loading = 0, guessed = 0;
    for (int i = 0; i < static_cast<int>(s.table.slots().size()); ++i) {
      const CacheSlot& slot = s.table.slot(i);
      int pins = 0;
      for (const Call& call : s.calls) pins += static_cast<int>(std::count(call.pins.begin(), call.pins.end(), i));
      if (pins != slot.pins) fail("a slot's pins are not those of the calls");
      if (slot.phase == Phase::empty) {
        if (slot.claim != 0 || slot.joined || slot.loaded_for != For::nobody) fail("an empty slot belongs to somebody");
        continue;
      }
      ++(slot.streamed ? streamed : kept)[static_cast<std::size_t>(slot.format)];
      loading += slot.phase == Phase::loading ? 1 : 0;
      guessed += slot.loaded_for == For::guess ? 1 : 0;
      if (find(s, slot.expert, slot.format) != &slot) fail("two slots hold the same record");
      if (slot.pins > 0 && slot.phase != Phase::ready) fail("a slot is lent that is not ready");
      if (slot.phase == Phase::failed && slot.claim == 0) fail("nobody will take note of a failed read");
      check_claim(s, slot);
      check_streamed(slot);
    }
    for (std::size_t f = 0; f < kept.size(); ++f) {
      const int keepable = setup_.limits.slots[f] - setup_.limits.staging;
      if (kept[f] > keepable || streamed[f] > setup_.limits.staging) fail("more slots are taken than there are");
    }
    if (!setup_.limits.slots_by_layer.empty() && kept[0] > setup_.limits.slots_by_layer[0])
      fail("a layer keeps more than its limit");
    if (loading != s.table.loading(0)) fail("loads under way are miscounted");
    if (guessed != s.table.guesses_in_slots()) fail("guesses are miscounted");
    check_experts(s);
  }
  void check_claim(const State& s, const CacheSlot& slot) {
    if (slot.claim == 0) return;
    bool found = false;
    for (int t = 0; t < num_threads; ++t) {
      if (!belongs_to(s, slot, t)) continue;
      found = true;
      const Call& call = s.calls[static_cast<std::size_t>(t)];
      const bool needs = std::any_of(call.todo.begin(), call.todo.end(),
                                     [&](const ExpertNeed& need) { return need.expert == slot.expert; });
      if (!needs) fail("a slot is claimed by a call that does not need it");
      if (!slot.joined && (call.began >> slot.expert & 1u) == 0) fail("a call is taken for one that began a load");
    }
    if (!found) fail("a slot is claimed by a call that has ended");
  }
  void check_streamed(const CacheSlot& slot) {
    if (slot.streamed && slot.phase == Phase::ready && slot.pins == 0 && slot.claim == 0 &&
        slot.loaded_for != For::guess)
      fail("a staging slot is held by nobody");
  }
  void check_experts(const State& s) {
    for (int e = 0; e < setup_.experts; ++e) {
      int wanted = 0;
      for (const Call& call : s.calls)
        wanted += static_cast<int>(std::count_if(call.todo.begin(), call.todo.end(),
                                                 [e](const ExpertNeed& need) { return need.expert == e; }));
      if (wanted != s.table.wanted(0, e)) fail("an expert's waiting calls are miscounted");
      bool ready = false, taken = false;
      for (int f = 0; f < formats(); ++f) {
        const CacheSlot* const slot = find(s, e, f);
        ready |= slot != nullptr && slot->phase == Phase::ready;
        taken |= slot != nullptr;
        if (s.table.absent(0, need_of(e, f, 0)) == taken) fail("an expert's place is not where its slot is");
      }
      if (ready != s.table.ready(0, e))
        fail("an expert is ready in a slot and not in the table, or the other way round");
    }
  }
  void check_statistics(const State& s, std::uint64_t served) {
    const moe::CacheStatistics& n = s.table.statistics();
    if (n.hits + n.misses != served) fail("hits and misses are not the needs served");
    if (n.prefetched !=
        n.prefetched_used + n.prefetched_wasted + static_cast<std::uint64_t>(s.table.guesses_in_slots()))
      fail("guesses are not those used, wasted and waiting");
    std::uint64_t loads = 0;
    for (const std::uint64_t of_format : n.loads_by_format) loads += of_format;
    if (n.loads != loads || n.bytes_read > loads || n.misses + n.prefetched > loads) fail("loads are miscounted");
  }

  Setup setup_;
  std::uint64_t served_ = 0;
};

}  // namespace slot_model
