// Noisy: during training, the choice is made on noisy logits and weighed by clean ones.
#pragma once

#include <cmath>
#include <string>

#include <moe/error.hpp>
#include <moe/router_hooks.hpp>
#include <moe/routers/largest.hpp>

namespace moe {

enum class Noise {
  gumbel,  // l - log(-log u): picks sample without replacement from softmax(l) (DeepSpeed's RSample, GShard's second)
  jitter   // l * u, u in [1 - epsilon, 1 + epsilon): what jitter of a common factor of the gate's input does to logits
};

/// While `training`, ids come from noisy logits and weights from the clean ones, by `inner.weigh`; else this is
/// `inner`. DeepSpeed-MoE (`sharded_moe.py`), Kool et al. 2019 (Gumbel top-k). O(E + picks * K), a logarithm or two per
/// logit.
///
/// The K largest noisy logits are picked: `inner` has neither a selection bias nor groups. Noise is a function of the
/// call's seed, the row's position and the expert; change the seed from step to step.
template <class Inner>
struct Noisy {
  Inner inner;
  Noise noise = Noise::gumbel;
  float epsilon = 0.01f;  // of jitter
  int clean_choices = 0;  // the first choices see no noise: 1 for DeepSpeed's sampling of the second expert
  bool training = false;

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    if (!training) return moe::select(inner, row, out);
    const int clean = clean_choices < out.size() ? clean_choices : out.size();
    int n = 0;
    for (ExpertId e = 0; e < num_logits(inner) && clean > 0; ++e)
      if (row.may_use(e)) n = detail::insert_largest(out.first(clean), n, {e, finite_logit(row.logits[e])});
    const Row<Slot> sampled{out.data() + n, out.size() - n};
    int more = 0;
    for (ExpertId e = 0; e < num_logits(inner); ++e)
      if (row.may_use(e) && !contains(out.first(n), e))
        more = detail::insert_largest(sampled, more, {e, noisy(row, e)});
    inner.weigh(row, out.first(n + more));
    return n + more;
  }

  /// Throws Error if `inner` chooses by more than its logits.
  void check() const {
    const auto none = [](const char* what, bool is_there) {
      if (is_there) raise(Error("moe::Noisy", what, "none in the router inside", "some"));
    };
    if constexpr (requires { inner.bias.values; }) none("selection bias", !inner.bias.of(0).empty());
    if constexpr (requires { inner.groups.count; }) none("groups", inner.groups.count > 1);
    if constexpr (requires { inner.shared; }) none("logits of shared experts", inner.shared > 0);
  }

  /// The logit that experts are compared by.
  MOE_HD float noisy(const RowContext& row, ExpertId e) const noexcept {
    const float logit = finite_logit(row.logits[e]);
    if (logit < -largest_float) return logit;
    const float u = row.random(static_cast<std::uint32_t>(e) % 2048u);
    if (noise == Noise::jitter) return finite_logit(logit * fma(epsilon, 2 * u - 1, 1.0f));
    const float inside = u + 0x1p-25f;  // in (0, 1): both logarithms are finite
    return finite_logit(logit - std::log(-std::log(inside)));
  }

 private:
  MOE_HD static bool contains(Row<const Slot> slots, ExpertId e) noexcept {
    for (const Slot& s : slots)
      if (s.expert == e) return true;
    return false;
  }
};

/// x [T,H] with every number multiplied by its own u in [1 - epsilon, 1 + epsilon): the gate's input while Switch and
/// DeepSpeed ("Jitter") train, for `Call::x_router`; the experts still see x. A function of seed, row and column.
inline void jitter(View<const float> x, float epsilon, std::uint64_t seed, View<float> out) noexcept {
  constexpr int columns_per_counter = 4096;
  const int counters = pieces(x.cols, columns_per_counter);
  for (int t = 0; t < x.rows; ++t)
    for (int i = 0; i < x.cols; ++i) {
      const float u = counter_random(seed, t * counters + i / columns_per_counter,
                                     static_cast<std::uint32_t>(i % columns_per_counter));
      out.row(t)[i] = x.row(t)[i] * fma(epsilon, 2 * u - 1, 1.0f);
    }
}

}  // namespace moe
