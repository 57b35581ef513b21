// The two tables, by token and by expert, what a router may look at, and the host's grouping of one into the other.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include <moe/expert.hpp>
#include <moe/math.hpp>
#include <moe/tensor.hpp>

namespace moe {

/// One choice of one token.
struct Slot {
  ExpertId expert = -1;
  float weight = 0;
};

/// The id of a choice that its expert turned away, and back: a backward pass, a loss and a count of drops still see who
/// was chosen. Below -1, so that it adds nothing.
MOE_HD constexpr ExpertId dropped(ExpertId e) noexcept { return -2 - e; }
MOE_HD constexpr bool is_dropped(ExpertId e) noexcept { return e < -1; }

/// Choices by token: row t holds `count[t]` slots (all of them if `count` is null).
/// Ids may be any number: what `IdMap` does not know adds nothing.
template <class M = host_memory>
struct RoutingTable {
  View<Slot, M> slots;   // [T,K]
  int* count = nullptr;  // [T]
  MOE_HD int size(int t) const noexcept { return count != nullptr ? count[t] : slots.cols; }
  MOE_HD RoutingTable slice(int first, int n) const noexcept {
    return {slots.slice(first, n), count != nullptr ? count + first : nullptr};
  }
};

/// The same choices by expert: those of expert e are number offset[e] .. offset[e+1] of `entry` and `row`, in token
/// order. An entry is token * K + slot, the place of its slot in the table and the row of its partial output.
template <class M = host_memory>
struct Dispatch {
  int* offset = nullptr;  // [E+1]
  int* entry = nullptr;   // [T*K]
  int* row = nullptr;     // [T*K], the token of each entry: the row that its expert reads
  MOE_HD Row<const int> entries(ExpertId e) const noexcept { return {entry + offset[e], offset[e + 1] - offset[e]}; }
  MOE_HD Row<const int> rows(ExpertId e) const noexcept { return {row + offset[e], offset[e + 1] - offset[e]}; }
};

// ---- what a router may look at

/// Uniform in [0, 1) from (seed, position, salt): no state, so threads and splits do not matter.
MOE_HD inline float counter_random(std::uint64_t seed, int position, std::uint32_t salt) noexcept {
  const std::uint64_t random = random_at(seed, static_cast<std::uint64_t>(position) * 4096u + salt);
  return static_cast<float>(random >> 40) * 0x1p-24f;
}

struct RowContext;

/// Logits of experts that are not resident, lowered by a loss as they are read: no copy of the row, whatever its
/// length.
struct LoweredLogits {
  const RowContext* row = nullptr;  // whose residency counts
  float loss = 0;
  int experts = 0;               // ids from here on cost no read
  Row<const ExpertId> spared{};  // are read as they are

  MOE_HD float operator()(ExpertId e, float logit) const noexcept;
};

/// The logits of one row, as the router that reads them is to see them.
class LogitRow {
 public:
  constexpr LogitRow() = default;
  MOE_HD constexpr LogitRow(Row<const float> values) : values_(values) {}  // NOLINT: a row of logits is one
  MOE_HD constexpr LogitRow(const float* data, int size) : values_(data, size) {}
  /// `lowered` outlives the copies of this row.
  MOE_HD constexpr LogitRow(LogitRow logits, const LoweredLogits* lowered)
      : values_(logits.values_), lowered_(lowered) {}

  MOE_HD float operator[](int e) const noexcept {
    const float logit = values_[e];
    return lowered_ == nullptr ? logit : (*lowered_)(e, logit);
  }
  MOE_HD constexpr int size() const noexcept { return values_.size(); }
  MOE_HD constexpr LogitRow first(int n) const noexcept { return {LogitRow(values_.first(n)), lowered_}; }
  MOE_HD constexpr bool is_plain() const noexcept { return lowered_ == nullptr; }
  /// The numbers in memory, for routers that see nothing else.
  MOE_HD constexpr Row<const float> values() const noexcept { return values_; }

 private:
  Row<const float> values_;
  const LoweredLogits* lowered_ = nullptr;
};

/// Ids as a router inside another one sees them: those in [first, end) may be used, and id e is the outer router's
/// `to[e]`, -1 for none; ids behind `to` are always usable and never read.
struct InnerIds {
  ExpertId first = 0, end = 0x7fffffff;
  Row<const ExpertId> to{};         // empty: the outer router's ids
  const InnerIds* outer = nullptr;  // of the router around that one
};

/// One row as a router sees it. Pure data: the same for every batch split and device.
struct RowContext {
  LogitRow logits;
  int row = 0, position = 0, token = -1, rule = 0, modality = 0;
  int picks = -1;  // the most choices of this row; negative: as many as the call's
  std::uint64_t seed = 0;
  bool decode = false;
  const std::uint32_t *resident_bits = nullptr,
                      *allowed_bits = nullptr;  // by outermost id; null: not known, all allowed
  const InnerIds* ids = nullptr;                // null: ids are the outermost ones

  MOE_HD bool is_plain() const noexcept { return allowed_bits == nullptr && ids == nullptr && logits.is_plain(); }
  /// Uniform in [0, 1): a pure function of the call's seed, the row's position and `salt`.
  MOE_HD float random(std::uint32_t salt) const noexcept { return counter_random(seed, position, salt); }
  MOE_HD bool may_use(ExpertId e) const noexcept {
    for (const InnerIds* i = ids; i != nullptr; i = i->outer) {
      if (e < i->first || e >= i->end) return false;
      if (i->to.empty()) continue;
      if (e >= i->to.size()) return true;
      e = i->to[e];
      if (e < 0) return false;
    }
    return allowed_bits == nullptr || has_expert(allowed_bits, e);
  }
  /// Whether the storage holds e, as far as it is known.
  MOE_HD bool is_resident(ExpertId e) const noexcept {
    if (resident_bits == nullptr) return true;
    for (const InnerIds* i = ids; i != nullptr; i = i->outer) {
      if (i->to.empty()) continue;
      if (e >= i->to.size()) return true;
      e = i->to[e];
      if (e < 0) return false;
    }
    return has_expert(resident_bits, e);
  }
};

/// A row of which every id may be used and every logit is read as it is: most rows. Routers whose loops are short ask
/// once which of the two a row is, instead of once for each id.
struct PlainRow {
  Row<const float> logits;
  int modality = 0;
  MOE_HD static constexpr bool may_use(ExpertId) noexcept { return true; }
};

/// NaN stays below every number.
MOE_HD inline float LoweredLogits::operator()(ExpertId e, float logit) const noexcept {
  if (e >= experts || logit != logit || row->is_resident(e)) return logit;
  for (const ExpertId s : spared)
    if (s == e) return logit;
  return finite_logit(finite_logit(logit) - loss);
}

/// What one call tells the router; every pointer is optional and lies in memory M.
template <class M = host_memory>
struct RouteContext {
  const int *tokens = nullptr, *rules = nullptr, *positions = nullptr;  // [T]
  const int* modalities = nullptr;  // [T] 0 text, then those of the model: image, audio; null: text
  const int* picks = nullptr;       // [T] the most choices of each row, 0 for padding; null: as many as the call's
  std::uint64_t seed = 0;
  bool decode = false;
  const std::uint32_t *allowed = nullptr, *resident = nullptr;  // resident is filled by the layer
  int first_row = 0;                                            // of this chunk in the whole call

  MOE_HD RowContext at(int t, Row<const float> logits) const noexcept {
    RowContext r;
    r.logits = logits;
    r.row = first_row + t;
    r.position = positions != nullptr ? positions[t] : r.row;
    if (tokens != nullptr) r.token = tokens[t];
    if (rules != nullptr) r.rule = rules[t];
    if (modalities != nullptr) r.modality = modalities[t];
    if (picks != nullptr) r.picks = picks[t];
    r.seed = seed;
    r.decode = decode;
    r.resident_bits = resident;
    r.allowed_bits = allowed;
    return r;
  }
  /// The context of the rows from `first` on; they keep their numbers, so that randomness does not move.
  MOE_HD RouteContext slice(int first) const noexcept {
    RouteContext c = *this;
    c.first_row += first;
    const auto cut = [first](const int*& rows) {
      if (rows != nullptr) rows += first;
    };
    cut(c.tokens);
    cut(c.rules);
    cut(c.positions);
    cut(c.modalities);
    cut(c.picks);
    return c;
  }
};

/// One expert's choices as an admission rule sees them, in token order.
struct Column {
  ExpertId expert = -1;
  Row<const int> entries;
  Row<Slot> slots;  // of the whole table, by entry
  int slots_per_row = 1;
  int tokens = 0;     // of the call
  int first_row = 0;  // of these tokens in the whole call
  std::uint64_t seed = 0;
  const int* positions = nullptr;  // [T]

  MOE_HD int size() const noexcept { return entries.size(); }
  MOE_HD int token(int i) const noexcept { return entries[i] / slots_per_row; }
  /// 0 for a token's first choice, 1 for its second.
  MOE_HD int rank(int i) const noexcept { return entries[i] % slots_per_row; }
  MOE_HD Slot& slot(int i) const noexcept { return slots[entries[i]]; }
  /// The same number as RowContext::random of that token.
  MOE_HD float random(int i, std::uint32_t salt) const noexcept {
    return counter_random(seed, positions != nullptr ? positions[token(i)] : first_row + token(i), salt);
  }
  /// The token gets nothing from this expert. Its slot keeps the id as `dropped(expert)`, which no IdMap knows.
  MOE_HD void drop(int i) const noexcept { slot(i) = {dropped(expert), 0}; }
};

/// What a router cannot do without: `static constexpr Uses uses = Uses::tokens | Uses::rules`.
enum class Uses : unsigned { nothing = 0, tokens = 1, rules = 2, residency = 4, positions = 8 };
MOE_HD constexpr Uses operator|(Uses a, Uses b) {
  return static_cast<Uses>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
MOE_HD constexpr bool contains(Uses set, Uses one) {
  return (static_cast<unsigned>(set) & static_cast<unsigned>(one)) != 0;
}

// ---- by token -> by expert, on the host

/// Stable counting sort of the table into `d`; entries that are no network expert are left out. O(T K + E).
inline void group_by_expert(const RoutingTable<host_memory>& table, IdMap ids, Dispatch<host_memory>& d) noexcept {
  const int tokens = table.slots.rows, slots = table.slots.cols;
  for (int e = 0; e <= ids.networks; ++e) d.offset[e] = 0;
  const auto for_each_entry = [&](auto&& visit) {
    for (int t = 0; t < tokens; ++t)
      for (int k = 0; k < table.size(t); ++k)
        if (const ExpertId e = table.slots.row(t)[k].expert; ids.network(e)) visit(e, t, k);
  };
  for_each_entry([&](ExpertId e, int, int) { ++d.offset[e + 1]; });
  for (int e = 0; e < ids.networks; ++e) d.offset[e + 1] += d.offset[e];
  for_each_entry([&](ExpertId e, int t, int k) {
    const int i = d.offset[e]++;
    d.entry[i] = t * slots + k;
    d.row[i] = t;
  });
  for (int e = ids.networks; e > 0; --e) d.offset[e] = d.offset[e - 1];
  d.offset[0] = 0;
}

/// Share of a row's weight that lies on slots of larger weight than one slot's (or as large, and chosen earlier): 0 for
/// the first choice. HOBBIT's unimportance score (Tang et al. 2024, section 3.2).
MOE_HD inline float mass_ahead(Row<const Slot> row, int slot) noexcept {
  float ahead = 0, total = 0;
  for (int k = 0; k < row.size(); ++k) {
    const bool larger = row[k].weight > row[slot].weight || (row[k].weight == row[slot].weight && k < slot);
    if (larger) ahead += row[k].weight;
    total += row[k].weight;
  }
  return total > 0 ? ahead / total : ahead;
}

/// What a call wants of expert e, with what a storage may weigh it by. One thread of a device can say it.
template <class M>
MOE_HD ExpertNeed need_of(const RoutingTable<M>& table, const Dispatch<M>& d, ExpertId e) noexcept {
  const int slots = table.slots.cols;
  const Row<const int> entries = d.entries(e);
  ExpertNeed need{e, entries.size(), -HUGE_VALF, HUGE_VALF};
  for (const int entry : entries) {
    const int t = entry / slots;
    const float ahead = mass_ahead(table.slots.row(t).first(table.size(t)), entry % slots);
    const float weight = table.slots.row(t)[entry % slots].weight;
    if (ahead < need.mass_ahead) need.mass_ahead = ahead;
    if (weight > need.largest_weight) need.largest_weight = weight;
  }
  return need;
}

/// The experts that have rows, by id. `needs` has room for E.
inline std::span<ExpertNeed> collect_needs(const RoutingTable<host_memory>& table, IdMap ids,
                                           const Dispatch<host_memory>& d, ExpertNeed* needs) noexcept {
  std::size_t found = 0;
  for (ExpertId e = 0; e < ids.networks; ++e)
    if (!d.entries(e).empty()) needs[found++] = need_of(table, d, e);
  return {needs, found};
}

}  // namespace moe
