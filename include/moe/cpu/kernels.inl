// The algorithms, once, in terms of the primitives of the instruction set that includes this file.
//
// A product is the rows of one expert times some of its panels. Panels lead: every row passes a panel before the next
// one is read, so weights come from memory once, and a panel (128 KiB for 2,048 inputs in bf16) waits in the cache for
// the next tile of rows. A tile is R rows times V of the panel's vectors:
//
//                  |<--- panel: 32 outputs, 4 vectors of 8 --->|
//     input 0      |  w w .. w  |  w w .. w  |          |          |      for each input k:
//     input 1      |  w w .. w  |  w w .. w  |          |          |        V loads of weights, widened to float
//        :         |            |            |          |          |        R broadcasts of x[r][k]
//                  +------------+------------+          +          +        R V fma: sum[r][v] += x[r][k] * w[v]
//     row 0    x ->| sum[0][0]  | sum[0][1]  |
//     row 1    x ->| sum[1][0]  | sum[1][1]  |      the sums, V weights and one input fill the registers:
//        :         |            |            |      R = Tile::rows, V = Tile::vecs
//     row R-1  x ->| sum[R-1][0]| sum[R-1][1]|
//
// The panel's other vectors follow in another walk along the inputs, the rows that are left in tiles of 4, 2 and 1.
//
// Each output is one chain of fma over the inputs in ascending order, whatever the tile: decode, prefill, any batch
// split and any instruction set give the same bits. Register-tile loops carry MOE_UNROLL, or g++ -O2 keeps the
// sums in memory.

inline constexpr int width = PanelLayout::width;
inline constexpr int vecs = width / lanes;           // vectors of one panel
inline constexpr std::size_t prefetch_bytes = 1024;  // ahead: hardware prefetchers stop at the end of every page

// ---- R rows times V vectors of a panel, from vector V0 on

template <int V0, int R, int V, class Code>
inline void accumulate(const Code* codes, int inputs, const float* const* x, int first_input, vec (&sum)[R][V]) {
  for (int k = 0; k < inputs; ++k, codes += PanelLayout::codes_per_input<Code>) {
    prefetch(reinterpret_cast<const std::byte*>(codes) + prefetch_bytes);
    vec w[V];
    MOE_UNROLL
    for (int v = 0; v < V; ++v) w[v] = panel(codes, V0 + v);
    MOE_UNROLL
    for (int r = 0; r < R; ++r) {
      const vec input = broadcast(x[r][first_input + k]);
      MOE_UNROLL
      for (int v = 0; v < V; ++v) sum[r][v] = fma(input, w[v], sum[r][v]);
    }
  }
}

/// Formats with scales: codes of one block are summed first, then scaled into the total. One multiplication by the
/// scale for a block of inputs instead of one per weight.
template <class F, int V0, int R, int V>
inline void accumulate_scaled(const std::byte* block, int inputs, const float* const* x, vec (&sum)[R][V]) {
  using traits = format_traits<F>;
  for (int k = 0; k < inputs; k += traits::block, block += PanelLayout::block_bytes<F>()) {
    const auto* scales = reinterpret_cast<const typename traits::scale*>(block);
    const auto* codes = reinterpret_cast<const typename traits::code*>(scales + width);
    vec part[R][V];
    MOE_UNROLL
    for (int r = 0; r < R; ++r) {
      MOE_UNROLL
      for (int v = 0; v < V; ++v) part[r][v] = broadcast(0.0f);
    }
    const int left = inputs - k;
    accumulate<V0>(codes, left < traits::block ? left : traits::block, x, k, part);
    MOE_UNROLL
    for (int v = 0; v < V; ++v) {
      const vec scale = panel(scales, V0 + v);
      MOE_UNROLL
      for (int r = 0; r < R; ++r) sum[r][v] = fma(part[r][v], scale, sum[r][v]);
    }
  }
}

template <class F, int R, int V0, int V>
inline void multiply(const std::byte* panel_bytes, int inputs, const float* const* rows, float* out) {
  const float* x[R];
  vec sum[R][V];
  MOE_UNROLL
  for (int r = 0; r < R; ++r) {
    x[r] = rows[r];
    MOE_UNROLL
    for (int v = 0; v < V; ++v) sum[r][v] = broadcast(0.0f);
  }
  if constexpr (is_scaled<F>)
    accumulate_scaled<F, V0>(panel_bytes, inputs, x, sum);
  else
    accumulate<V0>(reinterpret_cast<const F*>(panel_bytes), inputs, x, 0, sum);
  MOE_UNROLL
  for (int r = 0; r < R; ++r) {
    MOE_UNROLL
    for (int v = 0; v < V; ++v) store(out + r * width + (V0 + v) * lanes, sum[r][v]);
  }
}

/// out [R, 32] = R rows times one panel. A single row takes the whole panel at once where registers suffice: two chains
/// of fma would wait for each other, and the panel would be walked along twice.
template <class F, int R, int V0 = 0>
inline void panel_product(const std::byte* panel, int inputs, const float* const* rows, float* out) {
  constexpr int V = R == 1 && vecs <= 4 ? vecs : Tile::vecs;
  multiply<F, R, V0, V>(panel, inputs, rows, out);
  if constexpr (V0 + V < vecs) panel_product<F, R, V0 + V>(panel, inputs, rows, out);
}

// ---- one tile of rows through one panel

template <int R>
inline void input_rows(const Product& p, int first, const float* (&rows)[R]) {
  for (int r = 0; r < R; ++r) rows[r] = p.in.data + p.entries.in_row[first + r] * p.in.stride;
}
inline float* output_row(const Product& p, int i, int panel) {
  return p.out.data + p.entries.out_row[i] * p.out.stride + panel * width;
}
inline vec load_bias(const float* bias, int v) { return bias == nullptr ? broadcast(0.0f) : load(bias + v * lanes); }

/// Products wait on the stack for the activation, which needs a column's gate and up together.
template <class F, class Act, int R>
inline void up_tile(const Product& p, const Act& act, int first, int panel) {
  constexpr int up_side = Act::gated ? 1 : 0;
  const float* rows[R];
  input_rows<R>(p, first, rows);
  alignas(64) float gate[R * width], up[R * width];
  if constexpr (Act::gated) panel_product<F, R>(p.panels.panel(panel, 0), p.panels.inputs, rows, gate);
  panel_product<F, R>(p.panels.panel(panel, up_side), p.panels.inputs, rows, up);
  const float *gate_bias = p.panels.panel_bias(panel, 0), *up_bias = p.panels.panel_bias(panel, up_side);
  for (int r = 0; r < R; ++r) {
    const vec weight = broadcast(p.weights.empty() ? 1.0f : p.weights[p.entries.out_row[first + r]].weight);
    float* out = output_row(p, first + r, panel);
    for (int v = 0; v < vecs; ++v) {
      const vec u = fma(load(up + r * width + v * lanes), weight, load_bias(up_bias, v));
      vec g = u;
      if constexpr (Act::gated) g = fma(load(gate + r * width + v * lanes), weight, load_bias(gate_bias, v));
      store(out + v * lanes, apply(act, g, u));
    }
  }
}

template <class F, int R>
inline void down_tile(const Product& p, int first, int panel) {
  const float* rows[R];
  input_rows<R>(p, first, rows);
  alignas(64) float product[R * width];
  panel_product<F, R>(p.panels.panel(panel, 0), p.panels.inputs, rows, product);
  const float* bias = p.panels.panel_bias(panel, 0);
  for (int r = 0; r < R; ++r) {
    float* out = output_row(p, first + r, panel);
    for (int v = 0; v < vecs; ++v)
      store(out + v * lanes, add(load(product + r * width + v * lanes), load_bias(bias, v)));
  }
}

// ---- linear maps, in any element types

/// out = in, as float32 or rounded to nearest, ties to even.
template <class From, class To>
inline void convert_row(const From* in, int n, To* out) {
  int i = 0;
  for (; i + lanes <= n; i += lanes) store(out + i, load(in + i));
  if (i >= n) return;
  const auto left = static_cast<std::size_t>(n - i);
  From rest[lanes] = {};
  To converted[lanes];
  std::memcpy(rest, in + i, left * sizeof(From));
  store(converted, load(rest));
  std::memcpy(out + i, converted, left * sizeof(To));
}
/// Loads `count` <= lanes floats, the rest zero, without reading past them.
inline vec load_up_to(const float* p, int count) {
  if (count == lanes) return load(p);
  alignas(64) float buffer[lanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = p[i];
  return load(buffer);
}

/// A row of float32.
struct FloatElements {
  const float* data;
  const float* block(int i, int, float*) const { return data + i; }
};
/// A row whose type is known when the program runs. One kernel serves every pair of types: compiling one for each would
/// cost users more than a branch a block costs their machines.
struct AnyElements {
  const void* data;
  ElementType type;
  /// Elements [i, i + n) as float32, in `room` if they have to be widened.
  const float* block(int i, int n, float* room) const {
    if (type == ElementType::float32) return static_cast<const float*>(data) + i;
    if (type == ElementType::bfloat16) convert_row(static_cast<const bf16*>(data) + i, n, room);
    if (type == ElementType::float16) convert_row(static_cast<const f16*>(data) + i, n, room);
    return room;
  }
};
inline void row_of(const ConstElementView<>& m, int r, FloatElements& row) {
  row.data = static_cast<const float*>(m.data) + r * m.stride;
}
inline void row_of(const ConstElementView<>& m, int r, AnyElements& row) {
  const std::ptrdiff_t bytes = r * m.stride * static_cast<std::ptrdiff_t>(element_bytes(m.type));
  row = {static_cast<const std::byte*>(m.data) + bytes, m.type};
}

/// Output n of R rows. Weights of `linear` lie as their owner has them, a row per output, so vectors run along the
/// inputs: 32 interleaved chains, whatever the width of a vector, that are added in a fixed tree.
template <class Elements, int R>
inline void dot_tile(const DotProducts& p, int first, int n) {
  const int inputs = p.weight.cols;
  Elements weight, in[R];
  row_of(p.weight, n, weight);
  vec sum[R][vecs];
  MOE_UNROLL
  for (int r = 0; r < R; ++r) {
    row_of(p.in, first + r, in[r]);
    MOE_UNROLL
    for (int v = 0; v < vecs; ++v) sum[r][v] = broadcast(0.0f);
  }
  alignas(64) float weight_room[width], room[R][width];
  const float* x[R];
  int i = 0;
  for (; i + width <= inputs; i += width) {
    const float* const w = weight.block(i, width, weight_room);
    MOE_UNROLL
    for (int r = 0; r < R; ++r) x[r] = in[r].block(i, width, room[r]);
    MOE_UNROLL
    for (int v = 0; v < vecs; ++v) {
      const vec weights = load(w + v * lanes);
      MOE_UNROLL
      for (int r = 0; r < R; ++r) sum[r][v] = fma(load(x[r] + v * lanes), weights, sum[r][v]);
    }
  }
  const int rest = inputs - i;
  const float* const w = weight.block(i, rest, weight_room);
  for (int r = 0; r < R; ++r) {
    alignas(64) float chains[width];
    MOE_UNROLL
    for (int v = 0; v < vecs; ++v) store(chains + v * lanes, sum[r][v]);
    const float* const last = in[r].block(i, rest, room[r]);
    for (int j = 0; j < rest; ++j) chains[j] = std::fma(last[j], w[j], chains[j]);
    for (int step = width / 2; step > 0; step /= 2)
      for (int j = 0; j < step; ++j) chains[j] += chains[j + step];
    p.out.data[(first + r) * p.out.stride + n] = chains[0] + (p.bias == nullptr ? 0.0f : p.bias[n]);
  }
}

/// Outputs lead: a weight is read once for a tile of R rows, which stay in the cache for the next output.
template <class Elements, int R>
inline void dot_of(const DotProducts& p) {
  for (int n = 0; n < p.weight.rows; ++n) {
    int r = 0;
    for (; r + R <= p.in.rows; r += R) dot_tile<Elements, R>(p, r, n);
    if constexpr (R > 1)
      for (; r < p.in.rows; ++r) dot_tile<Elements, 1>(p, r, n);
  }
}
inline vec sum_of_slots(const Combine& c, int column, int count) {
  vec total = c.add ? load_up_to(c.y.data() + column, count) : broadcast(0.0f);
  for (int k = 0; k < c.slots.size(); ++k) {
    const Slot slot = c.slots[k];
    if (c.ids.network(slot.expert)) {
      const vec partial = load(c.partial.data + k * c.partial.stride + column);
      total = fma(broadcast(c.weighted ? slot.weight : 1.0f), partial, total);
    } else if (c.ids.identity(slot.expert)) {
      const vec x =
          c.x.empty() ? load(c.partial.data + k * c.partial.stride + column) : load_up_to(c.x.data() + column, count);
      total = fma(broadcast(slot.weight), x, total);
    }
  }
  return total;
}

/// What the executor asks this instruction set for.
struct Kernels {
  /// intermediate = activation(gate x, up x).
  template <class F, class Act>
  static void up(const Product& p, const Act& act) {
    const int rows = p.entries.size();
    for (int panel = p.panels.first; panel < p.panels.first + p.panels.count; ++panel) {
      int i = 0;
      for (; i + Tile::rows <= rows; i += Tile::rows) up_tile<F, Act, Tile::rows>(p, act, i, panel);
      if constexpr (Tile::rows > 4)
        for (; i + 4 <= rows; i += 4) up_tile<F, Act, 4>(p, act, i, panel);
      if constexpr (Tile::rows > 2)
        for (; i + 2 <= rows; i += 2) up_tile<F, Act, 2>(p, act, i, panel);
      for (; i < rows; ++i) up_tile<F, Act, 1>(p, act, i, panel);
    }
  }

  /// partial = down intermediate.
  template <class F>
  static void down(const Product& p) {
    const int rows = p.entries.size();
    for (int panel = p.panels.first; panel < p.panels.first + p.panels.count; ++panel) {
      int i = 0;
      for (; i + Tile::rows <= rows; i += Tile::rows) down_tile<F, Tile::rows>(p, i, panel);
      if constexpr (Tile::rows > 4)
        for (; i + 4 <= rows; i += 4) down_tile<F, 4>(p, i, panel);
      if constexpr (Tile::rows > 2)
        for (; i + 2 <= rows; i += 2) down_tile<F, 2>(p, i, panel);
      for (; i < rows; ++i) down_tile<F, 1>(p, i, panel);
    }
  }

  static void dot(const DotProducts& p) {
    if (p.in.is_float() && p.weight.is_float())
      dot_of<FloatElements, Tile::dot_rows>(p);
    else
      dot_of<AnyElements, 1>(p);
  }

  /// Columns lead: a vector of sums stays in a register for all slots. Partial rows are padded to whole panels; x and y
  /// are not.
  static void combine(const Combine& c) {
    const int columns = c.y.size();
    int column = 0;
    for (; column + lanes <= columns; column += lanes) store(c.y.data() + column, sum_of_slots(c, column, lanes));
    if (column == columns) return;
    alignas(64) float rest[lanes];
    store(rest, sum_of_slots(c, column, columns - column));
    for (int i = 0; column + i < columns; ++i) c.y.data()[column + i] = rest[i];
  }

  // ---- other element types than float32

  static void widen(const ConstElementView<>& in, const View<float>& out) {
    for (int t = 0; t < in.rows; ++t) {
      AnyElements row;
      row_of(in, t, row);
      row.block(0, in.cols, out.data + t * out.stride);
    }
  }
  static void narrow(const View<const float>& in, const ElementView<>& out) {
    for (int t = 0; t < in.rows; ++t) {
      const std::ptrdiff_t at = t * out.stride;
      const float* row = in.data + t * in.stride;
      if (out.type == ElementType::bfloat16) convert_row(row, in.cols, static_cast<bf16*>(out.data) + at);
      if (out.type == ElementType::float16) convert_row(row, in.cols, static_cast<f16*>(out.data) + at);
    }
  }
};
