// RoutingTrace: who was chosen for each token in each layer; TraceObserver fills one from MoELayer::forward.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include <moe/error.hpp>
#include <moe/frame.hpp>

namespace moe {

/// One token in one layer. Its choices are `RoutingTrace::picks(record)`.
struct TraceRecord {
  int sequence = 0, token = 0, layer = 0;
  std::size_t first = 0;  // of its choices among all
  int count = 0;          // of its choices
};

/// What was chosen, in order of execution; a record's choices are in order of choice. The in-memory form of trace
/// files, whose first line is {"layers":L,"experts":E,"k":K} and whose others are
/// {"seq":0,"token":0,"layer":0,"experts":[3,5],"weights":[0.6,0.4]}. Costs 8 bytes per choice and 24 per record, and 8
/// more per choice with weights in double precision.
class RoutingTrace {
 public:
  /// `k`: the most choices of a record, where that is known before the records are.
  RoutingTrace(int layers, int experts, int k = 0) : layers_(layers), experts_(experts), k_(k) {}

  int layers() const noexcept { return layers_; }
  int experts() const noexcept { return experts_; }
  /// The K of the first line: the most choices of a record.
  int k() const noexcept { return k_; }
  const std::vector<TraceRecord>& records() const noexcept { return records_; }
  Row<const Slot> picks(const TraceRecord& r) const noexcept { return {slots_.data() + r.first, r.count}; }
  /// ||E(x)|| of each of the record's choices; only of a trace that has them.
  Row<const float> norms(const TraceRecord& r) const noexcept { return {norms_.data() + r.first, r.count}; }
  bool has_norms() const noexcept { return !norms_.empty(); }
  /// The weight of a record's choice number `i`, as precise as it is known.
  double weight(const TraceRecord& r, int i) const noexcept {
    const std::size_t at = r.first + static_cast<std::size_t>(i);
    return has_precise_weights() ? precise_[at] : static_cast<double>(slots_[at].weight);
  }
  bool has_precise_weights() const noexcept { return !precise_.empty(); }
  /// False where nobody knows the weights: then those of the slots mean nothing.
  bool has_weights() const noexcept { return weighted_; }
  void forget_weights() noexcept { weighted_ = false; }

  /// `precise` are the weights of the choices once more, in double precision. Throws Error for a layer or an expert
  /// that there is not, and for norms or precise weights in some records only.
  void add(int sequence, int token, int layer, Row<const Slot> picks, Row<const float> norms = {},
           Row<const double> precise = {}) {
    constexpr const char* where = "moe::RoutingTrace::add";
    require_index(where, "layer", layers_, layer);
    for (const Slot& pick : picks) require_index(where, "expert", experts_, pick.expert);
    check_extra(where, "norms of the choices", picks, norms.size(), has_norms());
    check_extra(where, "precise weights of the choices", picks, precise.size(), has_precise_weights());
    records_.push_back({sequence, token, layer, slots_.size(), picks.size()});
    slots_.insert(slots_.end(), picks.begin(), picks.end());
    norms_.insert(norms_.end(), norms.begin(), norms.end());
    precise_.insert(precise_.end(), precise.begin(), precise.end());
    if (picks.size() > k_) k_ = picks.size();
  }

 private:
  /// What choices may have besides an expert and a weight, all of a trace's records have or none.
  void check_extra(const char* where, const char* what, Row<const Slot> picks, int found, bool before) const {
    const bool given = found > 0 || (picks.empty() && before);
    if (given != before && !slots_.empty())
      raise(Error(where, what, before ? "as in the records before" : "none, as before", before ? "none" : "some"));
    if (found > 0) require_equal(where, what, picks.size(), found);
  }

  int layers_, experts_, k_;
  bool weighted_ = true;
  std::vector<TraceRecord> records_;
  std::vector<Slot> slots_;
  std::vector<float> norms_;
  std::vector<double> precise_;
};

/// An observer that appends every row of a call to a trace, when the call has ended well. Identities, nulls and dropped
/// choices are no experts that a storage sees: they are left out. Records of one trace must not come from two threads
/// at once.
struct TraceObserver {
  RoutingTrace* trace = nullptr;
  int layer = 0;
  int sequence = 0;                                   // of every row, unless `sequences` is given
  int first_token = 0;                                // row t is token first_token + t, unless `tokens` is given
  const int *sequences = nullptr, *tokens = nullptr;  // [T] of the whole call
  bool norms = false;                                 // also ||E(x)||, of the output before its weight

  void done(const Frame<>& f) const {
    std::vector<Slot> picks;
    std::vector<float> sizes;
    for (int t = 0; t < f.dims.tokens; ++t) {
      picks.clear();
      sizes.clear();
      const Row<Slot> row = f.table.slots.row(t).first(f.table.size(t));
      for (int k = 0; k < row.size(); ++k) {
        if (!f.ids.network(row[k].expert)) continue;
        picks.push_back(row[k]);
        if (norms) sizes.push_back(norm(f.partial.row(t * f.dims.slots + k)));
      }
      const int in_call = f.first_token + t;
      trace->add(sequences != nullptr ? sequences[in_call] : sequence,
                 tokens != nullptr ? tokens[in_call] : first_token + in_call, layer, row_of(picks), row_of(sizes));
    }
  }

 private:
  template <class T>
  static Row<const T> row_of(const std::vector<T>& v) noexcept {
    return {v.data(), static_cast<int>(v.size())};
  }
  static float norm(Row<const float> v) noexcept {
    double sum = 0;
    for (const float x : v) sum += static_cast<double>(x) * static_cast<double>(x);
    return static_cast<float>(std::sqrt(sum));
  }
};

}  // namespace moe
