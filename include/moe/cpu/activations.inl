// The functions of math.hpp and the activations of activations.hpp in vectors, operation by operation the same as
// there: the same bits. A user's own activation goes through its scalar text.

inline vec minus(vec x) { return sub(broadcast(-0.0f), x); }

inline vec exp(vec x) {
  using k = ExpConstants;
  x = min(broadcast(k::highest), x);
  x = max(broadcast(k::lowest), x);
  const vec n = sub(fma(x, broadcast(k::log2e), broadcast(k::round_to_int)), broadcast(k::round_to_int));
  vec r = fma(n, broadcast(-k::ln2_high), x);
  r = fma(n, broadcast(-k::ln2_low), r);
  vec p = fma(broadcast(k::c7), r, broadcast(k::c6));
  p = fma(p, r, broadcast(k::c5));
  p = fma(p, r, broadcast(k::c4));
  p = fma(p, r, broadcast(k::c3));
  p = fma(p, r, broadcast(k::c2));
  p = add(fma(p, mul(r, r), r), broadcast(1.0f));
  const ivec exponent = to_int(n), low = half(exponent);
  return mul(mul(p, power_of_two(low)), power_of_two(sub(exponent, low)));
}

/// a / (1 + e^x).
inline vec over_logistic(vec a, vec x) { return div(a, add(broadcast(1.0f), exp(x))); }

inline vec tanh(vec x) {
  using k = TanhConstants;
  const vec zero = broadcast(0.0f), one = broadcast(1.0f), two = broadcast(2.0f);
  const vec magnitude = select(less(x, zero), minus(x), x);
  vec far = sub(one, div(two, add(exp(mul(two, magnitude)), one)));
  far = select(less(x, zero), minus(far), far);
  const vec s = mul(x, x);
  vec p = fma(broadcast(k::c9), s, broadcast(k::c7));
  p = fma(p, s, broadcast(k::c5));
  p = fma(p, s, broadcast(k::c3));
  p = fma(p, s, broadcast(k::c1));
  return select(less(broadcast(k::small), magnitude), far, fma(mul(s, p), x, x));
}

inline vec erf(vec x) {
  using k = ErfConstants;
  const vec zero = broadcast(0.0f);
  const vec magnitude = select(less(x, zero), minus(x), x), t = min(broadcast(k::one), magnitude);
  vec d = fma(broadcast(k::d5), t, broadcast(k::d4));
  d = fma(d, t, broadcast(k::d3));
  d = fma(d, t, broadcast(k::d2));
  d = fma(d, t, broadcast(k::d1));
  d = fma(d, t, broadcast(k::d0));
  vec far = sub(broadcast(1.0f), exp(mul(t, d)));
  far = select(less(x, zero), minus(far), far);
  const vec s = mul(x, x);
  vec p = fma(broadcast(k::c11), s, broadcast(k::c9));
  p = fma(p, s, broadcast(k::c7));
  p = fma(p, s, broadcast(k::c5));
  p = fma(p, s, broadcast(k::c3));
  p = fma(p, s, broadcast(k::c1));
  return select(less(broadcast(k::small), magnitude), far, fma(p, x, x));
}

inline vec sigmoid(vec x) { return over_logistic(broadcast(1.0f), minus(x)); }
inline vec silu(vec x) { return over_logistic(x, minus(x)); }
inline vec relu(vec x) { return max(x, broadcast(0.0f)); }
inline vec gelu(vec x) {
  const vec e = erf(mul(x, broadcast(GeluConstants::root_half)));
  return mul(mul(broadcast(0.5f), x), add(broadcast(1.0f), e));
}
inline vec gelu_tanh(vec x) {
  const vec z = fma(mul(x, x), broadcast(GeluConstants::cubic), broadcast(GeluConstants::linear));
  return over_logistic(x, mul(x, z));
}
inline vec at_most(float limit, vec x) { return min(broadcast(limit), x); }
inline vec clamp_magnitude(vec x, float limit) { return max(broadcast(-limit), at_most(limit, x)); }
inline vec softcap(vec x, float cap) { return mul(broadcast(cap), tanh(div(x, broadcast(cap)))); }

// ---- gated

inline vec apply(const SwiGlu&, vec gate, vec up) { return mul(silu(gate), up); }
inline vec apply(const GeGlu&, vec gate, vec up) { return mul(gelu(gate), up); }
inline vec apply(const GeGluTanh&, vec gate, vec up) { return mul(gelu_tanh(gate), up); }
inline vec apply(const ReGlu&, vec gate, vec up) { return mul(relu(gate), up); }
inline vec apply(const InputClampedSwiGlu& act, vec gate, vec up) {
  return mul(silu(at_most(act.limit, gate)), clamp_magnitude(up, act.limit));
}
inline vec apply(const OutputClampedSwiGlu& act, vec gate, vec up) {
  const float bound = act.limit > 0 ? act.limit : HUGE_VALF;
  return mul(at_most(bound, silu(gate)), clamp_magnitude(up, bound));
}
inline vec apply(const GptOssSwiGlu& act, vec gate, vec up) {
  const vec g = at_most(act.limit, gate), u = clamp_magnitude(up, act.limit);
  return mul(add(u, broadcast(act.up_offset)), over_logistic(g, mul(broadcast(-act.alpha), g)));
}
inline vec apply(const SoftcappedSwiGlu& act, vec gate, vec up) {
  return mul(mul(softcap(gate, act.gate_cap), sigmoid(gate)), softcap(up, act.up_cap));
}

// ---- ungated

inline vec apply(const Relu&, vec, vec up) { return relu(up); }
inline vec apply(const SquaredRelu&, vec, vec up) { return mul(relu(up), relu(up)); }
inline vec apply(const Gelu&, vec, vec up) { return gelu(up); }
inline vec apply(const GeluTanh&, vec, vec up) { return gelu_tanh(up); }
inline vec apply(const Silu&, vec, vec up) { return silu(up); }

// ---- chosen when the program runs; not inlined, or every tile of every kernel would hold all of them

__attribute__((noinline)) inline vec apply(const AnyGated& act, vec gate, vec up) {
  switch (act.kind) {
    case AnyGated::Kind::swiglu:
      return apply(SwiGlu{}, gate, up);
    case AnyGated::Kind::geglu:
      return apply(GeGlu{}, gate, up);
    case AnyGated::Kind::geglu_tanh:
      return apply(GeGluTanh{}, gate, up);
    case AnyGated::Kind::reglu:
      return apply(ReGlu{}, gate, up);
    case AnyGated::Kind::input_clamped:
      return apply(act.input_clamped, gate, up);
    case AnyGated::Kind::output_clamped:
      return apply(act.output_clamped, gate, up);
    case AnyGated::Kind::gpt_oss:
      return apply(act.gpt_oss, gate, up);
    case AnyGated::Kind::softcapped:
      return apply(act.softcapped, gate, up);
  }
  return apply(SwiGlu{}, gate, up);
}
__attribute__((noinline)) inline vec apply(const AnyUngated& act, vec gate, vec up) {
  switch (act.kind) {
    case AnyUngated::Kind::relu:
      return apply(Relu{}, gate, up);
    case AnyUngated::Kind::squared_relu:
      return apply(SquaredRelu{}, gate, up);
    case AnyUngated::Kind::gelu:
      return apply(Gelu{}, gate, up);
    case AnyUngated::Kind::gelu_tanh:
      return apply(GeluTanh{}, gate, up);
    case AnyUngated::Kind::silu:
      return apply(Silu{}, gate, up);
  }
  return apply(Relu{}, gate, up);
}

// ---- a user's own

template <class Act>
inline vec apply(const Act& act, vec gate, vec up) {
  alignas(64) float g[lanes], u[lanes];
  store(g, gate);
  store(u, up);
  apply_each(act, g, u, lanes);
  return load(g);
}
