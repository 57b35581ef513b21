// The vector forms of functions and activations give the bits of their scalar text on every instruction set.
#include <algorithm>
#include <moe/cpu/targets.hpp>
#include <vector>

#include "../activation_list.hpp"
#include "../problem.hpp"
#include "isas.hpp"

using moe::Isa;

namespace {

// A function of one argument as if it were an activation: the kernels' vector text on one side, math.hpp on the other.
struct Exp {
  float operator()(float, float x) const { return moe::exp(x); }
};
struct Tanh {
  float operator()(float, float x) const { return moe::tanh(x); }
};
struct Erf {
  float operator()(float, float x) const { return moe::erf(x); }
};

// out[i] = act(gate[i], up[i]) in the vectors of one instruction set, called as the kernels call them.
#define MOE_TEST_ELEMENTWISE(isa, attribute)                                                           \
  template <class Act>                                                                                 \
  attribute void store_at(const Act& act, const float* gate, const float* up, float* out,              \
                          std::integral_constant<Isa, Isa::isa>) {                                     \
    namespace k = moe::cpu::isa;                                                                       \
    if constexpr (std::is_same_v<Act, Exp>)                                                            \
      k::store(out, k::exp(k::load(up)));                                                              \
    else if constexpr (std::is_same_v<Act, Tanh>)                                                      \
      k::store(out, k::tanh(k::load(up)));                                                             \
    else if constexpr (std::is_same_v<Act, Erf>)                                                       \
      k::store(out, k::erf(k::load(up)));                                                              \
    else                                                                                               \
      k::store(out, k::apply(act, k::load(gate), k::load(up)));                                        \
  }                                                                                                    \
  template <class Act>                                                                                 \
  void elementwise(const Act& act, const float* gate, const float* up, float* out, int n,              \
                   std::integral_constant<Isa, Isa::isa> which) {                                      \
    for (int i = 0; i < n; i += moe::cpu::isa::lanes) store_at(act, gate + i, up + i, out + i, which); \
  }
MOE_TEST_ELEMENTWISE(scalar, )
#if MOE_X86
MOE_TEST_ELEMENTWISE(avx2, __attribute__((target("avx2,fma,f16c"))))
MOE_TEST_ELEMENTWISE(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))))
#endif

template <class Act>
void run(Isa isa, const Act& act, const float* gate, const float* up, float* out, int n) {
#if MOE_X86
  if (isa == Isa::avx512) return elementwise(act, gate, up, out, n, std::integral_constant<Isa, Isa::avx512>{});
  if (isa == Isa::avx2) return elementwise(act, gate, up, out, n, std::integral_constant<Isa, Isa::avx2>{});
#endif
  elementwise(act, gate, up, out, n, std::integral_constant<Isa, Isa::scalar>{});
}

struct Pairs {
  std::vector<float> gate, up;
  void add(float g, float u) {
    gate.push_back(g);
    up.push_back(u);
  }
};

/// Every pair of special numbers, every 9973rd float beside its opposite number, and numbers of usual size.
Pairs sweep() {
  Pairs p;
  const float special[] = {not_a_number, infinity, 1, 0.0f, 0x1p-149f, 0x1.8p-127f, 88.5f, 104.5f, moe::largest_float};
  for (const float g : special)
    for (const float u : special)
      for (const int signs : {0, 1, 2, 3}) p.add((signs & 1) != 0 ? -g : g, (signs & 2) != 0 ? -u : u);
  for (std::uint64_t i = 0; i < 1ull << 32; i += 9973) {
    const auto other = static_cast<std::uint32_t>(~i);
    p.add(moe::bit_cast<float>(static_cast<std::uint32_t>(i)), moe::bit_cast<float>(other));
  }
  oracle::Random random(91);
  for (int i = 0; i < 50000; ++i) p.add(random.real(16), random.real(16));
  while (p.gate.size() % 16 != 0) p.add(1, 1);
  return p;
}

/// Which NaN a NaN is, no instruction set promises.
bool same_bits(float a, float b) {
  return moe::bit_cast<std::uint32_t>(a) == moe::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

template <class Act>
void is_the_same_everywhere(const Act& act) {
  static const Pairs p = sweep();
  std::vector<float> found(p.gate.size());
  for (const Isa isa : available_isas()) {
    CAPTURE(moe::isa_name(isa));
    run(isa, act, p.gate.data(), p.up.data(), found.data(), static_cast<int>(found.size()));
    std::size_t i = 0;
    while (i < found.size() && same_bits(found[i], act(p.gate[i], p.up[i]))) ++i;
    CAPTURE(i < found.size() ? p.gate[i] : 0);
    CAPTURE(i < found.size() ? p.up[i] : 0);
    CHECK(i == found.size());
  }
}

}  // namespace

TEST_CASE_TEMPLATE("functions give the bits of the scalar text on every instruction set", F, Exp, Tanh, Erf) {
  is_the_same_everywhere(F{});
}
TEST_CASE("gated activations give the bits of the scalar text on every instruction set") {
  int kind = 0;
  for_gated([&](auto act) {
    CAPTURE(kind++);
    is_the_same_everywhere(act);
    is_the_same_everywhere(any(act));
  });
}
TEST_CASE("ungated activations give the bits of the scalar text on every instruction set") {
  int kind = 0;
  for_ungated([&](auto act) {
    CAPTURE(kind++);
    is_the_same_everywhere(act);
    is_the_same_everywhere(any(act));
  });
}
TEST_CASE("vector forms of NaN are NaN") {
  const std::vector<float> nan(16, not_a_number);
  for_gated([&](auto act) {
    for (const Isa isa : available_isas()) {
      std::vector<float> out(16);
      run(isa, act, nan.data(), nan.data(), out.data(), 16);
      CHECK(std::all_of(out.begin(), out.end(), [](float x) { return std::isnan(x); }));
    }
  });
}
