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
/// {"seq":0,"token":0,"layer":0,"experts":[3,5],"weights":[0.6,0.4]}. Costs 8 bytes per choice and 24 per record.
class RoutingTrace {
 public:
  RoutingTrace(int layers, int experts) : layers_(layers), experts_(experts) {}

  int layers() const noexcept { return layers_; }
  int experts() const noexcept { return experts_; }
  /// The K of the first line: the most choices of a record.
  int k() const noexcept { return k_; }
  const std::vector<TraceRecord>& records() const noexcept { return records_; }
  Row<const Slot> picks(const TraceRecord& r) const noexcept { return {slots_.data() + r.first, r.count}; }
  /// ||E(x)|| of each of the record's choices; only of a trace that has them.
  Row<const float> norms(const TraceRecord& r) const noexcept { return {norms_.data() + r.first, r.count}; }
  bool has_norms() const noexcept { return !norms_.empty(); }

  /// Throws Error for a layer or an expert that there is not, and for norms in some records only.
  void add(int sequence, int token, int layer, Row<const Slot> picks, Row<const float> norms = {}) {
    constexpr const char* where = "moe::RoutingTrace::add";
    check_index(where, "layer", layers_, layer);
    for (const Slot& pick : picks) check_index(where, "expert", experts_, pick.expert);
    const bool measured = !norms.empty() || (picks.empty() && has_norms());
    if (measured != has_norms() && !slots_.empty())
      raise(Error(where, "norms of the choices", has_norms() ? "as in the records before" : "none, as before",
                  has_norms() ? "none" : "some"));
    if (!norms.empty()) require_equal(where, "norms of the choices", picks.size(), norms.size());
    records_.push_back({sequence, token, layer, slots_.size(), picks.size()});
    slots_.insert(slots_.end(), picks.begin(), picks.end());
    norms_.insert(norms_.end(), norms.begin(), norms.end());
    if (picks.size() > k_) k_ = picks.size();
  }

 private:
  static void check_index(const char* where, const char* what, int count, int found) {
    if (found < 0 || found >= count) raise(Error(where, what, concat("0 to ", count - 1), std::to_string(found)));
  }

  int layers_, experts_, k_ = 0;
  std::vector<TraceRecord> records_;
  std::vector<Slot> slots_;
  std::vector<float> norms_;
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
