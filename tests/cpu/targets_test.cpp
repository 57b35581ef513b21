// Names and choice of instruction sets; every kernel gives the same bits on all of them.
#include <cstdlib>
#include <moe/cpu/targets.hpp>
#include <vector>

#include "../problem.hpp"
#include "isas.hpp"

using moe::Isa;
using moe::PanelLayout;

namespace {

/// A user's activation: kernels call its scalar text. A compiler with FMA could contract the product and the sum.
struct Mine {
  static constexpr bool gated = true;
  float operator()(float gate, float up) const noexcept { return gate * up + 0.7f * gate; }
};

/// MOE_ISA for one scope.
class ForcedIsa {
 public:
  explicit ForcedIsa(const char* name) {
    if (const char* old = std::getenv("MOE_ISA")) old_ = old;
    setenv("MOE_ISA", name, 1);
  }
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;
  ~ForcedIsa() { setenv("MOE_ISA", old_.c_str(), 1); }

 private:
  std::string old_;
};

/// One expert's product over `rows` rows, all inputs random: what `kernel(product)` writes.
template <class Format, class Kernel>
std::vector<float> run_product(int inputs, int outputs, int rows, bool gated, bool biased, const Kernel& kernel) {
  oracle::Random random(static_cast<std::uint64_t>(inputs * 1000 + outputs * 10 + rows));
  const int panels = (outputs + 31) / 32;
  const Problem<Format> p(
      {.tokens = rows, .hidden = inputs, .ffn = outputs, .experts = 1, .gated = gated, .biased = true}, random);
  const moe::Resident storage = p.storage();
  const std::byte* record = storage.table()[0].bytes;
  const moe::RecordOffsets o = PanelLayout::offsets<Format>(p.shape());
  std::vector<int> entry(static_cast<std::size_t>(rows));
  std::vector<moe::Slot> weights(entry.size());
  for (int i = 0; i < rows; ++i) {
    entry[static_cast<std::size_t>(i)] = rows - 1 - i;  // rows need not come in order
    weights[static_cast<std::size_t>(i)] = {0, random.real()};
  }
  std::vector<float> out(static_cast<std::size_t>(rows * panels * 32), not_a_number);
  moe::cpu::Product product;
  product.panels = record + o.up;
  product.panel_bytes = PanelLayout::panel_bytes<Format>(inputs);
  product.panel_count = panels;
  product.inputs = inputs;
  product.bias = biased ? reinterpret_cast<const float*>(record + o.up_bias) : nullptr;
  product.in = p.x.data();
  product.in_stride = inputs;
  product.entry = entry.data();
  product.rows = rows;
  product.weights = biased ? weights.data() : nullptr;
  product.out = out.data();
  product.out_stride = panels * 32;
  kernel(product);
  return out;
}

/// Calls f(inputs, outputs, rows) for widths that are no multiple of anything and for all row tiles.
template <class F>
void for_odd_shapes(const F& f) {
  for (const int n : {1, 3, 31, 32, 33, 64, 65, 97}) f(n, 98 - n, 1 + n % 5);
  for (int rows = 1; rows <= 20; ++rows) f(39, 40, rows);
}

template <class Format, class Act>
void up_is_the_same_everywhere() {
  for_odd_shapes([](int inputs, int outputs, int rows) {
    for (const bool extras : {false, true}) {
      const auto run = [&](Isa isa) {
        return bits(run_product<Format>(inputs, outputs, rows, Act::gated, extras, [&](const moe::cpu::Product& p) {
          moe::cpu::up_kernel<Format, Act>(isa)(p, Act{});
        }));
      };
      for (const Isa isa : available_isas()) CHECK(run(isa) == run(Isa::scalar));
    }
  });
}

moe::cpu::Sum sum_of(const std::vector<moe::Slot>& slots, const std::vector<float>& partial,
                     const std::vector<float>& x, std::vector<float>& y, bool add) {
  moe::cpu::Sum s;
  s.slots = slots.data();
  s.count = static_cast<int>(slots.size());
  s.ids = {4, 1};
  s.partial = partial.data();
  s.stride = static_cast<std::ptrdiff_t>(partial.size() / slots.size());
  s.x = x.data();
  s.y = y.data();
  s.columns = static_cast<int>(y.size());
  s.add = add;
  return s;
}

// exp and SwiGlu of one instruction set over an array, called as the kernels call them.
using Elementwise = void (*)(const float* gate, const float* up, float* exp, float* swiglu, int n);

#define MOE_TEST_ELEMENTWISE(isa, attribute)                                                               \
  attribute void elementwise_##isa(const float* gate, const float* up, float* exp, float* swiglu, int n) { \
    namespace k = moe::cpu::isa;                                                                           \
    for (int i = 0; i < n; i += k::lanes) {                                                                \
      k::store(exp + i, k::exp(k::load(gate + i)));                                                        \
      k::store(swiglu + i, k::apply(moe::SwiGlu{}, k::load(gate + i), k::load(up + i)));                   \
    }                                                                                                      \
  }
MOE_TEST_ELEMENTWISE(scalar, )
#if MOE_X86
MOE_TEST_ELEMENTWISE(avx2, __attribute__((target("avx2,fma,f16c"))))
MOE_TEST_ELEMENTWISE(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))))
#endif

Elementwise elementwise(Isa isa) {
#if MOE_X86
  if (isa == Isa::avx512) return elementwise_avx512;
  if (isa == Isa::avx2) return elementwise_avx2;
#endif
  return elementwise_scalar;
}

/// Every 9973rd float: all exponents, both signs, infinities; NaN left out, whose bits no instruction set promises.
std::vector<float> sweep() {
  std::vector<float> values{infinity, -infinity, 0.0f, -0.0f};
  for (std::uint64_t i = 0; i < 1ull << 32; i += 9973) {
    const float x = moe::bit_cast<float>(static_cast<std::uint32_t>(i));
    if (!std::isnan(x)) values.push_back(x);
  }
  values.resize(values.size() / 16 * 16);
  return values;
}

}  // namespace

TEST_CASE("instruction sets have names") {
  CHECK(moe::isa_name(Isa::scalar) == "scalar");
  CHECK(moe::isa_name(Isa::avx2) == "avx2");
  CHECK(moe::isa_name(Isa::avx512) == "avx512");
}
TEST_CASE("names of available instruction sets are understood") {
  for (const Isa isa : available_isas()) CHECK(moe::cpu::isa_from_name(moe::isa_name(isa)) == isa);
}
TEST_CASE("an unknown name is refused with the names there are") {
  CHECK(message_of([] { moe::cpu::isa_from_name("avx3"); }) ==
        "moe::Cpu: instruction set: expected scalar, avx2 or avx512, found avx3");
}
TEST_CASE("a name of something this machine lacks is refused") {
  if (moe::cpu::supports(Isa::avx512)) return;
  CHECK(message_of([] { moe::cpu::isa_from_name("avx512"); }) ==
        "moe::Cpu: instruction set: expected one that this machine has, found avx512");
}
TEST_CASE("MOE_ISA chooses") {
  const ForcedIsa forced("scalar");
  CHECK(moe::cpu::best_isa() == Isa::scalar);
}
TEST_CASE("MOE_ISA with a bad value is refused") {
  const ForcedIsa forced("fast");
  CHECK(message_of([] { moe::cpu::best_isa(); }) ==
        "moe::Cpu: instruction set: expected scalar, avx2 or avx512, found fast");
}
TEST_CASE("an empty MOE_ISA chooses nothing") {
  const ForcedIsa forced("");
  CHECK(moe::cpu::best_isa() == available_isas().back());
}

TEST_CASE("exp gives the bits of the scalar text on every instruction set") {
  const std::vector<float> in = sweep();
  std::vector<float> found = in, expected = in, unused = in;
  for (float& x : expected) x = moe::exp(x);
  for (const Isa isa : available_isas()) {
    CAPTURE(moe::isa_name(isa));
    elementwise(isa)(in.data(), in.data(), found.data(), unused.data(), static_cast<int>(in.size()));
    CHECK((bits(found) == bits(expected)));
  }
}
TEST_CASE("SwiGlu gives the bits of the scalar text on every instruction set") {
  std::vector<float> gate = sweep(), up(gate.rbegin(), gate.rend());
  std::vector<float> found = gate, expected = gate, unused = gate;
  for (std::size_t i = 0; i < gate.size(); ++i) {
    if (std::isnan(moe::SwiGlu{}(gate[i], up[i]))) gate[i] = up[i] = 1;  // infinity times zero
    expected[i] = moe::SwiGlu{}(gate[i], up[i]);
  }
  for (const Isa isa : available_isas()) {
    CAPTURE(moe::isa_name(isa));
    elementwise(isa)(gate.data(), up.data(), unused.data(), found.data(), static_cast<int>(gate.size()));
    CHECK((bits(found) == bits(expected)));
  }
}
TEST_CASE("exp of NaN is NaN on every instruction set") {
  const std::vector<float> in(16, not_a_number);
  std::vector<float> exp(16), swiglu(16);
  for (const Isa isa : available_isas()) {
    elementwise(isa)(in.data(), in.data(), exp.data(), swiglu.data(), 16);
    for (std::size_t i = 0; i < 16; ++i) CHECK((std::isnan(exp[i]) && std::isnan(swiglu[i])));
  }
}

TEST_CASE_TEMPLATE("up products give the same bits on every instruction set", F, float, moe::bf16, moe::f16,
                   moe::q8_0) {
  up_is_the_same_everywhere<F, moe::SwiGlu>();
}
TEST_CASE("ungated up products give the same bits on every instruction set") {
  up_is_the_same_everywhere<moe::bf16, moe::Relu>();
}
TEST_CASE("a user's activation gives the same bits on every instruction set") {
  up_is_the_same_everywhere<float, Mine>();
}
TEST_CASE_TEMPLATE("down products give the same bits on every instruction set", F, float, moe::bf16, moe::f16,
                   moe::q8_0) {
  for_odd_shapes([](int inputs, int outputs, int rows) {
    for (const bool biased : {false, true}) {
      const auto run = [&](Isa isa) {
        return bits(run_product<F>(inputs, outputs, rows, false, biased,
                                   [&](const moe::cpu::Product& p) { moe::cpu::down_kernel<F>(isa)(p); }));
      };
      for (const Isa isa : available_isas()) CHECK(run(isa) == run(Isa::scalar));
    }
  });
}
TEST_CASE("dot products give the same bits on every instruction set, alone and with other rows") {
  oracle::Random random(81);
  const int rows = 9;
  for (int n = 0; n <= 200; ++n) {
    const std::vector<float> in = random.reals(rows * n), weight = random.reals(n);
    const auto run = [&](Isa isa, int first, int count) {
      std::vector<float> out(static_cast<std::size_t>(count));
      moe::cpu::dot_kernel(isa)({.in = in.data() + first * n,
                                 .in_stride = n,
                                 .rows = count,
                                 .weight = weight.data(),
                                 .bias = 0.5f,
                                 .inputs = n,
                                 .out = out.data(),
                                 .out_stride = 1});
      return out;
    };
    const std::vector<float> expected = run(Isa::scalar, 0, rows);
    for (const Isa isa : available_isas()) {
      CHECK(run(isa, 0, rows) == expected);
      for (int r = 0; r < rows; ++r) CHECK(run(isa, r, 1)[0] == expected[static_cast<std::size_t>(r)]);
    }
  }
}
TEST_CASE("sums over slots give the same bits on every instruction set and write no column too many") {
  oracle::Random random(82);
  const std::vector<moe::Slot> slots{{2, 0.3f}, {-1, 5}, {4, 0.7f}, {0, 0.1f}, {5, 3}};
  for (int n = 0; n <= 70; ++n) {
    const std::vector<float> partial = random.reals(5 * ((n + 31) / 32 * 32 + 32)), x = random.reals(n),
                             before = random.reals(n);
    for (const bool add : {false, true}) {
      const auto run = [&](Isa isa) {
        std::vector<float> y = before;
        moe::cpu::combine_kernel(isa)(sum_of(slots, partial, x, y, add));
        return bits(y);
      };
      for (const Isa isa : available_isas()) CHECK(run(isa) == run(Isa::scalar));
    }
  }
}
