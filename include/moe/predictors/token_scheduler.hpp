// TokenScheduler: two batches' tokens are divided anew so that each batch uses fewer experts.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <moe/error.hpp>
#include <moe/predictors/routing_paths.hpp>
#include <moe/routing.hpp>

namespace moe {

/// Where rows go. Row i of the new order was row order[i]; row j of the old order is now row inverse[j].
struct TokenSchedule {
  std::vector<int> order, inverse;
  std::int64_t cost = 0, cost_before = 0;
};

/// Row i of `to` = row order[i] of `from`: with a schedule's `order` into the new batches, with its `inverse` back, and
/// as often as there are things to move (activations, rows of a KV cache as bytes). Throws Error unless the shapes are
/// equal and every id is a row. The matrices must not overlap. O(T C).
template <class T>
void gather_rows(std::span<const int> order, View<const T> from, View<T> to) {
  constexpr const char* where = "moe::gather_rows";
  require_equal(where, "rows of the result", order.size(), static_cast<std::size_t>(to.rows));
  require_equal(where, "columns of the result", from.cols, to.cols);
  for (const int row : order)
    if (row < 0 || row >= from.rows) raise(Error(where, "row", concat("0 to ", from.rows - 1), std::to_string(row)));
  for (int i = 0; i < to.rows; ++i) {
    const Row<const T> source = from.row(order[static_cast<std::size_t>(i)]);
    for (int c = 0; c < source.size(); ++c) to.row(i)[c] = source[c];
  }
}

/// ExpertFlow's token scheduler (He et al. 2024): balanced 2-medoids over routing paths, with
/// similarity(i, j) = 1 - Hamming(i, j) / (layers experts), so that the experts which each half of the tokens uses
/// together are few. What is minimised over all restarts is sum_l sum_e of both halves' unions or, with a cache of
/// `cached_slots` experts a layer, sum_l max(0, |union_l| - cached_slots). Never worse than the given order, which is
/// kept unless another one is better; among orders of equal cost the length term decides. The same answer on every
/// machine.
struct TokenScheduler {
  int cached_slots = 0;      // per layer
  int restarts = 1;          // pairs of first medoids that are tried
  int rounds = 30;           // most changes of medoids per restart
  double length_weight = 0;  // of the length term; the paper's code: 1.5
  std::uint64_t seed = 0;

  /// Divides an even number of tokens into two halves of equal size, each in the order of the tokens; that of token 0
  /// comes first. `lengths` of the tokens' sequences (empty: none) add length_weight (1 - |a - b| / longest) to the
  /// similarity. Throws Error for an odd number of tokens, for lengths that are not one per token or negative, and for
  /// options below zero or without a restart or a round. O(T^2 (words + restarts rounds)) time, 8 T^2 bytes.
  TokenSchedule operator()(const RoutingPaths& paths, std::span<const int> lengths = {}) const {
    check(paths, lengths);
    const int tokens = paths.tokens();
    TokenSchedule schedule;
    std::vector<char> best(static_cast<std::size_t>(tokens), 0);  // which half
    for (int t = tokens / 2; t < tokens; ++t) best[static_cast<std::size_t>(t)] = 1;
    schedule.cost = schedule.cost_before = cost(paths, best);
    if (tokens > 2) {
      const std::vector<double> similar = similarities(paths, lengths);
      const bool by_length = !lengths.empty() && length_weight > 0;
      for (int i = 0; i < restarts; ++i) {
        std::vector<char> halves = cluster(similar, tokens, i);
        const std::int64_t found = cost(paths, halves);
        if (found > schedule.cost) continue;
        if (found == schedule.cost && !(by_length && cohesion(similar, halves) > cohesion(similar, best))) continue;
        schedule.cost = found;
        best = std::move(halves);
      }
    }
    write_order(best, schedule);
    return schedule;
  }

  /// What is minimised: experts to be loaded for both halves. half[t]: 0 or 1.
  std::int64_t cost(const RoutingPaths& paths, std::span<const char> half) const {
    std::int64_t total = 0;
    const int words = paths.words_per_layer();
    for (int layer = 0; layer < paths.layers(); ++layer)
      for (const char side : {char{0}, char{1}}) {
        int used = 0;
        for (int w = layer * words; w < (layer + 1) * words; ++w) used += std::popcount(united(paths, half, side, w));
        total += used > cached_slots ? used - cached_slots : 0;
      }
    return total;
  }

 private:
  void check(const RoutingPaths& paths, std::span<const int> lengths) const {
    constexpr const char* where = "moe::TokenScheduler";
    if (paths.tokens() % 2 != 0) raise(Error(where, "tokens", "an even number", std::to_string(paths.tokens())));
    if (!lengths.empty()) require_equal(where, "lengths", static_cast<std::size_t>(paths.tokens()), lengths.size());
    for (const int length : lengths)
      if (length < 0) raise(Error(where, "length", "0 or more", std::to_string(length)));
    if (cached_slots < 0) raise(Error(where, "cached_slots", "0 or more", std::to_string(cached_slots)));
    if (restarts < 1) raise(Error(where, "restarts", "at least 1", std::to_string(restarts)));
    if (rounds < 1) raise(Error(where, "rounds", "at least 1", std::to_string(rounds)));
    if (!(length_weight >= 0 && length_weight < 1e9))
      raise(Error(where, "length_weight", "0 or more", std::to_string(length_weight)));
  }

  static std::uint64_t united(const RoutingPaths& paths, std::span<const char> half, char side, int word) noexcept {
    std::uint64_t all = 0;
    for (int t = 0; t < paths.tokens(); ++t)
      if (half[static_cast<std::size_t>(t)] == side) all |= paths.path(t)[word];
    return all;
  }

  std::vector<double> similarities(const RoutingPaths& paths, std::span<const int> lengths) const {
    const auto n = static_cast<std::size_t>(paths.tokens());
    const double bits = static_cast<double>(paths.layers()) * paths.experts();
    double longest = 1;
    for (const int length : lengths) longest = length > longest ? length : longest;
    std::vector<double> similar(n * n);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        double s = 1 - hamming(paths.path(static_cast<int>(i)), paths.path(static_cast<int>(j))) / bits;
        if (!lengths.empty()) {
          const double apart =
              lengths[i] > lengths[j] ? double{1} * lengths[i] - lengths[j] : double{1} * lengths[j] - lengths[i];
          s = std::fma(length_weight, 1 - apart / longest, s);
        }
        similar[i * n + j] = s;
      }
    return similar;
  }
  static double hamming(Row<const std::uint64_t> a, Row<const std::uint64_t> b) noexcept {
    std::int64_t apart = 0;
    for (int w = 0; w < a.size(); ++w) apart += std::popcount(a[w] ^ b[w]);
    return static_cast<double>(apart);
  }

  std::vector<char> cluster(const std::vector<double>& similar, int tokens, int restart) const {
    int medoids[2] = {random_below(tokens, restart, 0), random_below(tokens - 1, restart, 1)};
    if (medoids[1] >= medoids[0]) ++medoids[1];
    std::vector<char> half, next;
    for (int round = 0; round < rounds; ++round) {
      assign(similar, tokens, medoids, next);
      if (next == half) break;
      half.swap(next);
      for (char side = 0; side < 2; ++side) medoids[static_cast<int>(side)] = medoid_of(similar, half, side);
    }
    return half;
  }

  /// Each token goes to the more similar medoid, and a side
  /// that is too large keeps those most similar to its medoid: the others move.
  static void assign(const std::vector<double>& similar, int tokens, const int (&medoids)[2], std::vector<char>& half) {
    const auto n = static_cast<std::size_t>(tokens);
    const auto to = [&](std::size_t t, int side) { return similar[t * n + static_cast<std::size_t>(medoids[side])]; };
    half.assign(n, 0);
    int count[2] = {};
    for (std::size_t t = 0; t < n; ++t) {
      half[t] = to(t, 1) > to(t, 0) ? 1 : 0;
      ++count[static_cast<int>(half[t])];
    }
    const int large = count[1] > count[0] ? 1 : 0;
    for (int extra = count[large] - tokens / 2; extra > 0; --extra) {
      std::size_t least = n;
      for (std::size_t t = 0; t < n; ++t)
        if (half[t] == large && (least == n || to(t, large) <= to(least, large))) least = t;
      half[least] = static_cast<char>(1 - large);
    }
  }
  /// The similarities of all pairs that stand in one half.
  static double cohesion(const std::vector<double>& similar, const std::vector<char>& half) noexcept {
    double sum = 0;
    for (std::size_t i = 0; i < half.size(); ++i)
      for (std::size_t j = 0; j < half.size(); ++j)
        if (half[i] == half[j]) sum += similar[i * half.size() + j];
    return sum;
  }
  static int medoid_of(const std::vector<double>& similar, const std::vector<char>& half, char side) noexcept {
    const std::size_t n = half.size();
    double most = -1;
    std::size_t medoid = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (half[i] != side) continue;
      double sum = 0;
      for (std::size_t j = 0; j < n; ++j)
        if (half[j] == side) sum += similar[i * n + j];
      if (sum > most) {
        most = sum;
        medoid = i;
      }
    }
    return static_cast<int>(medoid);
  }

  /// Below `bound`, from the seed and the number of the restart.
  int random_below(int bound, int restart, std::uint32_t salt) const noexcept {
    return static_cast<int>(static_cast<double>(counter_random(seed, restart, salt)) * bound);
  }

  static void write_order(const std::vector<char>& half, TokenSchedule& schedule) {
    schedule.order.reserve(half.size());
    for (const bool first : {true, false})
      for (std::size_t t = 0; t < half.size(); ++t)
        if ((half[t] == half[0]) == first) schedule.order.push_back(static_cast<int>(t));
    schedule.inverse.resize(half.size());
    for (std::size_t i = 0; i < half.size(); ++i)
      schedule.inverse[static_cast<std::size_t>(schedule.order[i])] = static_cast<int>(i);
  }
};

}  // namespace moe
