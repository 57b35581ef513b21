// The algorithms, once, in terms of the primitives of the instruction set that includes this file.
//
// Each output is one chain of fma over the inputs in ascending order, whatever the tile: decode, prefill, any batch
// split and any instruction set give the same bits. Register-tile loops carry MOE_UNROLL, or g++ -O2 keeps the
// sums in memory.

inline constexpr int width = PanelLayout::width;
inline constexpr int vecs = width / lanes;  // vectors of one panel

// ---- R rows times V vectors of a panel, from vector V0 on

template <int V0, int R, int V, class Code>
inline void accumulate(const Code* codes, int inputs, const float* const* x, int first_input, vec (&sum)[R][V]) {
  for (int k = 0; k < inputs; ++k, codes += PanelLayout::codes_per_input<Code>) {
    prefetch(reinterpret_cast<const std::byte*>(codes) + 1024);
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

/// Formats with scales: codes of one block are summed first, then scaled into the total.
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

/// out [R, 32] = R rows times one panel.
template <class F, int R, int V0 = 0>
inline void panel_product(const std::byte* panel, int inputs, const float* const* rows, float* out) {
  constexpr int V = R == 1 && vecs <= 4 ? vecs : tile_vecs;
  multiply<F, R, V0, V>(panel, inputs, rows, out);
  if constexpr (V0 + V < vecs) panel_product<F, R, V0 + V>(panel, inputs, rows, out);
}

// ---- one tile of rows through one output panel

template <int R>
inline void input_rows(const Product& p, int first, const float* (&rows)[R]) {
  for (int r = 0; r < R; ++r) rows[r] = p.in + p.entry[first + r] / p.slots * p.in_stride;
}

template <class F, class Act, int R>
inline void up_tile(const Product& p, const Act& act, int first, int panel) {
  constexpr int sides = Act::gated ? 2 : 1;
  const float* rows[R];
  input_rows<R>(p, first, rows);
  alignas(64) float gate[R * width], up[R * width];
  const std::byte* bytes = p.panels + static_cast<std::size_t>(panel) * sides * p.panel_bytes;
  if constexpr (Act::gated) panel_product<F, R>(bytes, p.inputs, rows, gate);
  panel_product<F, R>(bytes + (sides - 1) * p.panel_bytes, p.inputs, rows, up);
  const float* bias = p.bias == nullptr ? nullptr : p.bias + panel * sides * width;
  for (int r = 0; r < R; ++r) {
    const int entry = p.entry[first + r];
    const vec weight = broadcast(p.weights == nullptr ? 1.0f : p.weights[entry].weight);
    float* out = p.out + entry * p.out_stride + panel * width;
    for (int v = 0; v < vecs; ++v) {
      const vec up_bias = bias == nullptr ? broadcast(0.0f) : load(bias + (sides - 1) * width + v * lanes);
      const vec u = fma(load(up + r * width + v * lanes), weight, up_bias);
      vec g = u;
      if constexpr (Act::gated) {
        const vec gate_bias = bias == nullptr ? broadcast(0.0f) : load(bias + v * lanes);
        g = fma(load(gate + r * width + v * lanes), weight, gate_bias);
      }
      store(out + v * lanes, apply(act, g, u));
    }
  }
}

template <class F, int R>
inline void down_tile(const Product& p, int first, int panel) {
  const float* rows[R];
  input_rows<R>(p, first, rows);
  alignas(64) float product[R * width];
  panel_product<F, R>(p.panels + static_cast<std::size_t>(panel) * p.panel_bytes, p.inputs, rows, product);
  for (int r = 0; r < R; ++r) {
    float* out = p.out + p.entry[first + r] * p.out_stride + panel * width;
    for (int v = 0; v < vecs; ++v) {
      const vec bias = p.bias == nullptr ? broadcast(0.0f) : load(p.bias + panel * width + v * lanes);
      store(out + v * lanes, add(load(product + r * width + v * lanes), bias));
    }
  }
}

// ---- entry points

/// mid = activation(gate x, up x): all rows pass one panel before the next is read.
template <class F, class Act>
inline void up(const Product& p, const Act& act) {
  for (int panel = 0; panel < p.panel_count; ++panel) {
    int i = 0;
    for (; i + row_tile <= p.rows; i += row_tile) up_tile<F, Act, row_tile>(p, act, i, panel);
    for (; i + 4 <= p.rows; i += 4) up_tile<F, Act, 4>(p, act, i, panel);
    for (; i + 2 <= p.rows; i += 2) up_tile<F, Act, 2>(p, act, i, panel);
    for (; i < p.rows; ++i) up_tile<F, Act, 1>(p, act, i, panel);
  }
}

/// partial = down mid.
template <class F>
inline void down(const Product& p) {
  for (int panel = 0; panel < p.panel_count; ++panel) {
    int i = 0;
    for (; i + row_tile <= p.rows; i += row_tile) down_tile<F, row_tile>(p, i, panel);
    for (; i + 4 <= p.rows; i += 4) down_tile<F, 4>(p, i, panel);
    for (; i + 2 <= p.rows; i += 2) down_tile<F, 2>(p, i, panel);
    for (; i < p.rows; ++i) down_tile<F, 1>(p, i, panel);
  }
}

/// Loads `count` < lanes floats, the rest zero, without reading past them.
inline vec load_first(const float* p, int count) {
  alignas(64) float buffer[lanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = p[i];
  return load(buffer);
}

/// out[r] = <rows r of p, weight>, each in 32 interleaved chains that are added in a fixed tree.
template <int R>
inline void dot_tile(const DotProducts& p, int first) {
  const float* in[R];
  vec sum[R][vecs];
  MOE_UNROLL
  for (int r = 0; r < R; ++r) {
    in[r] = p.in + (first + r) * p.in_stride;
    MOE_UNROLL
    for (int v = 0; v < vecs; ++v) sum[r][v] = broadcast(0.0f);
  }
  int i = 0;
  for (; i + width <= p.inputs; i += width) {
    MOE_UNROLL
    for (int v = 0; v < vecs; ++v) {
      const vec w = load(p.weight + i + v * lanes);
      MOE_UNROLL
      for (int r = 0; r < R; ++r) sum[r][v] = fma(load(in[r] + i + v * lanes), w, sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    alignas(64) float chains[width];
    MOE_UNROLL
    for (int v = 0; v < vecs; ++v) store(chains + v * lanes, sum[r][v]);
    for (int j = 0; i + j < p.inputs; ++j) chains[j] = std::fma(in[r][i + j], p.weight[i + j], chains[j]);
    for (int step = width / 2; step > 0; step /= 2)
      for (int j = 0; j < step; ++j) chains[j] += chains[j + step];
    p.out[(first + r) * p.out_stride] = chains[0] + p.bias;
  }
}

/// One output of `linear` for all rows: the weight is read once for a tile of them.
inline void dot(const DotProducts& p) {
  int r = 0;
  for (; r + dot_rows <= p.rows; r += dot_rows) dot_tile<dot_rows>(p, r);
  for (; r < p.rows; ++r) dot_tile<1>(p, r);
}

inline vec sum_of_slots(const Sum& s, int column, int count) {
  const bool whole = count == lanes;
  vec total = !s.add ? broadcast(0.0f) : (whole ? load(s.y + column) : load_first(s.y + column, count));
  for (int k = 0; k < s.count; ++k) {
    const Slot slot = s.slots[k];
    if (s.ids.network(slot.expert)) {
      total = fma(broadcast(s.weighted ? slot.weight : 1.0f), load(s.partial + k * s.stride + column), total);
    } else if (s.ids.identity(slot.expert)) {
      total = fma(broadcast(slot.weight), whole ? load(s.x + column) : load_first(s.x + column, count), total);
    }
  }
  return total;
}

/// Partial rows are padded to whole panels; x and y are not.
inline void combine(const Sum& s) {
  int column = 0;
  for (; column + lanes <= s.columns; column += lanes) store(s.y + column, sum_of_slots(s, column, lanes));
  if (column == s.columns) return;
  alignas(64) float rest[lanes];
  store(rest, sum_of_slots(s, column, s.columns - column));
  for (int i = 0; column + i < s.columns; ++i) s.y[column + i] = rest[i];
}
