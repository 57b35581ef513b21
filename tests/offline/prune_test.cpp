#include <doctest/doctest.h>

#include <moe/offline/aggregate.hpp>
#include <moe/offline/criteria.hpp>
#include <moe/routers/remap.hpp>
#include <moe/storage/subset.hpp>
#include <numeric>

#include "layer_support.hpp"
#include "storage_fixture.hpp"

namespace {

constexpr moe::Score scores[] = {moe::Score::softmax, moe::Score::softmax_of_picked, moe::Score::sigmoid};
const Setup setup{.tokens = 23, .hidden = 37, .ffn = 21, .experts = 9, .k = 3};

moe::Row<const moe::ExpertId> row(const std::vector<moe::ExpertId>& v) {
  return {v.data(), static_cast<int>(v.size())};
}
moe::TopK router_of(moe::Score score) { return {.experts = setup.experts, .k = setup.k, .score = score}; }

/// y of the full layer whose router may use `kept` only.
template <class Storage>
std::vector<float> masked(const Problem<moe::bf16>& p, moe::Score score, const Storage& storage,
                          const std::vector<moe::ExpertId>& kept) {
  const auto mask = moe::mask_of(kept, setup.experts);
  std::vector<moe::ExpertId> all(static_cast<std::size_t>(setup.experts));
  std::iota(all.begin(), all.end(), 0);
  const moe::MoELayer full(moe::Linear(p.gate_view()), router_of(score), moe::SubsetStorage{storage, all}, moe::Cpu{});
  moe::Call<> call;
  call.context.allowed = mask.data();
  return forward(full, p, call);
}

}  // namespace

TEST_CASE("a pruned layer gives the bits of the full layer with a mask, over a view and over a copy") {
  oracle::Random random(1);
  CAPTURE(random.seed);
  const Problem<moe::bf16> p(setup, random);
  const auto storage = p.storage();
  for (const moe::Score score : scores)
    for (const std::vector<moe::ExpertId>& kept :
         {std::vector<moe::ExpertId>{0, 1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 4, 7}, {0, 8}, {5}}) {
      const std::vector<moe::ExpertId> to = moe::renumbering(kept, setup.experts);
      const moe::RemapRouter<moe::TopK> router{router_of(score), row(to), static_cast<int>(kept.size())};
      const std::vector<float> expected = masked(p, score, storage, kept);
      const moe::MoELayer view(moe::Linear(p.gate_view()), router, moe::SubsetStorage{storage, kept}, moe::Cpu{});
      const moe::MoELayer copy(moe::Linear(p.gate_view()), router, moe::Resident{moe::SubsetSource{p.source(), kept}},
                               moe::Cpu{});
      CHECK(bits(forward(view, p)) == bits(expected));
      CHECK(bits(forward(copy, p, {}, 4)) == bits(expected));
    }
}

TEST_CASE("keeping all experts is the identity") {
  oracle::Random random(2);
  CAPTURE(random.seed);
  const Problem<moe::bf16> p(setup, random);
  const moe::PruneSpec spec = moe::keep_best(moe::random_scores(1, setup.experts, 7), setup.experts);
  const std::vector<moe::ExpertId> to = moe::renumbering(spec.keep[0], setup.experts);
  const auto storage = p.storage();
  const moe::MoELayer pruned(moe::Linear(p.gate_view()),
                             moe::RemapRouter<moe::TopK>{router_of(moe::Score::softmax), row(to), setup.experts},
                             moe::SubsetStorage{storage, spec.keep[0]}, moe::Cpu{});
  const moe::MoELayer full(moe::Linear(p.gate_view()), router_of(moe::Score::softmax), p.storage(), moe::Cpu{});
  CHECK(bits(forward(pruned, p)) == bits(forward(full, p)));
}

TEST_CASE("a pruned layer gives the bits of a checkpoint whose gate rows were cut") {
  oracle::Random random(3);
  CAPTURE(random.seed);
  const Problem<moe::bf16> p(setup, random);
  const std::vector<moe::ExpertId> kept = {1, 2, 4, 7};
  const std::vector<moe::ExpertId> to = moe::renumbering(kept, setup.experts);
  const std::vector<float> gate = moe::gather_rows(p.gate_view(), kept);
  for (const moe::Score score : scores) {
    const moe::MoELayer cut(moe::Linear(view(gate, setup.hidden)), moe::TopK{.experts = 4, .k = 3, .score = score},
                            moe::Resident{moe::SubsetSource{p.source(), kept}}, moe::Cpu{});
    const moe::MoELayer pruned(moe::Linear(p.gate_view()), moe::RemapRouter<moe::TopK>{router_of(score), row(to), 4},
                               moe::Resident{moe::SubsetSource{p.source(), kept}}, moe::Cpu{});
    CHECK(bits(forward(pruned, p)) == bits(forward(cut, p)));
  }
}

TEST_CASE("the best are kept in ascending order, ties to the lower id") {
  moe::ExpertScores s(2, 5);
  const double values[2][5] = {{3, 1, 3, 2, 3}, {0, 0, 0, 0, 1}};
  for (int l = 0; l < 2; ++l)
    for (int e = 0; e < 5; ++e) s.at(l, e) = values[l][e];
  CHECK(moe::keep_best(s, 2).keep == std::vector<std::vector<moe::ExpertId>>{{0, 2}, {0, 4}});
  CHECK(moe::keep_best(s, 4).keep == std::vector<std::vector<moe::ExpertId>>{{0, 2, 3, 4}, {0, 1, 2, 4}});
  CHECK(message_of([&] { moe::keep_best(s, 0); }) == "moe::best: number to keep: expected 1 to 5, found 0");
  CHECK(message_of([&] { moe::keep_best(s, 6); }) == "moe::best: number to keep: expected 1 to 5, found 6");
}

TEST_CASE("a mask has the kept experts and the ids behind the experts") {
  const std::vector<moe::ExpertId> kept = {0, 30, 33};
  CHECK(moe::mask_of(kept, 34) == std::vector<std::uint32_t>{0x40000001u, 2u});
  CHECK(moe::mask_of(kept, 34, 2) == std::vector<std::uint32_t>{0x40000001u, 14u});
}

namespace {

/// Logits whose Gumbel noise makes top-1 picks follow 1 / rank^1.2; ranks are shuffled over the experts.
struct ZipfLogits {
  ZipfLogits(int tokens, int experts, oracle::Random& random) {
    std::vector<double> popularity;
    for (int e = 0; e < experts; ++e) popularity.push_back(std::pow(e + 1, -1.2));
    std::shuffle(popularity.begin(), popularity.end(), random.engine);
    for (int t = 0; t < tokens; ++t)
      for (const double p : popularity) {
        const double uniform = (static_cast<double>(random.engine() >> 11) + 0.5) * 0x1p-53;
        values.push_back(static_cast<float>(std::log(p) - std::log(-std::log(uniform))));
      }
  }
  std::vector<float> values;
};

/// Cache figures of tokens that come one by one, through slots for `slots` records of a file.
template <class Router, class Source>
moe::CacheStatistics decode(const Router& router, const Source& source, const std::vector<float>& logits, int slots) {
  const int hidden = source.shape().hidden, tokens = static_cast<int>(logits.size()) / moe::num_logits(router);
  const moe::ExpertCache cache{{.bytes = static_cast<std::size_t>(slots) * source.bytes(0)}};
  const moe::MoELayer layer(moe::NoGate{}, router, moe::Cached{cache, source}, moe::Cpu{.threads = 1});
  const std::vector<float> x(static_cast<std::size_t>(hidden), 0.5f);
  std::vector<float> y(x.size());
  moe::Workspace ws(layer.workspace(1));
  for (int t = 0; t < tokens; ++t) {
    moe::Call<> call{.x = view(x, hidden), .y = view(y, hidden)};
    call.logits = view(logits, moe::num_logits(router)).slice(t, 1);
    layer.forward(call, ws);
  }
  return cache.statistics();
}

}  // namespace

TEST_CASE("under a Zipf(1.2) routing, half of the experts are half of the file, and a cache reads less of it") {
  oracle::Random random(4);
  CAPTURE(random.seed);
  constexpr int experts = 64, tokens = 4000, slots = 16;
  constexpr moe::ExpertShape shape{32, 16};
  const fixture::RandomExperts weights(shape, experts, 5);
  const ZipfLogits logits(tokens, experts, random);
  const moe::TopK full{.experts = experts, .k = 2};

  moe::RoutingTrace trace(1, experts);
  for (int t = 0; t < tokens; ++t) {
    moe::Slot picks[2];
    moe::RowContext context;
    context.logits = view(logits.values, experts).row(t);
    trace.add(0, t, 0, moe::Row<const moe::Slot>{picks, moe::select(full, context, {picks, 2})});
  }
  const std::vector<moe::ExpertId> kept = moe::keep_best(moe::utilisation(trace), experts / 2).keep[0];
  const std::vector<moe::ExpertId> to = moe::renumbering(kept, experts);
  const moe::RemapRouter<moe::TopK> pruned{full, row(to), experts / 2};

  const TemporaryFolder folder;
  const std::string all = (folder / "all.moe").string(), half = (folder / "half.moe").string();
  moe::write_records(all, weights.packed<moe::bf16>());
  moe::write_records(half, moe::SubsetSource{weights.packed<moe::bf16>(), kept});
  const auto record_bytes = [](const std::string& path) {
    return std::filesystem::file_size(path) - moe::File<moe::bf16>{path}.head().front_bytes();
  };
  CHECK(2 * record_bytes(half) == record_bytes(all));
  CHECK(2 * moe::Resident{moe::File<moe::bf16>{half}}.bytes_held() ==
        moe::Resident{moe::File<moe::bf16>{all}}.bytes_held());

  const moe::CacheStatistics before = decode(full, moe::File<moe::bf16>{all}, logits.values, slots);
  const moe::CacheStatistics after = decode(pruned, moe::File<moe::bf16>{half}, logits.values, slots);
  const double needs = 2.0 * tokens;
  MESSAGE("file: ", std::filesystem::file_size(all), " -> ", std::filesystem::file_size(half), " bytes; hits of ",
          slots, " slots: ", static_cast<double>(before.hits) / needs, " -> ", static_cast<double>(after.hits) / needs,
          "; bytes read: ", before.bytes_read, " -> ", after.bytes_read);
  CHECK(after.hits > before.hits);
  CHECK(after.bytes_read < before.bytes_read);
}
