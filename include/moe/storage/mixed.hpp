// Mixed: a source of several precisions of the same experts, and the rule for which one a miss is worth.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <tuple>
#include <utility>

#include <moe/concepts.hpp>

namespace moe {

/// HOBBIT's rule (Tang et al. 2024, section 3.2): precision `f` serves experts with at most `up_to[f]` of the row's
/// weight on better ones; what has more is skipped. HOBBIT's thresholds for two precisions are the defaults. A row's
/// first choice always gets the highest precision.
struct ByImportance {
  std::array<float, 4> up_to{0.6f, 0.9f, 1, 1};

  int choose(const ExpertNeed& need, int formats) const noexcept {
    for (int f = 0; f < formats; ++f)
      if (need.mass_ahead <= up_to[static_cast<std::size_t>(f)]) return f;
    return -1;
  }
};

namespace detail {
template <class... Lists>
struct join_formats;
template <class... A>
struct join_formats<formats<A...>> {
  using type = formats<A...>;
};
template <class... A, class... B, class... Rest>
struct join_formats<formats<A...>, formats<B...>, Rest...> : join_formats<formats<A..., B...>, Rest...> {};
}  // namespace detail

/// The formats of `sources`, one after the other, from the most precise on: put Cached around it. A cache asks `choose`
/// on a miss only; a more precise copy that is there is taken instead. Sources agree in layout, shape and experts.
template <class Choice, RecordSource First, RecordSource... Rest>
class Mixed {
 public:
  using layout = typename First::layout;
  using formats = typename detail::join_formats<typename First::formats, typename Rest::formats...>::type;
  static_assert((std::same_as<layout, typename Rest::layout> && ...), "moe::Mixed: sources of one layout");

  /// Throws Error if the sources differ in shape or number of experts.
  explicit Mixed(Choice choice, First first, Rest... rest)
      : choice_(std::move(choice)), sources_(std::move(first), std::move(rest)...) {
    std::apply([](const First& a, const auto&... others) { (check(a, others), ...); }, sources_);
  }

  ExpertShape shape() const noexcept { return std::get<0>(sources_).shape(); }
  int num_experts() const noexcept { return std::get<0>(sources_).num_experts(); }
  std::size_t bytes(int format) const noexcept {
    std::size_t found = 0;
    visit(format, [&](const auto& source, int f) { found = source.bytes(f); });
    return found;
  }
  void read(ReadRequest request) const {
    visit(request.format, [&](const auto& source, int format) {
      request.format = format;
      source.read(request);
    });
  }
  void hurry(const void* who) const noexcept {
    std::apply([who](const auto&... source) { (moe::hurry(source, who), ...); }, sources_);
  }
  int choose(const ExpertNeed& need) const noexcept { return choice_.choose(need, count_of(formats{})); }

 private:
  template <class Other>
  static void check(const First& a, const Other& b) {
    require_equal("moe::Mixed", "experts of a further precision", a.num_experts(), b.num_experts());
    if (a.shape() != b.shape())
      raise(Error("moe::Mixed", "shape of a further precision's experts",
                  concat(a.shape().hidden, " x ", a.shape().ffn), concat(b.shape().hidden, " x ", b.shape().ffn)));
  }
  /// Calls `f(source, format of that source)` for a format of the whole.
  template <class F>
  void visit(int format, const F& f) const {
    const auto step = [&](const auto& source) {
      constexpr int own = count_of(typename std::remove_cvref_t<decltype(source)>::formats{});
      if (format >= 0 && format < own) f(source, format);
      format -= own;
    };
    std::apply([&](const auto&... source) { (step(source), ...); }, sources_);
  }

  Choice choice_;
  std::tuple<First, Rest...> sources_;
};

}  // namespace moe
