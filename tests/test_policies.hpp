// Small policies of a user's kind, for tests of the layer.
#pragma once

#include <algorithm>
#include <moe/layer.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/storage/resident.hpp>
#include <utility>
#include <vector>

#include "oracle.hpp"

// ---- routers

/// At most `most` rows per expert, in token order; what is left of a row is renormalised.
struct FirstRows {
  moe::TopK inner;
  int most;
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept { return inner.select(row, out); }
  void admit(const moe::Column& column) const noexcept {
    for (int i = most; i < column.size(); ++i) column.drop(i);
  }
  void finish(moe::Row<moe::Slot> row) const noexcept {
    float left = 0;
    for (const moe::Slot& s : row) left += s.expert >= 0 ? s.weight : 0.0f;
    for (moe::Slot& s : row)
      if (s.expert >= 0) s.weight /= left;
  }
};

/// Token t of the batch goes to expert t + 1, whatever its logits are.
struct RoundRobin {
  int experts;
  int num_logits() const noexcept { return experts; }
  int num_experts() const noexcept { return experts; }
  int max_slots() const noexcept { return 2; }
  void route(const moe::RouteContext<>&, moe::View<const float>, moe::RoutingTable<>& table) const {
    for (int t = 0; t < table.slots.rows; ++t) {
      table.slots.row(t)[0] = {(t + 1) % experts, 0.5f};
      table.count[t] = 1;
    }
  }
};

/// The last logits stand for experts that return their input.
struct WithIdentities {
  moe::TopK inner;
  int networks;
  moe::IdMap ids() const { return {networks, inner.experts - networks}; }
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept { return inner.select(row, out); }
};

/// The first expert that is in memory.
struct FirstResident {
  static constexpr moe::Uses uses = moe::Uses::residency;
  int experts;
  int num_logits() const noexcept { return experts; }
  int num_experts() const noexcept { return experts; }
  int max_slots() const noexcept { return 1; }
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept {
    for (int e = 0; e < experts; ++e) {
      if (!row.is_resident(e)) continue;
      out[0] = {e, 1};
      return 1;
    }
    return 0;
  }
};

// ---- storages

using ResidentF32 = moe::Resident<moe::PanelLayout, moe::formats<float>>;

/// Holds everything but says otherwise.
class PartlyResident {
 public:
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;
  using formats = moe::formats<float>;
  PartlyResident(ResidentF32 all, std::uint32_t bits) : all_(std::move(all)), bits_(bits) {}
  moe::ExpertShape shape() const noexcept { return all_.shape(); }
  int num_experts() const noexcept { return all_.num_experts(); }
  moe::Row<const moe::ExpertRef> table() const noexcept { return all_.table(); }
  void residency(std::uint32_t* bits) const { *bits = bits_; }

 private:
  ResidentF32 all_;
  std::uint32_t bits_;
};

/// What a OneByOne storage saw, and what it shall do.
struct LeaseLog {
  int acquires = 0, lent = 0, held = 0, most_held_at_acquire = 0, abandoned = 0;
  int fail_at = -1, skip = -1;
  std::vector<int> expected;
};

/// Lends one expert at a time.
class OneByOne {
 public:
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;
  using formats = moe::formats<float>;
  class pin {
   public:
    explicit pin(LeaseLog* log) : log_(log) { ++log_->held; }
    pin(pin&& other) noexcept : log_(std::exchange(other.log_, nullptr)) {}
    pin& operator=(pin&&) = delete;
    ~pin() {
      if (log_ != nullptr) --log_->held;
    }

   private:
    LeaseLog* log_;
  };

  OneByOne(ResidentF32 all, LeaseLog* log) : all_(std::move(all)), log_(log) {}
  moe::ExpertShape shape() const noexcept { return all_.shape(); }
  int num_experts() const noexcept { return all_.num_experts(); }
  std::span<moe::ExpertNeed> acquire(std::span<moe::ExpertNeed> todo, moe::Wave<pin>& wave, moe::host_queue&) const {
    log_->most_held_at_acquire = std::max(log_->most_held_at_acquire, log_->held);
    if (++log_->acquires == log_->fail_at) moe::raise(moe::IoError("disk"));
    if (todo.empty()) return todo;
    moe::ExpertRef ref = all_.table()[todo[0].expert];
    if (ref.expert == log_->skip) ref.bytes = nullptr;
    wave.push(ref, pin(log_));
    ++log_->lent;
    return todo.subspan(1);
  }
  void abandon(std::span<const moe::ExpertNeed>, const moe::Wave<pin>&) const noexcept { ++log_->abandoned; }
  int expect(std::span<const moe::ExpertNeed> needs) const noexcept {
    for (const moe::ExpertNeed& need : needs) log_->expected.push_back(need.expert);
    return static_cast<int>(needs.size());
  }

 private:
  ResidentF32 all_;
  LeaseLog* log_;
};

// ---- forms

/// Experts in a narrower space: x down, result up.
struct Latent {
  moe::View<const float> down, up;  // [inner, outer], [outer, inner]
  int width() const noexcept { return down.rows; }
  int outer_width() const noexcept { return down.cols; }
  template <class X>
  void enter(const X& executor, moe::Frame<>& f, moe::View<const float> in, moe::View<float> out) const {
    executor.linear(f, in, down, nullptr, out);
  }
  template <class X>
  void leave(const X& executor, moe::Frame<>& f, moe::View<const float> in, moe::View<float> out) const {
    executor.linear(f, in, up, nullptr, out);
  }
};

/// Two experts that every token passes, with one weight.
struct EveryToken {
  ResidentF32 storage;
  moe::ExpertForm<moe::SwiGlu> form;
  float weight;
  template <class X>
  void weigh(const X& executor, moe::Frame<>& f, moe::View<const float>, moe::Frame<>&) const {
    const moe::RoutingTable<> table = f.table;
    const float w = weight;
    executor.rows(f, f.dims.tokens, [table, w](int t) {
      for (int e = 0; e < table.slots.cols; ++e) table.slots.row(t)[e] = {e, w};
      table.count[t] = table.slots.cols;
    });
  }
};

struct Difference {
  static constexpr bool gated = true;
  float operator()(float gate, float up) const noexcept { return gate - up; }
};
inline oracle::Value difference(oracle::Value gate, oracle::Value up) { return gate + oracle::Value{-up.v, up.e}; }

struct Squared {
  static constexpr bool gated = false;
  float operator()(float, float up) const noexcept { return up > 0 ? up * up : 0.0f; }
};
inline oracle::Value squared(oracle::Value, oracle::Value up) {
  return up.v > 0 ? up * up : oracle::Value{0, up.e * up.e};
}
