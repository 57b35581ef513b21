// Packing into panels and reading single weights back.
#include <moe/layout.hpp>
#include <set>
#include <type_traits>
#include <utility>
#include <vector>

#include "problem.hpp"

using moe::PanelLayout;

namespace {

using Mixed = moe::expert_format<moe::q8_0, moe::f16>;

template <class Format>
std::vector<std::byte> packed(const Problem<Format>& p) {
  std::vector<std::byte> record(PanelLayout::record_bytes<Format>(p.shape()), std::byte{0xaa});
  PanelLayout::pack<Format>(p.shape(), p.matrices()[0], record.data());
  return record;
}

template <class F>
int wrong_elements(const std::byte* panels, std::size_t stride, const std::vector<double>& weights, int rows,
                   int cols) {
  int wrong = 0;
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c)
      wrong += static_cast<double>(PanelLayout::element<F>(panels, stride, r, c)) !=
                       weights[static_cast<std::size_t>(r * cols + c)]
                   ? 1
                   : 0;
  return wrong;
}

/// Weights that do not come back from a packed record as the oracle stores them.
template <class Format>
int wrong_after_round_trip(int hidden, int ffn, bool gated) {
  using P = moe::projection_formats<Format>;
  oracle::Random random(static_cast<std::uint64_t>(hidden * 100 + ffn));
  const Problem<Format> p({.tokens = 0, .hidden = hidden, .ffn = ffn, .experts = 1, .gated = gated}, random);
  const std::vector<std::byte> record = packed(p);
  const oracle::Expert& e = p.layer.experts[0];
  const auto o = PanelLayout::offsets<Format>(p.shape());
  const std::size_t panel = PanelLayout::panel_bytes<typename P::up>(hidden);
  const std::byte *data = record.data(), *up = data + o.up;
  int wrong = gated ? wrong_elements<typename P::up>(up, 2 * panel, e.gate, ffn, hidden) : 0;
  wrong += wrong_elements<typename P::up>(gated ? up + panel : up, gated ? 2 * panel : panel, e.up, ffn, hidden);
  return wrong + wrong_elements<typename P::down>(data + o.down, PanelLayout::panel_bytes<typename P::down>(ffn),
                                                  e.down, hidden, ffn);
}

/// Weights and biases that the panels of a record do not lead to as the oracle stores them.
template <class Format>
int wrong_in_panels(int hidden, int ffn, bool gated) {
  using P = moe::projection_formats<Format>;
  oracle::Random random(static_cast<std::uint64_t>(hidden * 100 + ffn));
  const Problem<Format> p({.tokens = 0, .hidden = hidden, .ffn = ffn, .experts = 1, .gated = gated, .biased = true},
                          random);
  const std::vector<std::byte> record = packed(p);
  const oracle::Expert& e = p.layer.experts[0];
  const auto wrong = [&]<class F>(std::type_identity<F>, const moe::Panels& panels, int side, const auto& weights,
                                  const auto& biases) {
    int found = 0;
    for (int r = 0; r < static_cast<int>(biases.size()); ++r) {
      const int panel = r / 32, column = r % 32;
      const std::vector<double> row(weights.begin() + r * panels.inputs, weights.begin() + (r + 1) * panels.inputs);
      for (int k = 0; k < panels.inputs; ++k) {
        const float weight = PanelLayout::element<F>(panels.panel(panel, side), panels.stride, column, k);
        found += static_cast<double>(weight) != row[static_cast<std::size_t>(k)] ? 1 : 0;
      }
      const float bias = panels.panel_bias(panel, side)[column];
      found += static_cast<double>(bias) != biases[static_cast<std::size_t>(r)] ? 1 : 0;
    }
    return found;
  };
  const moe::Panels up = PanelLayout::up_panels<Format>(record.data(), p.shape());
  const std::type_identity<typename P::up> up_format;
  return (gated ? wrong(up_format, up, 0, e.gate, e.gate_bias) : 0) +
         wrong(up_format, up, gated ? 1 : 0, e.up, e.up_bias) +
         wrong(std::type_identity<typename P::down>{}, PanelLayout::down_panels<Format>(record.data(), p.shape()), 0,
               e.down, e.down_bias);
}

/// A valid f32 expert of [ffn 3, hidden 2] to damage.
struct Damaged {
  std::vector<float> a = std::vector<float>(6, 1.0f), bias = std::vector<float>(3, 1.0f);
  moe::ExpertShape shape{2, 3, true, false};
  moe::ExpertMatrices m;
  Damaged() {
    m.gate = m.up = moe::Matrix(a.data(), 3, 2);
    m.down = moe::Matrix(a.data(), 2, 3);
  }
  std::string message() const {
    std::vector<std::byte> record(PanelLayout::record_bytes<float>(shape));
    return message_of([&] { PanelLayout::pack<float>(shape, m, record.data()); });
  }
};

}  // namespace

TEST_CASE_TEMPLATE("every weight comes back from its panel, for widths 1 to 70", F, float, moe::bf16, moe::f16,
                   moe::q8_0, moe::mxfp4, moe::q4_0, Mixed) {
  int wrong = 0;
  for (int n = 1; n <= 70; ++n)
    wrong += wrong_after_round_trip<F>(n, 71 - n, true) + wrong_after_round_trip<F>(71 - n, n, false);
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("panels lead to every weight and bias of a record", F, float, moe::bf16, moe::f16, moe::q8_0,
                   moe::mxfp4, moe::q4_0, Mixed) {
  for (const auto& [hidden, ffn] : {std::pair{1, 70}, {33, 64}, {64, 33}, {70, 1}})
    for (const bool gated : {false, true}) CHECK(wrong_in_panels<F>(hidden, ffn, gated) == 0);
}
TEST_CASE("panels of experts without biases have none") {
  const std::vector<std::byte> record(PanelLayout::record_bytes<float>({40, 40, true, false}));
  CHECK(PanelLayout::up_panels<float>(record.data(), {40, 40, true, false}).panel_bias(1, 1) == nullptr);
  CHECK(PanelLayout::down_panels<float>(record.data(), {40, 40, true, false}).panel_bias(1, 0) == nullptr);
}
TEST_CASE("panels cover all outputs, and a slice of them keeps their numbers") {
  const moe::ExpertShape shape{97, 65, true, true};
  const std::vector<std::byte> record(PanelLayout::record_bytes<float>(shape));
  const moe::Panels up = PanelLayout::up_panels<float>(record.data(), shape),
                    down = PanelLayout::down_panels<float>(record.data(), shape);
  CHECK(up.count == 3);
  CHECK(up.inputs == 97);
  CHECK(down.count == 4);
  CHECK(down.inputs == 65);
  const moe::Panels some = down.slice(1, 3).slice(1, 1);
  CHECK(some.first == 2);
  CHECK(some.count == 1);
  CHECK(some.panel(2, 0) == down.panel(2, 0));
}

TEST_CASE_TEMPLATE("padding is zero, so that every byte of a record is written", F, float, moe::bf16, moe::f16,
                   moe::q8_0, moe::mxfp4) {
  std::vector<float> zeros(33 * 35, 0.0f), bias(35, 0.0f);
  moe::ExpertMatrices m;
  m.gate = m.up = moe::Matrix(zeros.data(), 35, 33);
  m.down = moe::Matrix(zeros.data(), 33, 35);
  m.gate_bias = m.up_bias = m.down_bias = bias.data();
  const moe::ExpertShape shape{33, 35, true, true};
  std::vector<std::byte> record(PanelLayout::record_bytes<F>(shape), std::byte{0xaa});
  PanelLayout::pack<F>(shape, m, record.data());
  CHECK(record == std::vector<std::byte>(record.size(), std::byte{0}));
}

TEST_CASE("columns beyond the outputs are zero") {
  const Damaged d;
  std::vector<std::byte> record(PanelLayout::record_bytes<float>(d.shape));
  PanelLayout::pack<float>(d.shape, d.m, record.data());
  for (int column = 3; column < 32; ++column)
    CHECK(PanelLayout::element<float>(record.data(), 2 * PanelLayout::panel_bytes<float>(2), column, 0) == 0);
}

TEST_CASE("the parts of a record begin at multiples of 64 bytes") {
  for (int n = 1; n <= 70; ++n) {
    const auto o = PanelLayout::offsets<moe::q8_0>({n, 71 - n, true, true});
    CHECK((o.up % 64 + o.down % 64 + o.up_bias % 64 + o.down_bias % 64 + o.bytes % 64) == 0);
  }
}
TEST_CASE("a record of 32-wide q8_0 panels takes 34 bytes for 32 weights") {
  CHECK(PanelLayout::record_bytes<moe::q8_0>({64, 96, true, false}) == 3u * 64 * 96 / 32 * 34);
}
TEST_CASE("a record of 32-wide mxfp4 panels takes 17 bytes for 32 weights") {
  CHECK(PanelLayout::record_bytes<moe::mxfp4>({64, 96, true, false}) == 3u * 64 * 96 / 32 * 17);
}
TEST_CASE("a record of 32-wide q4_0 panels takes 18 bytes for 32 weights") {
  CHECK(PanelLayout::record_bytes<moe::q4_0>({64, 96, true, false}) == 3u * 64 * 96 / 32 * 18);
}
TEST_CASE("an ungated record holds two matrices") {
  CHECK(PanelLayout::record_bytes<float>({64, 96, false, false}) == 2u * 64 * 96 * 4);
}
TEST_CASE("bf16 columns of one input lie in pairs 16 apart") {
  using traits = moe::format_traits<moe::bf16>;
  CHECK(traits::place(0).code == 0);
  CHECK(traits::place(16).code == 1);
  CHECK(traits::place(1).code == 2);
}
TEST_CASE_TEMPLATE("every column has a place of its own among an input's codes", F, float, moe::bf16, moe::f16,
                   moe::q8_0, moe::mxfp4, moe::q4_0) {
  using traits = moe::format_traits<F>;
  constexpr int weights = moe::weights_per_code<typename traits::code>;
  std::set<int> all;
  for (int c = 0; c < 32; ++c) {
    const moe::CodePlace place = traits::place(c);
    CHECK(place.code < 32 / weights);
    CHECK(place.part < weights);
    all.insert(weights * place.code + place.part);
  }
  CHECK(all.size() == 32);
}
TEST_CASE("mxfp4 columns of one input share bytes 16 apart, after the scales") {
  std::vector<float> weights(32 * 32, 0.0f);
  weights[3 * 32 + 5] = 1;   // output 3, input 5: the low half of byte 3 of input 5
  weights[19 * 32 + 5] = 6;  // output 19, input 5: its high half
  moe::ExpertMatrices m;
  m.up = m.down = moe::Matrix(weights.data(), 32, 32);
  const moe::ExpertShape shape{32, 32, false, false};
  std::vector<std::byte> record(PanelLayout::record_bytes<moe::mxfp4>(shape));
  PanelLayout::pack<moe::mxfp4>(shape, m, record.data());
  CHECK(record[3] == std::byte{125});  // 1 is 4 * 2^-2
  CHECK(record[19] == std::byte{127});
  CHECK(record[32 + 5 * 16 + 3] == std::byte{0x76});
}
TEST_CASE("q4_0 columns of one input share bytes 16 apart, after the scales; columns beyond the outputs are zero") {
  std::vector<float> weights(20 * 32, 0.0f);
  weights[3 * 32 + 21] = -4;  // output 3, input 21: the low half of byte 3 of input 21
  weights[3 * 32 + 5] = 3;
  weights[19 * 32 + 21] = 1;  // output 19, input 21: its high half
  weights[19 * 32 + 22] = -1;
  moe::ExpertMatrices m;
  m.up = moe::Matrix(weights.data(), 20, 32);
  m.down = m.up.transposed();
  const moe::ExpertShape shape{32, 20, false, false};
  std::vector<std::byte> record(PanelLayout::record_bytes<moe::q4_0>(shape), std::byte{0xaa});
  PanelLayout::pack<moe::q4_0>(shape, m, record.data());
  const auto* scales = reinterpret_cast<const moe::f16*>(record.data());
  const std::byte* codes = record.data() + 64;
  CHECK(float(scales[3]) == 0.5f);
  CHECK(float(scales[19]) == -0.125f);
  CHECK(codes[21 * 16 + 3] == std::byte{0x00});
  CHECK(codes[5 * 16 + 3] == std::byte{0x8e});
  CHECK(codes[22 * 16 + 3] == std::byte{0xf8});
  for (int column = 20; column < 32; ++column) {
    CHECK(scales[column].bits == 0);
    for (int input = 0; input < 32; ++input) CHECK((codes[input * 16 + column % 16] >> 4) == std::byte{0});
  }
}
TEST_CASE("an mxfp4 checkpoint widened to bf16 packs without a change of value") {
  oracle::Random random(46);
  const int rows = 70, cols = 96;
  std::vector<moe::bf16> wide;
  for (int block = 0; block < rows * cols / 32; ++block) {
    const float scale = std::ldexp(1.0f, random.between(-120, 120));
    const int most = random.between(1, 7);
    for (int i = 0; i < 32; ++i) {
      const auto code = static_cast<unsigned>(random.between(0, most)) | (random.coin() ? 8u : 0u);
      wide.emplace_back(moe::e2m1_value(code) * scale);
    }
  }
  moe::ExpertMatrices m;
  m.up = moe::Matrix(wide.data(), rows, cols);
  m.down = m.up.transposed();
  const moe::ExpertShape shape{cols, rows, false, false};
  std::vector<std::byte> record(PanelLayout::record_bytes<moe::mxfp4>(shape));
  PanelLayout::pack<moe::mxfp4>(shape, m, record.data());
  int wrong = 0;
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c)
      wrong += PanelLayout::element<moe::mxfp4>(record.data(), PanelLayout::panel_bytes<moe::mxfp4>(cols), r, c) ==
                       m.up.at(r, c)
                   ? 0
                   : 1;
  CHECK(wrong == 0);
}
TEST_CASE("a matrix given transposed packs to the same bytes") {
  const float rows[] = {1, 2, 3, 4, 5, 6}, columns[] = {1, 3, 5, 2, 4, 6};
  Damaged a, b;
  a.m.gate = moe::Matrix(rows, 3, 2);
  b.m.gate = moe::Matrix(columns, 2, 3).transposed();
  std::vector<std::byte> first(PanelLayout::record_bytes<float>(a.shape)), second = first;
  PanelLayout::pack<float>(a.shape, a.m, first.data());
  PanelLayout::pack<float>(b.shape, b.m, second.data());
  CHECK(first == second);
}

TEST_CASE("a gate matrix of another shape is refused") {
  Damaged d;
  d.m.gate = moe::Matrix(d.a.data(), 2, 3);
  CHECK(d.message() == "moe::PanelLayout::pack: gate matrix: expected [3, 2], found [2, 3]");
}
TEST_CASE("an up matrix of another shape is refused") {
  Damaged d;
  d.m.up = moe::Matrix(d.a.data(), 3, 1);
  CHECK(d.message() == "moe::PanelLayout::pack: up matrix: expected [3, 2], found [3, 1]");
}
TEST_CASE("a down matrix of another shape is refused") {
  Damaged d;
  d.m.down = moe::Matrix(d.a.data(), 3, 2);
  CHECK(d.message() == "moe::PanelLayout::pack: down matrix: expected [2, 3], found [3, 2]");
}
TEST_CASE("a missing matrix is refused") {
  Damaged d;
  d.m.gate = {};
  CHECK(d.message() == "moe::PanelLayout::pack: gate matrix: expected [3, 2], found no data");
}
TEST_CASE("a missing bias is refused") {
  Damaged d;
  d.shape.biased = true;
  d.m.gate_bias = d.m.up_bias = d.bias.data();
  CHECK(d.message() == "moe::PanelLayout::pack: biases: expected one per projection, found null");
}
TEST_CASE("an ungated expert needs no gate") {
  Damaged d;
  d.shape.gated = false;
  d.m.gate = {};
  CHECK(d.message().empty());
}
