// Which hidden unit of one expert stands for which of another: the assignment problem on the units' weights.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include <moe/expert.hpp>

namespace moe {

/// The permutation p that maximises the sum of value[i * n + p[i]] over i. Hungarian method by shortest augmenting
/// paths, O(n^3); the matrix is [n, n], row-major.
inline std::vector<int> best_assignment(const std::vector<double>& value, int n) {
  const auto u = [](int i) { return static_cast<std::size_t>(i); };
  // Row 0 and column 0 are the start of every path; potentials keep every reduced cost at zero or above.
  std::vector<double> row_potential(u(n + 1)), column_potential(u(n + 1));
  std::vector<int> row_of(u(n + 1)), came_from(u(n + 1));
  for (int row = 1; row <= n; ++row) {
    std::vector<double> distance(u(n + 1), HUGE_VAL);
    std::vector<bool> done(u(n + 1));
    int column = 0;
    row_of[0] = row;
    do {
      done[u(column)] = true;
      const int r = row_of[u(column)];
      int nearest = 0;
      for (int c = 1; c <= n; ++c) {
        if (done[u(c)]) continue;
        const double cost = -value[u(r - 1) * u(n) + u(c - 1)] - row_potential[u(r)] - column_potential[u(c)];
        if (cost < distance[u(c)]) {
          distance[u(c)] = cost;
          came_from[u(c)] = column;
        }
        if (nearest == 0 || distance[u(c)] < distance[u(nearest)]) nearest = c;
      }
      const double step = distance[u(nearest)];
      for (int c = 0; c <= n; ++c) {
        if (done[u(c)]) {
          row_potential[u(row_of[u(c)])] += step;
          column_potential[u(c)] -= step;
        } else {
          distance[u(c)] -= step;
        }
      }
      column = nearest;
    } while (row_of[u(column)] != 0);
    for (; column != 0; column = came_from[u(column)]) row_of[u(column)] = row_of[u(came_from[u(column)])];
  }
  std::vector<int> p(u(n));
  for (int c = 1; c <= n; ++c) p[u(row_of[u(c)] - 1)] = c - 1;
  return p;
}

namespace detail {
/// A hidden unit as a vector: its rows of gate and up, its column of down. [F, 2H or 3H]
inline std::vector<float> unit_vectors(const ExpertShape& s, const ExpertMatrices& m) {
  std::vector<float> out;
  for (int i = 0; i < s.ffn; ++i)
    for (int k = 0; k < s.hidden; ++k) {
      if (s.gated) out.push_back(m.gate.at(i, k));
      out.push_back(m.up.at(i, k));
      out.push_back(m.down.at(k, i));
    }
  return out;
}
}  // namespace detail

/// p[i] is the hidden unit of `other` that is most like unit i of `reference`, each used once, so that the sum of the
/// inner products of their weights is largest. Hidden units have no order: permuted experts compute the same function,
/// but averages of unaligned ones do not (Ainsworth et al. 2023, Git Re-Basin; MC-SMoE). O(F^2 H + F^3).
inline std::vector<int> align_hidden_units(const ExpertShape& s, const ExpertMatrices& reference,
                                           const ExpertMatrices& other) {
  const std::vector<float> a = detail::unit_vectors(s, reference), b = detail::unit_vectors(s, other);
  const auto n = static_cast<std::size_t>(s.ffn), width = n == 0 ? 0 : a.size() / n;
  std::vector<double> likeness(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t k = 0; k < width; ++k)
        likeness[i * n + j] += static_cast<double>(a[i * width + k]) * static_cast<double>(b[j * width + k]);
  return best_assignment(likeness, s.ffn);
}

}  // namespace moe
