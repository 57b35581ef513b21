// How an expert's matrices lie in a record: offsets, packing, the layout's name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/formats.hpp>

namespace moe {

/// Where the parts of one record begin, in bytes.
struct RecordOffsets {
  std::size_t up = 0, down = 0, up_bias = 0, down_bias = 0, bytes = 0;
};

/// Some output panels of one projection, as a kernel reads them. Those of a gated up projection have two sides, gate
/// and up: their panels alternate and count as one.
struct Panels {
  static constexpr int width = 32;  // outputs of a panel

  const std::byte* bytes = nullptr;  // panel 0 of the projection
  std::size_t stride = 0;            // bytes of a panel of one side
  const float* bias = nullptr;       // of panel 0, in the order of the panels; null: none
  int inputs = 0;
  int sides = 1;
  int first = 0, count = 0;  // which panels these are

  MOE_HD const std::byte* panel(int i, int side) const noexcept {
    return bytes +
           (static_cast<std::size_t>(i) * static_cast<std::size_t>(sides) + static_cast<std::size_t>(side)) * stride;
  }
  /// The 32 biases of a panel; null: none.
  MOE_HD const float* panel_bias(int i, int side) const noexcept {
    return bias == nullptr ? nullptr : bias + (i * sides + side) * width;
  }
  /// `n` of these panels, from the i-th on.
  MOE_HD Panels slice(int i, int n) const noexcept {
    MOE_ASSERT(i >= 0 && n >= 0 && i + n <= count);
    Panels some = *this;
    some.first += i;
    some.count = n;
    return some;
  }
};

/// Panels of 32 output columns, input-major inside a panel, gate and up interleaved panel by panel.
///
///   record   = up section | down section | up bias | down bias          each part 64-byte aligned
///   up       = gate panel 0, up panel 0, gate panel 1, ...              (ungated: up panels only)
///   panel    = for each input: 32 codes                                 (formats without scales)
///            = for each 32 inputs: 32 binary16 scales, 32 x 32 codes    (q8_0)
///            = for each 32 inputs: 32 scale bytes, 32 x 16 bytes        (mxfp4)
///            = for each 32 inputs: 32 binary16 scales, 32 x 16 bytes    (q4_0)
///
/// One layout serves one token (a panel is a stream that is read once) and many (a panel stays in cache while all
/// rows of the expert pass). The order of columns among an input's codes is the format's (`format_traits::place`).
struct PanelLayout {
  static constexpr std::string_view name = "panel32";
  static constexpr int width = Panels::width;

  /// Elements of type `Code` that hold one input's weights of a panel.
  template <class Code>
  static constexpr int codes_per_input = width / weights_per_code<Code>;

  template <WeightFormat F>
  static constexpr std::size_t block_bytes() {
    using traits = format_traits<F>;
    using code = typename traits::code;
    constexpr std::size_t codes = sizeof(code) * traits::block * codes_per_input<code>;
    if constexpr (is_scaled<F>)
      return codes + sizeof(typename traits::scale) * width;
    else
      return codes;
  }
  template <WeightFormat F>
  static constexpr std::size_t panel_bytes(int inputs) {
    return static_cast<std::size_t>(pieces(inputs, format_traits<F>::block)) * block_bytes<F>();
  }
  template <WeightFormat F>
  static constexpr std::size_t matrix_bytes(int outputs, int inputs) {
    return static_cast<std::size_t>(pieces(outputs, width)) * panel_bytes<F>(inputs);
  }

  template <class Format>
  static constexpr RecordOffsets offsets(const ExpertShape& s) {
    using P = projection_formats<Format>;
    const auto projections = static_cast<std::size_t>(s.gated ? 2 : 1);
    const auto bias = [&](int n) {
      return s.biased ? sizeof(float) * static_cast<std::size_t>(round_up(n, width)) : 0;
    };
    RecordOffsets o;
    o.down = round_up(projections * matrix_bytes<typename P::up>(s.ffn, s.hidden), alignment);
    o.up_bias = o.down + round_up(matrix_bytes<typename P::down>(s.hidden, s.ffn), alignment);
    o.down_bias = o.up_bias + projections * bias(s.ffn);
    o.bytes = round_up(o.down_bias + bias(s.hidden), alignment);
    return o;
  }
  template <class Format>
  static constexpr std::size_t record_bytes(const ExpertShape& s) {
    return offsets<Format>(s).bytes;
  }

  /// Rows [rows, columns] with room for the whole panels that kernels write.
  template <class M>
  static View<float, M> padded_rows(Arena& arena, int rows, int columns) {
    View<float, M> v = arena.matrix<float, M>(rows, round_up(columns, width));
    v.cols = columns;
    return v;
  }

  /// The panels that compute the activation's arguments: [H] -> [F], of gate and up.
  template <class Format>
  static Panels up_panels(const std::byte* record, const ExpertShape& s) {
    const RecordOffsets o = offsets<Format>(s);
    return {.bytes = record + o.up,
            .stride = panel_bytes<typename projection_formats<Format>::up>(s.hidden),
            .bias = s.biased ? reinterpret_cast<const float*>(record + o.up_bias) : nullptr,
            .inputs = s.hidden,
            .sides = s.gated ? 2 : 1,
            .count = pieces(s.ffn, width)};
  }
  /// The panels that compute the partial row: [F] -> [H].
  template <class Format>
  static Panels down_panels(const std::byte* record, const ExpertShape& s) {
    const RecordOffsets o = offsets<Format>(s);
    return {.bytes = record + o.down,
            .stride = panel_bytes<typename projection_formats<Format>::down>(s.ffn),
            .bias = s.biased ? reinterpret_cast<const float*>(record + o.down_bias) : nullptr,
            .inputs = s.ffn,
            .count = pieces(s.hidden, width)};
  }

  /// Packs one expert into `record` (record_bytes<Format>(shape) bytes, 64-byte aligned). Padding is written as zero.
  /// Throws Error if a matrix has another shape than `shape` says.
  template <class Format>
  static void pack(const ExpertShape& shape, const ExpertMatrices& m, std::byte* record) {
    using P = projection_formats<Format>;
    check(shape, m);
    const RecordOffsets o = offsets<Format>(shape);
    std::memset(record, 0, o.bytes);
    const std::size_t up_panel = panel_bytes<typename P::up>(shape.hidden);
    const std::size_t stride = up_panel * (shape.gated ? 2 : 1);
    if (shape.gated) pack_matrix<typename P::up>(m.gate, record + o.up, stride);
    pack_matrix<typename P::up>(m.up, record + o.up + (shape.gated ? up_panel : 0), stride);
    pack_matrix<typename P::down>(m.down, record + o.down, panel_bytes<typename P::down>(shape.ffn));
    if (shape.biased) pack_biases(shape, m, o, record);
  }

  /// Weight (output, input) of a packed matrix whose panels are `stride` bytes apart; exact.
  template <WeightFormat F>
  static float element(const std::byte* panels, std::size_t stride, int output, int input) {
    using traits = format_traits<F>;
    const std::byte* block = panels + static_cast<std::size_t>(output / width) * stride +
                             static_cast<std::size_t>(input / traits::block) * block_bytes<F>();
    const int column = output % width;
    float scale = 1;
    if constexpr (is_scaled<F>) {
      scale = float(reinterpret_cast<const typename traits::scale*>(block)[column]);
      block += sizeof(typename traits::scale) * width;
    }
    using code = typename traits::code;
    const auto* codes = reinterpret_cast<const code*>(block) + input % traits::block * codes_per_input<code>;
    const CodePlace place = traits::place(column);
    if constexpr (weights_per_code<code> != 1)
      return scale * codes[place.code].value(place.part);
    else
      return scale * static_cast<float>(codes[place.code]);
  }

 private:
  static void check(const ExpertShape& s, const ExpertMatrices& m) {
    const auto match = [](const char* what, const Matrix& matrix, int rows, int cols) {
      const auto text = [](int r, int c) { return concat("[", r, ", ", c, "]"); };
      if (matrix.data == nullptr || matrix.rows != rows || matrix.cols != cols)
        raise(Error("moe::PanelLayout::pack", what, text(rows, cols),
                    matrix.data == nullptr ? "no data" : text(matrix.rows, matrix.cols)));
    };
    if (s.gated) match("gate matrix", m.gate, s.ffn, s.hidden);
    match("up matrix", m.up, s.ffn, s.hidden);
    match("down matrix", m.down, s.hidden, s.ffn);
    if (s.biased && (m.up_bias == nullptr || m.down_bias == nullptr || (s.gated && m.gate_bias == nullptr)))
      raise(Error("moe::PanelLayout::pack", "biases", "one per projection", "null"));
  }

  template <WeightFormat F>
  static void pack_matrix(const Matrix& m, std::byte* panels, std::size_t stride) {
    for (int r = 0; r < m.rows; ++r) {
      std::byte* panel = panels + static_cast<std::size_t>(r / width) * stride;
      for (int k = 0; k < m.cols; k += format_traits<F>::block) pack_block<F>(m, r, k, panel);
    }
  }

  template <WeightFormat F>
  static void pack_block(const Matrix& m, int row, int first, std::byte* panel) {
    using traits = format_traits<F>;
    const int column = row % width;
    const int count = m.cols - first < traits::block ? m.cols - first : traits::block;
    float values[traits::block] = {};
    for (int i = 0; i < count; ++i) values[i] = m.at(row, first + i);
    F encoded{};
    traits::encode(values, count, encoded);
    std::byte* block = panel + static_cast<std::size_t>(first / traits::block) * block_bytes<F>();
    if constexpr (is_scaled<F>) {
      reinterpret_cast<typename traits::scale*>(block)[column] = encoded.scale;
      using code = typename traits::code;
      auto* codes = reinterpret_cast<code*>(block + sizeof(typename traits::scale) * width);
      for (int i = 0; i < traits::block; ++i, codes += codes_per_input<code>) put_code(encoded, i, column, codes);
    } else {
      reinterpret_cast<F*>(block)[traits::place(column).code] = encoded;
    }
  }

  /// Code i of a block into `codes`, those of one input.
  template <class F>
  static void put_code(const F& block, int i, int column, typename format_traits<F>::code* codes) {
    const CodePlace place = format_traits<F>::place(column);
    if constexpr (weights_per_code<typename format_traits<F>::code> != 1)
      codes[place.code].set(place.part, block.code(i));
    else
      codes[place.code] = block.codes[static_cast<std::size_t>(i)];
  }

  /// Up biases follow the panels: 32 of gate, 32 of up, and so on.
  static void pack_biases(const ExpertShape& s, const ExpertMatrices& m, const RecordOffsets& o, std::byte* record) {
    auto* up = reinterpret_cast<float*>(record + o.up_bias);
    auto* down = reinterpret_cast<float*>(record + o.down_bias);
    const int step = s.gated ? 2 * width : width;
    for (int i = 0; i < s.ffn; ++i) {
      float* panel = up + i / width * step;
      if (s.gated) panel[i % width] = m.gate_bias[i];
      panel[step - width + i % width] = m.up_bias[i];
    }
    for (int i = 0; i < s.hidden; ++i) down[i] = m.down_bias[i];
  }
};

}  // namespace moe
