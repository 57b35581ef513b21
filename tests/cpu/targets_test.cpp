// Names and choice of instruction sets; every kernel gives the same bits on all of them.
#include <array>
#include <cstdlib>
#include <cstring>
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
void up_is_the_same_everywhere(const Act& act) {
  for_odd_shapes([&](int inputs, int outputs, int rows) {
    for (const bool extras : {false, true}) {
      const auto run = [&](Isa isa) {
        return bits(run_product<Format>(inputs, outputs, rows, Act::gated, extras, [&](const moe::cpu::Product& p) {
          moe::cpu::up_kernel<Format, Act>(isa)(p, act);
        }));
      };
      for (const Isa isa : available_isas()) CHECK(run(isa) == run(Isa::scalar));
    }
  });
}

/// The weights of input k of a panel, as a kernel multiplies them by one: 32 columns.
template <class F>
std::vector<float> weights_of_input(Isa isa, const std::vector<std::byte>& panel, int k) {
  std::vector<float> x(32, 0.0f), out(32);
  x[static_cast<std::size_t>(k)] = 1;
  const int entry = 0;
  moe::cpu::Product product;
  product.panels = panel.data();
  product.panel_bytes = panel.size();
  product.panel_count = 1;
  product.inputs = 32;
  product.in = x.data();
  product.in_stride = 32;
  product.entry = &entry;
  product.rows = 1;
  product.out = out.data();
  product.out_stride = 32;
  moe::cpu::down_kernel<F>(isa)(product);
  return out;
}

/// Of one block of 4-bit codes with those scales, in which every column has every code: the weights that a kernel
/// reads otherwise than the layout.
template <class F>
int wrong_weights(Isa isa, const std::array<typename moe::format_traits<F>::scale, 32>& scales) {
  std::vector<std::byte> panel(PanelLayout::panel_bytes<F>(32));
  std::memcpy(panel.data(), scales.data(), sizeof scales);
  for (std::size_t i = 0; i + sizeof scales < panel.size(); ++i)  // byte j of input k: codes k + j and k - j
    panel[sizeof scales + i] = static_cast<std::byte>((i / 16 + i) % 16 | (i / 16 + 1024 - i) % 16 * 16);
  int wrong = 0;
  for (int k = 0; k < 32; ++k) {
    const std::vector<float> found = weights_of_input<F>(isa, panel, k);
    for (int column = 0; column < 32; ++column) {
      const float expected = PanelLayout::element<F>(panel.data(), panel.size(), column, k);
      const float value = found[static_cast<std::size_t>(column)];
      wrong += value == expected || (std::isnan(value) && std::isnan(expected)) ? 0 : 1;
    }
  }
  return wrong;
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

TEST_CASE_TEMPLATE("up products give the same bits on every instruction set", F, float, moe::bf16, moe::f16, moe::q8_0,
                   moe::mxfp4, moe::q4_0) {
  up_is_the_same_everywhere<F>(moe::SwiGlu{});
}
TEST_CASE("up products give the same bits on every instruction set for other gated activations") {
  up_is_the_same_everywhere<moe::mxfp4>(moe::GptOssSwiGlu{.limit = 0.5f});
  up_is_the_same_everywhere<moe::bf16>(moe::GeGluTanh{});
  up_is_the_same_everywhere<moe::f16>(moe::AnyGated{.kind = moe::AnyGated::Kind::softcapped});
}
TEST_CASE("ungated up products give the same bits on every instruction set") {
  up_is_the_same_everywhere<moe::bf16>(moe::Relu{});
  up_is_the_same_everywhere<moe::mxfp4>(moe::AnyUngated{.kind = moe::AnyUngated::Kind::gelu});
}
TEST_CASE("a user's activation gives the same bits on every instruction set") {
  up_is_the_same_everywhere<float>(Mine{});
}
TEST_CASE_TEMPLATE("down products give the same bits on every instruction set", F, float, moe::bf16, moe::f16,
                   moe::q8_0, moe::mxfp4, moe::q4_0) {
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
TEST_CASE("kernels decode every mxfp4 code with every scale exactly") {
  for (int first = 0; first < 256; first += 32) {
    std::array<moe::e8m0, 32> scales;
    for (int i = 0; i < 32; ++i) scales[static_cast<std::size_t>(i)].bits = static_cast<std::uint8_t>(first + i);
    for (const Isa isa : available_isas()) {
      CAPTURE(moe::isa_name(isa));
      CHECK(wrong_weights<moe::mxfp4>(isa, scales) == 0);
    }
  }
}
TEST_CASE("kernels decode every q4_0 code with scales of every exponent exactly") {
  for (const unsigned low : {0x0000u, 0x0001u, 0x03ffu, 0x8000u, 0x82a5u}) {  // sign and mantissa
    std::array<moe::f16, 32> scales;
    for (unsigned i = 0; i < 32; ++i) scales[i].bits = static_cast<std::uint16_t>(low | i << 10);
    for (const Isa isa : available_isas()) {
      CAPTURE(moe::isa_name(isa));
      CHECK(wrong_weights<moe::q4_0>(isa, scales) == 0);
    }
  }
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
