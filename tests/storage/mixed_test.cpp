#include <doctest/doctest.h>

#include <moe/offline/trace_generator.hpp>

#include "counted_cache.hpp"
#include "problem.hpp"

namespace {

using moe::ByImportance;
using storage_laws::experts;
using storage_laws::shape;
using Low = fixture::Planned<moe::Packed<moe::q4_0>>;
using Middle = fixture::Planned<moe::Packed<moe::q8_0>>;

template <class Format>
std::size_t slot_of() {
  return moe::round_up(moe::PanelLayout::record_bytes<Format>(shape), moe::page_alignment);
}
constexpr int skipped = -1;

/// A cache of bf16 and q4_0 copies with as many slots of each.
struct TwoPrecisions {
  using Source = moe::Mixed<ByImportance, storage_laws::Source, Low>;
  explicit TwoPrecisions(int slots_of_each, ByImportance choice = {})
      : cache({.bytes = static_cast<std::size_t>(slots_of_each) * (slot_of<moe::bf16>() + slot_of<moe::q4_0>())}),
        storage(cache, Source{choice, {weights.packed<moe::bf16>(), &high}, {weights.packed<moe::q4_0>(), &low}}) {}

  /// Format of what is lent for one expert with this much of the weight ahead, whose bytes are checked.
  int use(moe::ExpertId e, float mass_ahead) {
    std::vector<moe::ExpertNeed> need{{e, 1, 1, mass_ahead}};
    HeldWave wave;
    moe::host_queue queue;
    CHECK(storage.acquire(need, wave.get(), queue).empty());
    REQUIRE(wave.get().refs().size() == 1);
    const moe::ExpertRef ref = wave.get().refs()[0];
    CHECK(ref.expert == e);
    if (ref.bytes == nullptr) return skipped;
    const std::vector<std::byte> expected = ref.format == 0 ? fixture::record(weights.packed<moe::bf16>(), e)
                                                            : fixture::record(weights.packed<moe::q4_0>(), e);
    CHECK(std::memcmp(ref.bytes, expected.data(), expected.size()) == 0);
    return ref.format;
  }
  fixture::RandomExperts weights{shape, experts, 1};
  fixture::Plan high, low;
  moe::ExpertCache cache;
  moe::Cached<Source> storage;
};

const fixture::Inputs& inputs() {
  static const fixture::Inputs in(1, shape.hidden, experts, 3);
  return in;
}
const moe::TopK router{.experts = experts, .k = 3};

/// What the gate and the router choose for the one token.
std::vector<moe::Slot> picks() {
  struct Look {
    std::vector<moe::Slot>* to;
    void routed(const moe::Frame<>& f) const {
      for (int k = 0; k < f.table.size(0); ++k) to->push_back(f.table.slots.row(0)[k]);
    }
  };
  const fixture::RandomExperts weights(shape, experts, 1);
  const moe::MoELayer layer{inputs().linear(), router, moe::Resident{weights.packed<moe::bf16>()},
                            moe::Cpu{.threads = 1}};
  std::vector<moe::Slot> found;
  std::vector<float> y(inputs().x.size());
  moe::Workspace ws{layer.workspace(1)};
  layer.forward({.x = inputs().view(), .y = {y.data(), 1, shape.hidden}}, ws, Look{&found});
  return found;
}

}  // namespace

TEST_CASE("what is wanted of an expert is the brute-force prefix sum of the weights against both thresholds") {
  const ByImportance rule{.up_to = {0.5f, 0.75f, 1, 1}};  // sixty-fourths: every sum is exact
  std::uint64_t state = 3;
  int on_a_threshold = 0;
  for (int round = 0; round < 2000; ++round) {
    std::vector<int> parts;
    for (int left = 64; left > 0;) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      const int part = 1 + static_cast<int>((state >> 33) % static_cast<std::uint64_t>(left));
      parts.push_back(part);
      left -= part;
    }
    std::sort(parts.rbegin(), parts.rend());
    std::vector<moe::Slot> row;
    for (const int part : parts) row.push_back({static_cast<moe::ExpertId>(row.size()), static_cast<float>(part) / 64});
    int ahead = 0;
    for (int i = 0; i < static_cast<int>(parts.size()); ++i) {
      on_a_threshold += ahead == 32 || ahead == 48 ? 1 : 0;
      const int expected = i == 0 || ahead <= 32 ? 0 : ahead <= 48 ? 1 : skipped;
      const float mass = moe::mass_ahead({row.data(), static_cast<int>(row.size())}, i);
      CHECK(rule.choose({i, 1, 1, mass}, 2) == expected);
      ahead += parts[static_cast<std::size_t>(i)];
    }
  }
  CHECK(on_a_threshold > 20);
}
TEST_CASE("the first choice always gets the highest precision, and with T1 = 0 and T2 = 1 no other") {
  const ByImportance rule{.up_to = {0, 1, 1, 1}};
  CHECK(rule.choose({0, 1, 1, 0.0f}, 2) == 0);
  CHECK(rule.choose({0, 1, 1, 1e-6f}, 2) == 1);
  CHECK(rule.choose({0, 1, 1, 1.0f}, 2) == 1);
}
TEST_CASE("with T1 = 1 everything gets the highest precision") {
  for (const float mass : {0.0f, 0.3f, 0.99f, 1.0f})
    CHECK(ByImportance{.up_to = {1, 1, 1, 1}}.choose({0, 1, 1, mass}, 2) == 0);
}
TEST_CASE("three precisions are told apart by their thresholds, and what is beyond the last is skipped") {
  const ByImportance rule{.up_to = {0.25f, 0.5f, 0.75f, 1}};
  CHECK(rule.choose({0, 1, 1, 0.25f}, 3) == 0);
  CHECK(rule.choose({0, 1, 1, 0.26f}, 3) == 1);
  CHECK(rule.choose({0, 1, 1, 0.5f}, 3) == 1);
  CHECK(rule.choose({0, 1, 1, 0.75f}, 3) == 2);
  CHECK(rule.choose({0, 1, 1, 0.76f}, 3) == skipped);
}
TEST_CASE("the default thresholds split Mixtral-like routing as HOBBIT reports: 67 % high, 30 % low, 3 % skipped") {
  const moe::RoutingTrace trace = moe::generate_trace({.sequences = 16});
  std::array<double, 3> classes{};
  double all = 0;
  for (const moe::TraceRecord& record : trace.records()) {
    const moe::Row<const moe::Slot> row = trace.picks(record);
    for (int i = 0; i < row.size(); ++i, ++all) {
      const int format = ByImportance{}.choose({row[i].expert, 1, 1, moe::mass_ahead(row, i)}, 2);
      ++classes[static_cast<std::size_t>(format < 0 ? 2 : format)];
    }
  }
  CHECK(std::fabs(classes[0] / all - 0.67) <= 0.01);
  CHECK(std::fabs(classes[1] / all - 0.30) <= 0.01);
  CHECK(std::fabs(classes[2] / all - 0.03) <= 0.01);
}

TEST_CASE("a miss loads the precision that its importance is worth") {
  TwoPrecisions c(3);
  CHECK(c.use(0, 0) == 0);
  CHECK(c.use(1, 0.7f) == 1);
  CHECK(c.high.reads == 1);
  CHECK(c.low.reads == 1);
  const moe::CacheStatistics s = c.cache.statistics();
  CHECK(s.loads_by_format[0] == 1);
  CHECK(s.loads_by_format[1] == 1);
  CHECK(s.bytes_read == slot_of<moe::bf16>() + slot_of<moe::q4_0>());
}
TEST_CASE("a precise copy that is here serves a need for a less precise one") {
  TwoPrecisions c(3);
  c.use(0, 0);
  CHECK(c.use(0, 0.7f) == 0);
  CHECK(c.use(0, 0.95f) == 0);
  CHECK(c.cache.statistics().loads == 1);
  CHECK(c.cache.statistics().hits == 2);
}
TEST_CASE("a less precise copy that is here does not serve a need for the precise one, which then stands beside it") {
  TwoPrecisions c(3);
  CHECK(c.use(0, 0.7f) == 1);
  CHECK(c.use(0, 0.2f) == 0);
  CHECK(c.use(0, 0.7f) == 0);
  CHECK(c.cache.statistics().loads == 2);
}
TEST_CASE("the least important expert is skipped only if no copy is here") {
  TwoPrecisions c(3);
  CHECK(c.use(0, 0.95f) == skipped);
  CHECK(c.cache.statistics().skipped == 1);
  CHECK(c.cache.statistics().loads == 0);
  CHECK(c.use(0, 0.7f) == 1);
  CHECK(c.use(0, 0.95f) == 1);
  CHECK(c.cache.statistics().skipped == 1);
}
TEST_CASE("guesses are compared with all needs of the call, those that are skipped included") {
  TwoPrecisions c(3);
  const std::vector<moe::ExpertNeed> guesses{{0, 1, 1, 0.2f}, {1, 1, 1, 0.2f}};
  c.storage.expect(guesses);
  std::vector<moe::ExpertNeed> needs{{0, 1, 1, 0.2f}, {2, 1, 1, 0.95f}};
  HeldWave wave;
  moe::host_queue queue;
  CHECK(c.storage.acquire(needs, wave.get(), queue).empty());
  CHECK(c.cache.statistics().skipped == 1);
  CHECK(c.cache.statistics().needed == 2);
  CHECK(c.cache.statistics().predicted == 2);
  CHECK(c.cache.statistics().predicted_right == 1);
}
TEST_CASE("each precision has slots of its own, within the bytes of the budget") {
  TwoPrecisions c(2);
  CHECK(c.cache.slots() == 4);
  CHECK(c.cache.bytes_held() == 2 * (slot_of<moe::bf16>() + slot_of<moe::q4_0>()));
  for (moe::ExpertId e = 0; e < 5; ++e) c.use(e, 0.7f);  // only the low slots turn over
  c.use(5, 0);
  c.use(6, 0);
  CHECK(c.use(5, 0) == 0);
  CHECK(c.use(4, 0.7f) == 1);
  CHECK(c.high.reads == 2);
  CHECK(c.low.reads == 5);
}
TEST_CASE("shares cut the budget between the precisions") {
  const fixture::RandomExperts weights(shape, experts, 1);
  const std::size_t budget = 10 * slot_of<moe::bf16>();
  const moe::ExpertCache cache{{.bytes = budget, .shares = {0.7, 0.3}}};
  const moe::Cached storage{cache,
                            moe::Mixed{ByImportance{}, weights.packed<moe::bf16>(), weights.packed<moe::q4_0>()}};
  const std::size_t high = 7, low = budget * 3 / 10 / slot_of<moe::q4_0>();
  CHECK(cache.slots() == static_cast<int>(high + low));
  CHECK(cache.bytes_held() == high * slot_of<moe::bf16>() + low * slot_of<moe::q4_0>());
  CHECK(cache.bytes_held() <= budget);
}
TEST_CASE("guesses are loaded in the precision that the guessed weights ask for") {
  TwoPrecisions c(3);
  const std::vector<moe::ExpertNeed> guesses{{0, 1, 1, 0}, {1, 1, 1, 0.7f}, {2, 1, 1, 0.95f}};
  CHECK(c.storage.expect(guesses) == 2);  // the last is not worth a load
  CHECK(c.high.reads == 1);
  CHECK(c.low.reads == 1);
  CHECK(c.use(1, 0.7f) == 1);
  CHECK(c.cache.statistics().prefetched_used == 1);
}

TEST_CASE("a skipped expert adds nothing, and the other weights stay as they are") {
  TwoPrecisions c(3, ByImportance{.up_to = {0, 0, 0, 0}});  // only the first choice is loaded
  const moe::MoELayer layer{inputs().linear(), router, c.storage, moe::Cpu{.threads = 1}};
  const std::vector<float> y = fixture::outputs(layer, inputs(), 1);
  CHECK(c.cache.statistics().skipped == 2);
  // Only the first choice, by plain arithmetic on the stored weights.
  const std::vector<moe::Slot> row = picks();
  const moe::Slot first = *std::max_element(row.begin(), row.end(),
                                            [](const moe::Slot& a, const moe::Slot& b) { return a.weight < b.weight; });
  const auto stored = [](const moe::Matrix& m, int r, int col) {
    const auto* const data = static_cast<const float*>(m.data);
    return static_cast<double>(static_cast<float>(moe::bf16(data[r * m.cols + col])));
  };
  const moe::ExpertMatrices& m = c.weights.matrices[static_cast<std::size_t>(first.expert)];
  std::vector<double> mid;
  for (int f = 0; f < shape.ffn; ++f) {
    double gate = 0, up = 0;
    for (int h = 0; h < shape.hidden; ++h) {
      const double x = inputs().x[static_cast<std::size_t>(h)];
      gate += x * stored(m.gate, f, h);
      up += x * stored(m.up, f, h);
    }
    mid.push_back(gate / (1 + std::exp(-gate)) * up);
  }
  for (int h = 0; h < shape.hidden; ++h) {
    double sum = 0;
    for (int f = 0; f < shape.ffn; ++f) sum += mid[static_cast<std::size_t>(f)] * stored(m.down, h, f);
    CHECK(y[static_cast<std::size_t>(h)] ==
          doctest::Approx(static_cast<double>(first.weight) * sum).epsilon(1e-4).scale(1.0));
  }
}
TEST_CASE("with T1 = 1 the output has the bits of the resident high precision") {
  storage_laws::computes_the_same_bits([](const storage_laws::Source& source) {
    static const fixture::RandomExperts other(shape, experts, 99);  // low copies that would show
    const moe::ExpertCache cache{{.bytes = 3 * (slot_of<moe::bf16>() + slot_of<moe::q4_0>())}};
    return moe::Cached{cache, moe::Mixed{ByImportance{.up_to = {1, 1, 1, 1}}, source, other.packed<moe::q4_0>()}};
  });
}
TEST_CASE("with equal copies in both precisions and nothing skipped the output has the bits of the plain layer") {
  for (const float threshold : {0.0f, 0.4f})
    storage_laws::computes_the_same_bits([threshold](const storage_laws::Source& source) {
      const moe::ExpertCache cache{{.bytes = 6 * slot_of<moe::bf16>()}};
      return moe::Cached{cache, moe::Mixed{ByImportance{.up_to = {threshold, 1, 1, 1}}, source, source}};
    });
}

TEST_CASE("formats stand in the order of the sources, and each is read from its own") {
  const fixture::RandomExperts weights(shape, experts, 1);
  const auto high = weights.packed<moe::bf16>();
  const auto middle = weights.packed<moe::q8_0>();
  const auto low = weights.packed<moe::q4_0>();
  const moe::Mixed pair{ByImportance{}, middle, low};
  const moe::Mixed all{ByImportance{}, high, pair};
  static_assert(std::same_as<decltype(all)::formats, moe::formats<moe::bf16, moe::q8_0, moe::q4_0>>);
  CHECK(all.bytes(0) == high.bytes(0));
  CHECK(all.bytes(1) == middle.bytes(0));
  CHECK(all.bytes(2) == low.bytes(0));
  const auto read = [&](int format) {
    const moe::Buffer to(all.bytes(format));
    moe::PendingReads pending(1);
    all.read({4, format, to.data(), &moe::PendingReads::done, &pending});
    pending.wait();
    return std::vector<std::byte>(to.data(), to.data() + to.bytes());
  };
  CHECK(read(0) == fixture::record(high, 4));
  CHECK(read(1) == fixture::record(middle, 4));
  CHECK(read(2) == fixture::record(low, 4));
}
TEST_CASE("three precisions in one cache are each loaded where they are worth it") {
  const fixture::RandomExperts weights(shape, experts, 1);
  fixture::Plan plan;
  const moe::ExpertCache cache{{.bytes = 3 * (slot_of<moe::bf16>() + slot_of<moe::q8_0>() + slot_of<moe::q4_0>())}};
  const moe::Cached storage{
      cache,
      moe::Mixed{ByImportance{.up_to = {0.3f, 0.6f, 0.9f, 1}}, storage_laws::Source{weights.packed<moe::bf16>(), &plan},
                 Middle{weights.packed<moe::q8_0>(), &plan}, Low{weights.packed<moe::q4_0>(), &plan}}};
  std::vector<moe::ExpertNeed> needs{{0, 1, 1, 0}, {1, 1, 1, 0.5f}, {2, 1, 1, 0.8f}, {3, 1, 1, 0.95f}};
  std::array<int, 4> formats{};
  std::span<moe::ExpertNeed> todo = needs;
  HeldWave wave;
  moe::host_queue queue;
  while (!todo.empty()) {
    todo = storage.acquire(todo, wave.get(), queue);
    for (const moe::ExpertRef& ref : wave.get().refs())
      formats[static_cast<std::size_t>(ref.expert)] = ref.bytes == nullptr ? skipped : ref.format;
    wave.release();
  }
  CHECK(formats == std::array<int, 4>{0, 1, 2, skipped});
  const moe::CacheStatistics s = cache.statistics();
  CHECK(s.loads_by_format == std::array<std::uint64_t, 4>{1, 1, 1, 0});
  CHECK(s.skipped == 1);
}

TEST_CASE("precisions of other shapes or of other numbers of experts are refused") {
  const fixture::RandomExperts weights(shape, experts, 1), fewer(shape, experts - 1, 1), wider({48, 23}, experts, 1);
  const auto mix = [&](const fixture::RandomExperts& other) {
    return message_of([&] { moe::Mixed{ByImportance{}, weights.packed<moe::bf16>(), other.packed<moe::q4_0>()}; });
  };
  CHECK(mix(weights) == "");
  CHECK(mix(fewer) == "moe::Mixed: experts of a further precision: expected 7, found 6");
  CHECK(mix(wider) == "moe::Mixed: shape of a further precision's experts: expected 40 x 23, found 48 x 23");
}
