// Names and choice of instruction sets; every kernel gives the same bits on all of them.
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <moe/cpu/targets.hpp>
#include <utility>
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

/// Some rows of a product: what they read, what they write, and weights by row that is written.
struct Rows {
  std::vector<int> in, out;
  std::vector<moe::Slot> weights{};

  moe::cpu::Entries entries() const { return {list(in), list(out)}; }
  template <class T>
  static moe::Row<const T> list(const std::vector<T>& all) {
    return {all.data(), static_cast<int>(all.size())};
  }
};

/// One expert's up projection, all inputs random: what `kernel(product)` writes.
template <class Format, class Kernel>
std::vector<float> run_product(int inputs, int outputs, int rows, bool gated, bool biased, const Kernel& kernel) {
  oracle::Random random(static_cast<std::uint64_t>(inputs * 1000 + outputs * 10 + rows));
  const Problem<Format> p(
      {.tokens = rows, .hidden = inputs, .ffn = outputs, .experts = 1, .gated = gated, .biased = true}, random);
  const moe::Resident storage = p.storage();
  Rows list;
  for (int i = 0; i < rows; ++i) {  // in no order
    list.in.push_back(rows - 1 - i);
    list.out.push_back((i + 1) % rows);
    list.weights.push_back({0, random.real()});
  }
  moe::cpu::Product product;
  product.panels = PanelLayout::up_panels<Format>(storage.table()[0].bytes, p.shape());
  if (!biased) product.panels.bias = nullptr;
  product.in = p.x_view();
  product.entries = list.entries();
  if (biased) product.weights = Rows::list(list.weights);
  std::vector<float> out(static_cast<std::size_t>(rows * product.panels.count * 32), not_a_number);
  product.out = view(out, product.panels.count * 32);
  kernel(product);
  return out;
}

/// Every pattern of 16 bits as a T, widened by this instruction set and narrowed again.
template <class T>
void sixteen_bits_make_the_round_trip(Isa isa) {
  std::vector<T> in(65536 + 5), out(in.size());  // not a multiple of any vector
  for (std::size_t i = 0; i < in.size(); ++i) in[i].bits = static_cast<std::uint16_t>(i * 40503u);
  const int n = static_cast<int>(in.size());
  std::vector<float> wide(in.size());
  moe::cpu::widen_kernel(isa)({in.data(), 1, n}, view(wide, n));
  moe::cpu::narrow_kernel(isa)(view(std::as_const(wide), n), {out.data(), 1, n});
  int wrong = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const float expected = float(in[i]);
    wrong += std::memcmp(&wide[i], &expected, sizeof(float)) != 0 && !std::isnan(expected);
    wrong += std::isnan(expected) != std::isnan(wide[i]) || out[i].bits != T(wide[i]).bits;
  }
  CHECK(wrong == 0);
}
/// Numbers of all magnitudes, ties between two Ts, infinities and NaN are rounded as the scalar text rounds them.
template <class T>
void rounds_as_the_scalar_text(Isa isa) {
  oracle::Random random(31);
  std::vector<float> in;
  for (int i = 0; i < 200000; ++i) in.push_back(moe::bit_cast<float>(static_cast<std::uint32_t>(random.engine())));
  for (std::uint32_t i = 0; i < 65536; ++i)  // halfway, and a bit beside
    for (const std::uint32_t low : {0x0fffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u})
      in.push_back(moe::bit_cast<float>((i << 16) | low));
  std::vector<T> out(in.size());
  const int n = static_cast<int>(in.size());
  moe::cpu::narrow_kernel(isa)(view(std::as_const(in), n), {out.data(), 1, n});
  int wrong = 0;
  for (std::size_t i = 0; i < in.size(); ++i) wrong += out[i].bits != T(in[i]).bits;
  CHECK(wrong == 0);
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
  const Rows first{{0}, {0}};
  moe::cpu::Product product;
  product.panels = {.bytes = panel.data(), .stride = panel.size(), .inputs = 32, .count = 1};
  product.in = view(std::as_const(x), 32);
  product.entries = first.entries();
  product.out = view(out, 32);
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

moe::cpu::Combine sum_of(const std::vector<moe::Slot>& slots, const std::vector<float>& partial,
                         const std::vector<float>& x, std::vector<float>& y, bool add) {
  const int k = static_cast<int>(slots.size());
  return {.slots = Rows::list(slots),
          .ids = {4, 1},
          .partial = view(partial, static_cast<int>(partial.size()) / k),
          .x = Rows::list(x),
          .y = {y.data(), static_cast<int>(y.size())},
          .add = add};
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
        "moe::Cpu: instruction set: expected one of scalar, avx2, avx512, found avx3");
}
TEST_CASE("a name of something this machine lacks is refused" * doctest::skip(moe::cpu::supports(Isa::avx512))) {
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
        "moe::Cpu: instruction set: expected one of scalar, avx2, avx512, found fast");
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
TEST_CASE("products read and write the rows that they are told, with the weight of the row that is written") {
  oracle::Random random(80);
  const Problem<float> p({.tokens = 3, .hidden = 40, .ffn = 33, .experts = 1, .biased = true}, random);
  const moe::Resident storage = p.storage();
  const auto run = [&](Isa isa, const Rows& rows) {
    std::vector<float> out(5 * 64, not_a_number);
    moe::cpu::up_kernel<float, moe::SwiGlu>(isa)(
        {.panels = PanelLayout::up_panels<float>(storage.table()[0].bytes, p.shape()),
         .in = p.x_view(),
         .entries = rows.entries(),
         .weights = Rows::list(rows.weights),
         .out = view(out, 64)},
        {});
    return out;
  };
  const Rows rows{{2, 0, 2}, {4, 3, 0}, {{0, 0.5f}, {}, {}, {0, 2.0f}, {0, -1.0f}}};
  const std::vector<std::uint32_t> untouched = bits(std::vector<float>(64, not_a_number));
  for (const Isa isa : available_isas()) {
    const std::vector<float> found = run(isa, rows);
    for (std::size_t i = 0; i < 3; ++i) {
      const moe::Slot weight = rows.weights[static_cast<std::size_t>(rows.out[i])];
      const std::vector<float> alone = run(isa, {{rows.in[i]}, {0}, {weight}});
      CHECK(bits(view(found, 64).row(rows.out[i])) == bits(view(alone, 64).row(0)));
    }
    for (const int other : {1, 2}) CHECK(bits(view(found, 64).row(other)) == untouched);
  }
}
TEST_CASE("some panels of a product are written where they are when all are") {
  oracle::Random random(83);
  const Problem<moe::bf16> p({.tokens = 2, .hidden = 40, .ffn = 120, .experts = 1, .biased = true}, random);
  const moe::Resident storage = p.storage();
  const Rows rows{{0, 1}, {0, 1}};
  const moe::Panels all = PanelLayout::up_panels<moe::bf16>(storage.table()[0].bytes, p.shape());
  const auto run = [&](const moe::Panels& panels) {
    std::vector<float> out(2 * 128, 7);
    moe::cpu::up_kernel<moe::bf16, moe::SwiGlu>(Isa::scalar)(
        {.panels = panels, .in = p.x_view(), .entries = rows.entries(), .out = view(out, 128)}, {});
    return out;
  };
  const std::vector<float> whole = run(all), part = run(all.slice(1, 3).slice(0, 2));
  for (int row = 0; row < 2; ++row)
    for (int i = 0; i < 128; ++i) {
      const bool inside = i >= 32 && i < 96;
      CHECK(view(part, 128).row(row)[i] == (inside ? view(whole, 128).row(row)[i] : 7));
    }
}
TEST_CASE("dot products give the same bits on every instruction set, alone and with other rows and outputs") {
  oracle::Random random(81);
  const int rows = 9, outputs = 3;
  for (int n = 1; n <= 200; ++n) {
    const std::vector<float> in = random.reals(rows * n), weight = random.reals(outputs * n),
                             bias = random.reals(outputs);
    const auto run = [&](Isa isa, int row, int row_count, int output, int output_count) {
      std::vector<float> out(static_cast<std::size_t>(row_count * output_count));
      moe::cpu::dot_kernel(isa)({.in = view(in, n).slice(row, row_count),
                                 .weight = view(weight, n).slice(output, output_count),
                                 .bias = bias.data() + output,
                                 .out = view(out, output_count)});
      return out;
    };
    const std::vector<float> expected = run(Isa::scalar, 0, rows, 0, outputs);
    for (const Isa isa : available_isas()) {
      CHECK(run(isa, 0, rows, 0, outputs) == expected);
      for (int r = 0; r < rows; ++r)
        for (int o = 0; o < outputs; ++o) CHECK(run(isa, r, 1, o, 1)[0] == view(expected, outputs).row(r)[o]);
    }
  }
}
TEST_CASE("a dot product without inputs is its bias, or zero") {
  const float bias = 0.5f;
  for (const Isa isa : available_isas()) {
    std::vector<float> out(2);
    moe::cpu::DotProducts products{
        .in = {nullptr, 2, 0}, .weight = {nullptr, 1, 0}, .bias = &bias, .out = view(out, 1)};
    moe::cpu::dot_kernel(isa)(products);
    CHECK(out == std::vector<float>{0.5f, 0.5f});
    products.bias = nullptr;
    moe::cpu::dot_kernel(isa)(products);
    CHECK(out == std::vector<float>{0, 0});
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

// ---- other element types

TEST_CASE("every 16-bit number is widened exactly and narrowed back, on every instruction set") {
  for (const Isa isa : available_isas()) {
    CAPTURE(moe::isa_name(isa));
    sixteen_bits_make_the_round_trip<moe::bf16>(isa);
    sixteen_bits_make_the_round_trip<moe::f16>(isa);
  }
}
TEST_CASE("numbers are rounded to 16 bits as the scalar text rounds them, on every instruction set") {
  for (const Isa isa : available_isas()) {
    CAPTURE(moe::isa_name(isa));
    rounds_as_the_scalar_text<moe::bf16>(isa);
    rounds_as_the_scalar_text<moe::f16>(isa);
  }
}
