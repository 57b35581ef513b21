// Calls on some threads, layers that are passed and that go, as steps on a copyable table of a ring's sections, and
// what must hold after each.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <moe/storage/ring_table.hpp>

#include "explorer.hpp"

namespace ring_model {

using moe::Urgency;
using moe::detail::LoadList;
using moe::detail::Phase;
using moe::detail::RingSection;
using moe::detail::RingTable;

struct Setup {
  int layers = 3, sections = 2, threads = 2;
  bool passes = true;   // layers end without a need
  bool leaving = true;  // layers go that no call uses
};

/// Where a thread stands in RingState::claim and around it: `running` before it takes the lock, `waiting` for its
/// reads, `computing` while it holds the section, `watching` until a failure that was not its own is forgotten.
enum class At : unsigned char { idle, running, waiting, computing, watching };

struct Call {
  At at = At::idle;
  int layer = -1, section = -1;
  bool joined = false;
};

struct State {
  RingTable table;
  std::vector<Call> calls;
  std::vector<int> queue;  // layers that calls wait for without a section, the longest first
  std::vector<bool> leaving, gone;
};

/// Steps are: ask, go on, release, a read ends well or badly (w, x), pass, leave, and go for good (d).
class Model : public Explorer<State> {
 public:
  explicit Model(Setup setup) : setup_(setup) {}

 private:
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }

  State first() const override {
    State s;
    for (int l = 0; l < setup_.layers; ++l) s.table.add_layer();
    s.table.cut(index(setup_.sections));
    s.calls.resize(index(setup_.threads));
    s.leaving.resize(index(setup_.layers));
    s.gone = s.leaving;
    return s;
  }

  // ---- steps

  void expand(const State& s) override {
    for (int t = 0; t < setup_.threads; ++t) {
      const Call& call = s.calls[index(t)];
      if (call.at == At::idle)
        for (int l = 0; l < setup_.layers; ++l)
          if (!s.leaving[index(l)]) step(s, {'a', t, l}, false, [&](State& n) { ask(n, n.calls[index(t)], l); });
      if (call.at == At::running) step(s, {'g', t}, true, [&](State& n) { go_on(n, n.calls[index(t)]); });
      if (call.at == At::computing) step(s, {'r', t}, true, [&](State& n) { release(n, n.calls[index(t)]); });
    }
    for (int i = 0; i < setup_.sections; ++i) {
      if (s.table.section(i).phase != Phase::loading) continue;
      for (const bool well : {true, false})
        step(s, {well ? 'w' : 'x', i}, well, [&](State& n) {
          n.table.loaded(i, well);
          wake(n);
        });
    }
    for (int l = 0; l < setup_.layers; ++l) expand_layer(s, l);
  }
  void expand_layer(const State& s, int l) {
    const bool used = std::any_of(s.calls.begin(), s.calls.end(), [l](const Call& call) { return call.layer == l; });
    if (setup_.passes && !s.leaving[index(l)])
      step(s, {'p', l}, false, [&](State& n) {
        n.table.pass(l);
        plan(n);
      });
    if (setup_.leaving && !used && !s.leaving[index(l)])
      step(s, {'l', l}, false, [&](State& n) {
        n.leaving[index(l)] = true;
        n.table.leave(l);
      });
    if (s.leaving[index(l)] && !s.gone[index(l)] && !s.table.in(l, Phase::loading))
      step(s, {'d', l}, true, [&](State& n) {
        n.gone[index(l)] = true;
        n.table.remove(l);
        wake(n);
      });
  }

  static void wake(State& s) {
    for (Call& call : s.calls) {
      if (call.at == At::waiting) call.at = At::running;
      if (call.at == At::watching && !s.table.in(call.layer, Phase::failed)) ask(s, call, call.layer);
    }
  }
  static void ask(State& s, Call& call, int layer) {
    call.at = At::running;
    call.layer = layer;
    call.joined = s.table.ask(layer);
    if (!call.joined && s.table.waiting(layer) == 1) s.queue.push_back(layer);
  }
  /// The body of the loops of RingState::claim and await, under one lock.
  void go_on(State& s, Call& call) {
    if (plan(s)) return;
    if (!s.table.ended(call.layer)) {
      if (!s.table.hurry(call.layer)) call.at = At::waiting;
      return;
    }
    const int section = s.table.place(call.layer);
    if (s.table.section(section).phase == Phase::ready) {
      call.section = section;
      call.at = At::computing;
      return;
    }
    s.table.give_up(section);
    if (!call.joined)
      call = {};
    else
      call.at = At::watching;
    wake(s);
  }
  void release(State& s, Call& call) {
    s.table.release(call.section);
    const RingSection& section = s.table.section(call.section);
    if (section.users == 0 && !section.free()) fail("a layer has ended and its section is not free");
    call = {};
    plan(s);
  }
  /// Decides, and checks what was decided.
  bool plan(State& s) {
    const RingTable before = s.table;
    const LoadList loads = s.table.plan();
    const auto &was = before.statistics(), &is = s.table.statistics();
    std::uint64_t copies = 0, demanded = 0;
    for (int i = loads.first; i >= 0; i = s.table.section(i).next) {
      const RingSection& section = s.table.section(i);
      ++copies;
      if (section.urgency == Urgency::now) {
        ++demanded;
        check_demand(s, before, section, i);
      } else if (!before.section(i).free()) {
        fail("a section that is not free was taken to read ahead");
      }
      if (section.phase != Phase::loading || s.leaving[index(section.layer)]) fail("what is read is not to be read");
    }
    if (is.copies - was.copies != copies || is.demanded - was.demanded != demanded) fail("copies are miscounted");
    check_planned(s);
    return !loads.empty();
  }

  // ---- what must hold

  /// The layer that waited longest was served, in a free section or that of the layer that is needed last.
  void check_demand(State& s, const RingTable& before, const RingSection& section, int i) {
    if (s.queue.empty() || s.queue.front() != section.layer)
      return fail("a layer was served before one that waits longer");
    s.queue.erase(s.queue.begin());
    const RingSection& old = before.section(i);
    if (!old.idle()) fail("a section in use was taken");
    if (old.free()) return;
    const auto ahead = [&](int layer) { return (layer - section.layer + setup_.layers) % setup_.layers; };
    for (int other = 0; other < setup_.sections; ++other) {
      const RingSection& stays = s.table.section(other);
      if (stays.free()) fail("a section that is not free was taken beside one that is");
      if (stays.idle() && ahead(stays.layer) > ahead(old.layer)) fail("a layer gave way that is needed earlier");
    }
  }
  /// Nothing is left to decide.
  void check_planned(const State& s) {
    const auto& all = s.table.sections();
    const auto idle = [](const RingSection& section) { return section.idle(); };
    if (!s.queue.empty() && std::any_of(all.begin(), all.end(), idle)) fail("a call waits beside an idle section");
    if (!s.queue.empty()) return;
    const auto spent = [](const RingSection& section) { return section.phase == Phase::ready && section.free(); };
    if (std::any_of(all.begin(), all.end(), spent)) fail("a layer that is kept may be given up for nobody");
    bool absent = false;
    for (int l = 0; l < setup_.layers; ++l) absent |= s.table.place(l) < 0 && !s.leaving[index(l)];
    const auto free = [](const RingSection& section) { return section.free(); };
    if (absent && std::any_of(all.begin(), all.end(), free)) fail("a section is free and a layer is not read");
  }
  void check_step(const State& before, const State& after, const ModelStep&) override {
    for (int i = 0; i < setup_.sections; ++i) {
      const RingSection &was = before.table.section(i), &is = after.table.section(i);
      const bool held =
          std::any_of(after.calls.begin(), after.calls.end(), [i](const Call& c) { return c.section == i; });
      if (held && is.phase != Phase::ready) fail("a section changed that a call computes with");
      if (was.phase == Phase::loading && (is.phase == Phase::empty || is.layer != was.layer))
        fail("a section was taken that is being read");
    }
    for (int t = 0; t < setup_.threads; ++t) {
      const Call &was = before.calls[index(t)], &is = after.calls[index(t)];
      const auto waits = [](const Call& call) { return call.at == At::running || call.at == At::waiting; };
      if (!waits(was) || !waits(is) || was.layer != is.layer || before.table.in(was.layer, Phase::failed)) continue;
      const int place = before.table.place(was.layer);
      if (place >= 0 && after.table.place(was.layer) != place) fail("a section went that a call waits for");
    }
  }
  void check(const State& s) override {
    for (int l = 0; l < setup_.layers; ++l) {
      int calls = 0;
      for (const Call& call : s.calls) calls += call.layer == l && call.at != At::watching ? 1 : 0;
      const int place = s.table.place(l);
      if (calls != (place < 0 ? s.table.waiting(l) : s.table.section(place).users)) fail("users are miscounted");
      if (place >= 0 && s.table.section(place).layer != l) fail("a layer's section holds another layer");
      if (s.gone[index(l)] && place >= 0) fail("a layer that has gone holds a section");
      const bool queued = std::count(s.queue.begin(), s.queue.end(), l) == 1;
      if (queued != (s.table.waiting(l) > 0)) fail("a layer waits that has a section, or the other way round");
    }
    for (int i = 0; i < setup_.sections; ++i) {
      const RingSection& section = s.table.section(i);
      if ((section.phase == Phase::empty) != (section.layer < 0)) fail("an empty section has a layer");
      if (section.layer >= 0 && s.table.place(section.layer) != i) fail("two sections hold one layer");
      if (section.phase == Phase::empty && section.users > 0) fail("an empty section is used");
    }
    for (const Call& call : s.calls) {
      if (call.at != At::computing) continue;
      const RingSection& section = s.table.section(call.section);
      if (section.phase != Phase::ready || section.layer != call.layer) fail("a call computes with another layer");
    }
  }
  bool finished(const State& s) const override {
    const auto& all = s.table.sections();
    return s.leaving == s.gone &&
           std::none_of(all.begin(), all.end(), [](const RingSection& i) { return i.phase == Phase::loading; }) &&
           std::all_of(s.calls.begin(), s.calls.end(), [](const Call& call) { return call.at == At::idle; });
  }

  std::string key(const State& s) const override {
    std::string out;
    for (const RingSection& section : s.table.sections()) {
      out += static_cast<char>(section.layer);
      const bool not_hurried = section.urgency == Urgency::later && !section.hurried;
      out += static_cast<char>(static_cast<int>(section.phase) | (section.spent ? 4 : 0) |
                               (section.phase == Phase::loading && not_hurried ? 8 : 0));
    }
    std::vector<std::string> calls;  // threads need not be told apart
    for (const Call& call : s.calls)
      calls.push_back({static_cast<char>(call.at), static_cast<char>(call.layer), call.joined ? '+' : '-'});
    std::sort(calls.begin(), calls.end());
    for (const std::string& call : calls) out += call;
    for (const int l : s.queue) out += static_cast<char>(l);
    out += '\x7f';
    for (int l = 0; l < setup_.layers; ++l) out += s.gone[index(l)] ? 'g' : s.leaving[index(l)] ? 'l' : '-';
    return out;
  }

  Setup setup_;
};

}  // namespace ring_model
