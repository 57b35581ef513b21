// Views of the experts of two sources (ConcatSource) or two resident storages (ConcatStorage) as one layer's.
#pragma once

#include <concepts>
#include <utility>
#include <vector>

#include <moe/concepts.hpp>

namespace moe {

namespace detail {
template <class A, class B>
concept SameRecords =
    std::same_as<typename A::layout, typename B::layout> && std::same_as<typename A::formats, typename B::formats>;

inline void check_one_shape(const char* where, const ExpertShape& a, const ExpertShape& b) {
  const auto text = [](const ExpertShape& s) {
    return concat(s.hidden, " x ", s.ffn, s.gated ? ", gated" : "", s.biased ? ", biased" : "");
  };
  if (a != b) raise(Error(where, "shape of the second layer's experts", text(a), text(b)));
}
}  // namespace detail

/// A source of the records of `a`, then those of `b` (Aggregation of Experts, Kim et al. 2021). Nest it for more.
template <RecordSource A, RecordSource B>
requires detail::SameRecords<A, B>
class ConcatSource {
 public:
  using layout = typename A::layout;
  using formats = typename A::formats;

  /// Throws Error if the experts differ in shape.
  ConcatSource(A a, B b) : a_(std::move(a)), b_(std::move(b)) {
    detail::check_one_shape("moe::ConcatSource", a_.shape(), b_.shape());
  }

  ExpertShape shape() const noexcept { return a_.shape(); }
  int num_experts() const noexcept { return a_.num_experts() + b_.num_experts(); }
  /// Sources may pad their records differently.
  std::size_t bytes(int format) const noexcept {
    return a_.bytes(format) > b_.bytes(format) ? a_.bytes(format) : b_.bytes(format);
  }
  void read(ReadRequest request) const {
    in_its_source(request, [&](const auto& source) { source.read(request); });
  }
  void hurry(const void* who) const noexcept {
    moe::hurry(a_, who);
    moe::hurry(b_, who);
  }
  int choose(ExpertNeed need) const noexcept {
    return in_its_source(need, [&](const auto& source) { return moe::choose(source, need); });
  }

 private:
  /// Calls `f` with the source that has the expert which `of` names, by then as that source counts.
  template <class Named, class F>
  auto in_its_source(Named& of, const F& f) const {
    const int first = a_.num_experts();
    if (of.expert < first) return f(a_);
    of.expert -= first;
    return f(b_);
  }
  A a_;
  B b_;
};

/// The records of resident storage `a`, then those of `b`: no weight is copied. Both must outlive the view and stay
/// where they are.
template <class Layout, class Formats>
class ConcatStorage {
 public:
  using memory = host_memory;
  using layout = Layout;
  using formats = Formats;

  /// Throws Error if the experts differ in shape.
  template <ResidentStorage A, ResidentStorage B>
  requires detail::SameRecords<A, B> && std::same_as<typename A::memory, host_memory> &&
      std::same_as<typename B::memory, host_memory>
      ConcatStorage(const A& a, const B& b) : shape_(a.shape()) {
    detail::check_one_shape("moe::ConcatStorage", a.shape(), b.shape());
    append(a.table());
    append(b.table());
  }

  ExpertShape shape() const noexcept { return shape_; }
  int num_experts() const noexcept { return static_cast<int>(refs_.size()); }
  Row<const ExpertRef> table() const noexcept { return {refs_.data(), num_experts()}; }

 private:
  void append(Row<const ExpertRef> table) {
    for (const ExpertRef& ref : table) refs_.push_back({static_cast<ExpertId>(refs_.size()), ref.format, ref.bytes});
  }
  ExpertShape shape_;
  std::vector<ExpertRef> refs_;
};
template <ResidentStorage A, ResidentStorage B>
ConcatStorage(const A&, const B&) -> ConcatStorage<typename A::layout, typename A::formats>;

}  // namespace moe
