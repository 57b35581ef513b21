// NoObserver, and Watch: tells an observer of one call what it has callbacks for.
#pragma once

#include <moe/frame.hpp>

namespace moe {

/// Callbacks of one call, an argument of `forward`: any subset of
/// logits(View<const float, M>), routed(const Frame<M>&), wave(Row<const ExpertRef>), done(const Frame<M>&), each
/// const. `wave` is called only where the host may read the refs.
struct NoObserver {};

namespace detail {

template <class Observer>
struct Watch {
  const Observer& observer;

  template <class Logits>
  void logits(const Logits& l) const {
    if constexpr (requires { observer.logits(l); }) observer.logits(l);
  }
  template <class Frame>
  void routed(const Frame& f) const {
    if constexpr (requires { observer.routed(f); }) observer.routed(f);
  }
  void wave(Row<const ExpertRef> refs) const {
    if constexpr (requires { observer.wave(refs); }) observer.wave(refs);
  }
  template <class Frame>
  void done(const Frame& f) const {
    if constexpr (requires { observer.done(f); }) observer.done(f);
  }
};
template <class Observer>
Watch(const Observer&) -> Watch<Observer>;  // clang 14 does not deduce aggregates

}  // namespace detail
}  // namespace moe
