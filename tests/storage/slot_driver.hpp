// One thread's calls on a table of slots, with reads that end at once; remembers what was given up for what.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include <moe/storage/slot_table.hpp>

/// A record that took the slot of another one.
struct Eviction {
  int layer = 0, expert = 0, format = 0;
  friend bool operator==(const Eviction&, const Eviction&) = default;
};

class SlotDriver {
 public:
  SlotDriver(moe::AnyEviction eviction, moe::detail::SlotLimits limits, int layers, int experts)
      : table(std::move(eviction)) {
    table.cut(std::move(limits));
    for (int l = 0; l < layers; ++l) table.add_layer(experts);
  }
  virtual ~SlotDriver() = default;

  /// A call that wants `experts` in this order of importance; `lowest[i]` is the least precise format for the i-th.
  void use(int layer, const std::vector<int>& experts, std::vector<int> lowest = {}) {
    lowest.resize(experts.size(), 0);
    std::vector<moe::ExpertNeed> todo;
    for (std::size_t i = 0; i < experts.size(); ++i)
      todo.push_back({experts[i], 1, 1, static_cast<float>(i) / 100, lowest[i]});
    const std::uint64_t ticket = table.begin_call(layer, todo);
    while (!todo.empty()) {
      std::vector<moe::ExpertNeed> rest;
      std::vector<int> pins;
      for (const moe::ExpertNeed& need : todo) {
        const int slot = table.place(layer, need);
        if (slot < 0) {
          rest.push_back(need);
          continue;
        }
        table.lend(slot, layer, need, ticket);
        pins.push_back(slot);
        served(layer, need.expert, table.slot(slot).format);
      }
      for (const moe::ExpertNeed& need : rest) claim(layer, need, ticket, todo);
      for (const int slot : pins) table.unpin(slot);
      todo = rest;
    }
  }

  moe::detail::SlotTable table;
  std::vector<Eviction> given_up;

 protected:
  virtual void served(int, int, int) {}
  /// `victim` is about to go; the table is as it was before.
  virtual void evicted(const moe::detail::SlotTable&, const Eviction&, int, const std::vector<moe::ExpertNeed>&) {}

 private:
  void claim(int layer, const moe::ExpertNeed& need, std::uint64_t ticket, const std::vector<moe::ExpertNeed>& call) {
    const moe::detail::SlotTable before = table;
    const int slot = table.claim(layer, need, ticket);
    if (slot < 0) return;
    const moe::detail::CacheSlot& was = before.slot(slot);
    if (was.phase == moe::detail::Phase::ready) {
      given_up.push_back({was.layer, was.expert, was.format});
      evicted(before, given_up.back(), layer, call);
    }
    table.loaded(slot, true, 1);
  }
};

/// Random calls on every layer in turn, more often of the experts with low numbers; a new sequence now and then.
template <class Driver>
void random_calls(Driver& driver, int tokens, int layers, int experts, int k, int formats, std::uint64_t seed) {
  const auto below = [&seed](int n) {
    return static_cast<int>((moe::next_random(seed) >> 33) % static_cast<std::uint64_t>(n));
  };
  for (int token = 0; token < tokens; ++token) {
    if (token % 40 == 0) driver.begin_sequence();
    for (int layer = 0; layer < layers; ++layer) {
      std::vector<int> wanted, lowest;
      while (static_cast<int>(wanted.size()) < k) {
        const int e = below(2) == 0 ? below(experts) : below(experts) / 2;
        bool there = false;
        for (const int w : wanted) there |= w == e;
        if (there) continue;
        lowest.push_back(wanted.empty() ? 0 : below(formats));
        wanted.push_back(e);
      }
      driver.use(layer, wanted, lowest);
    }
  }
}
