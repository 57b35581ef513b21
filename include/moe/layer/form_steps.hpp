// What a form does beside the sum of experts, a function each; a form that does not ask for a step makes it nothing.
#pragma once

#include <type_traits>

#include <moe/envelope.hpp>
#include <moe/layer/rows.hpp>
#include <moe/shared.hpp>

namespace moe::detail {

template <class Form>
inline constexpr bool enveloped = !std::is_same_v<decltype(Form::envelope), NoEnvelope>;

/// Multiplies the routed output by a constant: on its weights, before shared experts are added.
template <class X, class M, class Form>
void scale_routed(const X& executor, Frame<M>& f, const Form& form) {
  if (form.output_scale != 1) scale_rows(executor, f, SameWeight{form.output_scale});
}

/// What the experts see: x [T,H], or in `inner` [T, their own width].
template <class X, class M, class Form>
ConstElementView<M> enter(const X& executor, Frame<M>& f, const Form& form, ConstElementView<M> x,
                          View<float, M> inner) {
  if constexpr (enveloped<Form>) {
    form.envelope.enter(executor, f, x, inner);
    return inner;
  } else {
    return x;
  }
}
template <class X, class M, class Form>
void leave(const X& executor, Frame<M>& f, const Form& form, View<float, M> inner, View<float, M> y) {
  if constexpr (enveloped<Form>) form.envelope.leave(executor, f, inner, y);
}

/// f.partial = f.partial / rms(f.partial), row by row.
template <class X, class M, class Form>
void normalise_experts(const X& executor, Frame<M>& f, const Form& form) {
  if (form.expert_norm_eps > 0)
    executor.rows(f, f.dims.tokens, NormaliseExperts<M>{f.table, f.partial, f.ids, form.expert_norm_eps});
}

/// The last step, on the layer's whole output.
template <class X, class M, class Form>
void finish_output(const X& executor, Frame<M>& f, const Form& form, View<float, M> y) {
  if constexpr (!std::is_same_v<decltype(Form::output), PlainOutput>) form.output.finish(executor, f, y);
}

}  // namespace moe::detail
