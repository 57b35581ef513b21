// Merging: groups of experts become one each, the weighted average of their matrices with hidden units aligned.
#pragma once

#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <moe/error.hpp>
#include <moe/offline/align.hpp>

namespace moe {

/// Experts whose matrices lie in memory of their own, in float32; put Packed around `matrices`.
struct MergedExperts {
  MergedExperts() = default;
  MergedExperts(MergedExperts&&) = default;
  MergedExperts& operator=(MergedExperts&&) = default;
  MergedExperts(const MergedExperts&) = delete;  // `matrices` point into `memory`
  MergedExperts& operator=(const MergedExperts&) = delete;

  ExpertShape shape;
  std::vector<float> memory;
  std::vector<ExpertMatrices> matrices;  // [groups]
};

namespace detail {

struct MergePart {
  const ExpertMatrices* matrices = nullptr;
  double share = 0;
  std::vector<int> unit;  // which hidden unit stands for the i-th
};

/// Where the pieces of one merged expert lie, in floats.
struct MergedOffsets {
  explicit MergedOffsets(const ExpertShape& s) {
    const std::size_t h = static_cast<std::size_t>(s.hidden), f = static_cast<std::size_t>(s.ffn);
    up = s.gated ? f * h : 0;
    down = up + f * h;
    gate_bias = down + h * f;
    up_bias = gate_bias + (s.gated && s.biased ? f : 0);
    down_bias = up_bias + (s.biased ? f : 0);
    floats = down_bias + (s.biased ? h : 0);
  }
  std::size_t up, down, gate_bias, up_bias, down_bias, floats;
};

inline void average_parts(const ExpertShape& s, const std::vector<MergePart>& parts, const MergedOffsets& at,
                          float* out) {
  const auto mean = [&](const auto& value) {
    double sum = 0;
    for (const MergePart& p : parts) sum += p.share * static_cast<double>(value(p));
    return static_cast<float>(sum);
  };
  const auto unit = [](const MergePart& p, int i) { return p.unit[static_cast<std::size_t>(i)]; };
  float *gate = out, *up = out + at.up, *down = out + at.down;
  for (int i = 0; i < s.ffn; ++i)
    for (int k = 0; k < s.hidden; ++k) {
      if (s.gated) *gate++ = mean([&](const MergePart& p) { return p.matrices->gate.at(unit(p, i), k); });
      *up++ = mean([&](const MergePart& p) { return p.matrices->up.at(unit(p, i), k); });
    }
  for (int k = 0; k < s.hidden; ++k)
    for (int i = 0; i < s.ffn; ++i)
      *down++ = mean([&](const MergePart& p) { return p.matrices->down.at(k, unit(p, i)); });
  if (!s.biased) return;
  for (int i = 0; i < s.ffn; ++i) {
    if (s.gated)
      out[at.gate_bias + static_cast<std::size_t>(i)] =
          mean([&](const MergePart& p) { return p.matrices->gate_bias[unit(p, i)]; });
    out[at.up_bias + static_cast<std::size_t>(i)] =
        mean([&](const MergePart& p) { return p.matrices->up_bias[unit(p, i)]; });
  }
  for (int k = 0; k < s.hidden; ++k)
    out[at.down_bias + static_cast<std::size_t>(k)] =
        mean([&](const MergePart& p) { return p.matrices->down_bias[k]; });
}

inline ExpertMatrices matrices_at(const ExpertShape& s, const MergedOffsets& at, const float* from) {
  ExpertMatrices m;
  if (s.gated) m.gate = Matrix(from, s.ffn, s.hidden);
  m.up = Matrix(from + at.up, s.ffn, s.hidden);
  m.down = Matrix(from + at.down, s.hidden, s.ffn);
  if (s.biased) {
    if (s.gated) m.gate_bias = from + at.gate_bias;
    m.up_bias = from + at.up_bias;
    m.down_bias = from + at.down_bias;
  }
  return m;
}

/// The members of one group, each with its share of the average; the heaviest, first among equals, leads.
inline std::vector<MergePart> parts_of(std::span<const ExpertMatrices> experts, std::span<const ExpertId> to,
                                       std::span<const double> weights, ExpertId group) {
  std::vector<MergePart> parts;
  double total = 0;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    if (to[e] != group) continue;
    parts.push_back({&experts[e], weights[e], {}});
    total += weights[e];
    if (parts.back().share > parts.front().share) std::swap(parts.front(), parts.back());
  }
  for (MergePart& p : parts) p.share = total > 0 ? p.share / total : 1.0 / static_cast<double>(parts.size());
  return parts;
}

}  // namespace detail

enum class HiddenUnits {
  aligned,  // to those of the group's heaviest expert, by align_hidden_units: O(F^3) an expert
  in_order  // as they are: experts that came from one dense layer (upcycled) need nothing else
};

/// One expert for each group: the average of the experts e with to[e] == group, by weights[e] >= 0 (for instance a
/// layer of `utilisation`: MC-SMoE, Li et al. 2024); equal shares where a group's weights are all zero. to[e] = -1
/// leaves expert e out. RemapRouter{router, to, groups} routes over the result. With one group and equal weights it
/// collapses the layer into a dense FFN (the averaging of OneS and EWA). Throws Error for groups without members,
/// entries outside [-1, groups), and weights below zero.
inline MergedExperts merge(const ExpertShape& shape, std::span<const ExpertMatrices> experts,
                           std::span<const ExpertId> to, int groups, std::span<const double> weights,
                           HiddenUnits units = HiddenUnits::aligned) {
  constexpr const char* where = "moe::merge";
  require_equal(where, "entries of `to`", experts.size(), to.size());
  require_equal(where, "weights", experts.size(), weights.size());
  for (const ExpertId group : to)
    if (group < -1 || group >= groups)
      raise(Error(where, "an entry of `to`", concat("-1 to ", groups - 1), std::to_string(group)));
  for (const double w : weights)
    if (!(w >= 0) || std::isinf(w)) raise(Error(where, "a weight", "finite, 0 or more", std::to_string(w)));

  MergedExperts merged;
  const detail::MergedOffsets at(shape);
  merged.shape = shape;
  merged.memory.resize(static_cast<std::size_t>(groups) * at.floats);
  for (ExpertId g = 0; g < groups; ++g) {
    std::vector<detail::MergePart> parts = detail::parts_of(experts, to, weights, g);
    if (parts.empty()) raise(Error(where, concat("experts of group ", g), "at least 1", "0"));
    for (detail::MergePart& p : parts) {
      p.unit.resize(static_cast<std::size_t>(shape.ffn));
      std::iota(p.unit.begin(), p.unit.end(), 0);
      if (units == HiddenUnits::aligned && &p != &parts.front())
        p.unit = align_hidden_units(shape, *parts.front().matrices, *p.matrices);
    }
    float* const out = merged.memory.data() + static_cast<std::size_t>(g) * at.floats;
    detail::average_parts(shape, parts, at, out);
    merged.matrices.push_back(detail::matrices_at(shape, at, out));
  }
  return merged;
}

/// Groups around the experts `centres`: every expert joins the centre whose feature row is most like its own (cosine),
/// ties to the first; centres keep to themselves. Features [E, N] are gate rows (MC-SMoE groups by router logits) or
/// mean outputs (HC-SMoE); centres are for instance `best` of a layer's utilisation. The result is `to` of `merge`.
inline std::vector<ExpertId> group_by_nearest(View<const float> features, std::span<const ExpertId> centres) {
  const auto dot = [&](int a, int b) {
    double sum = 0;
    for (int i = 0; i < features.cols; ++i)
      sum += static_cast<double>(features.row(a)[i]) * static_cast<double>(features.row(b)[i]);
    return sum;
  };
  const auto cosine = [&](int a, int b) {
    const double size = std::sqrt(dot(a, a) * dot(b, b));
    return size > 0 ? dot(a, b) / size : 0.0;
  };
  std::vector<ExpertId> to(static_cast<std::size_t>(features.rows), 0);
  for (ExpertId e = 0; e < features.rows; ++e) {
    ExpertId& group = to[static_cast<std::size_t>(e)];
    for (std::size_t c = 1; c < centres.size(); ++c)
      if (cosine(e, centres[c]) > cosine(e, centres[static_cast<std::size_t>(group)])) group = static_cast<ExpertId>(c);
  }
  for (std::size_t c = 0; c < centres.size(); ++c) to[static_cast<std::size_t>(centres[c])] = static_cast<ExpertId>(c);
  return to;
}

}  // namespace moe
