// Threads, layers, guesses, plans, new sequences and failing reads on one cache, for MOE_SOAK_SECONDS (2 by default).
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include <doctest/doctest.h>

#include "counted_cache.hpp"

namespace {

using storage_laws::experts;
using storage_laws::shape;

constexpr int num_threads = 8, num_layers = 4, num_inputs = 3;

/// One read in 32 fails, at random, while `on`.
struct Flaky {
  using layout = moe::PanelLayout;
  using formats = moe::formats<moe::bf16>;
  moe::Packed<moe::bf16> source;
  std::atomic<bool>* on;
  std::atomic<std::uint64_t>* reads;
  moe::ExpertShape shape() const noexcept { return source.shape(); }
  int num_experts() const noexcept { return source.num_experts(); }
  std::size_t bytes(int format) const noexcept { return source.bytes(format); }
  void read(const moe::ReadRequest& request) const {
    if (*on && moe::counter_random(3, static_cast<int>((*reads)++), 0) < 1.0f / 32) {
      const moe::IoError error("injected fault");
      return request.done(request.who, &error);
    }
    source.read(request);
  }
};

class Dice {
 public:
  explicit Dice(int seed) : seed_(static_cast<std::uint64_t>(seed)) {}
  int below(int n) { return static_cast<int>(moe::counter_random(seed_, at_++, 1) * static_cast<float>(n)); }

 private:
  std::uint64_t seed_;
  int at_ = 0;
};

double seconds() {
  const char* const set = std::getenv("MOE_SOAK_SECONDS");
  return set != nullptr ? std::atof(set) : 2;
}

struct Bench {
  /// Every input has a gate of its own.
  template <class Storage>
  auto layer(Storage storage, int i) const {
    return moe::MoELayer{input(i).linear(), moe::TopK{.experts = experts, .k = 3}, std::move(storage),
                         moe::Cpu{.threads = 1}};
  }

  Bench() {
    for (int l = 0; l < num_layers; ++l)
      weights.push_back(std::make_unique<fixture::RandomExperts>(shape, experts, static_cast<unsigned>(l)));
    for (int i = 0; i < num_inputs; ++i)
      inputs.push_back(
          std::make_unique<fixture::Inputs>(1 + 2 * i, shape.hidden, experts, static_cast<unsigned>(50 + i)));
    for (int l = 0; l < num_layers; ++l)
      for (int i = 0; i < num_inputs; ++i)
        expected.push_back(fixture::outputs(layer(moe::Resident{packed(l)}, i), input(i), input(i).tokens));
  }
  moe::Packed<moe::bf16> packed(int l) const { return weights[static_cast<std::size_t>(l)]->packed<moe::bf16>(); }
  const fixture::Inputs& input(int i) const { return *inputs[static_cast<std::size_t>(i)]; }
  const std::vector<float>& right(int l, int i) const { return expected[static_cast<std::size_t>(l * num_inputs + i)]; }
  std::vector<std::unique_ptr<fixture::RandomExperts>> weights;
  std::vector<std::unique_ptr<fixture::Inputs>> inputs;
  std::vector<std::vector<float>> expected;
};

std::vector<moe::PlannedExpert> random_plan(Dice& dice) {
  std::vector<moe::PlannedExpert> plan;
  for (int n = dice.below(9); n > 0; --n)
    plan.push_back({dice.below(num_layers), dice.below(experts), static_cast<float>(dice.below(9))});
  return plan;
}

/// What one thread does; returns its wrong outputs.
template <class Layers>
int work(const Bench& bench, const moe::ExpertCache& cache, const Layers& layers, int seed,
         const std::atomic<bool>& stop) {
  Dice dice(seed);
  int wrong = 0;
  std::vector<float> y;
  while (!stop) {
    const int l = dice.below(num_layers), i = dice.below(num_inputs), what = dice.below(16);
    const auto& layer = layers[static_cast<std::size_t>(l * num_inputs + i)];
    const fixture::Inputs& in = bench.input(i);
    moe::Workspace ws{layer.workspace(1 + dice.below(in.tokens))};
    if (what == 0) cache.begin_sequence();
    if (what == 1) cache.plan(random_plan(dice));
    y.resize(in.x.size());
    const moe::Call<> call{.x = in.view(), .y = {y.data(), in.tokens, in.hidden}};
    if (what >= 2 && what < 8) layer.prefetch(call, ws);
    try {
      layer.forward(call, ws);
      wrong += y != bench.right(l, i) ? 1 : 0;
    } catch (const moe::IoError& error) {
      wrong += std::string(error.what()).find("injected fault") == std::string::npos ? 1 : 0;
    }
  }
  return wrong;
}

template <class MakeStorage>
void soak(const Bench& bench, const moe::ExpertCache& cache, double time, const MakeStorage& make) {
  std::atomic<bool> stop{false}, faults{true};
  std::atomic<std::uint64_t> reads{0};
  const auto storage_of = [&](int l) { return make(cache, Flaky{bench.packed(l), &faults, &reads}); };
  using Layer = decltype(bench.layer(storage_of(0), 0));
  std::vector<Layer> layers;
  for (int l = 0; l < num_layers; ++l) {
    const auto storage = storage_of(l);
    for (int i = 0; i < num_inputs; ++i) layers.push_back(bench.layer(storage, i));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < num_threads; ++t) threads.emplace_back([&, t] { wrong += work(bench, cache, layers, t, stop); });
  std::this_thread::sleep_for(std::chrono::duration<double>(time));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);

  // Afterwards nothing is stuck or taken.
  faults = false;
  cache.plan({});
  for (int l = 0; l < num_layers; ++l)
    for (int i = 0; i < num_inputs; ++i) {
      const auto y = [&] {
        return fixture::outputs(layers[static_cast<std::size_t>(l * num_inputs + i)], bench.input(i), 1);
      };
      try {
        CHECK(y() == bench.right(l, i));
      } catch (const moe::IoError&) {  // a read from before, of a guess that was on its way
        CHECK(y() == bench.right(l, i));
      }
    }
  const moe::CacheStatistics s = cache.statistics();
  CHECK(s.loads == s.loads_by_format[0] + s.loads_by_format[1]);
  CHECK(s.prefetched >= s.prefetched_used + s.prefetched_wasted);
  CHECK(s.bytes_read <= s.loads * slot_bytes());
  CHECK(s.hits > 0);
  CHECK(s.misses > 0);
  CHECK(s.prefetched > 0);
}

/// A share of the whole time.
double share() { return seconds() / 5; }

const auto in_background = [](const moe::ExpertCache& cache, const Flaky& source) {
  return moe::Cached{cache, moe::Background{source, 2}};
};
const auto at_once = [](const moe::ExpertCache& cache, const Flaky& source) { return moe::Cached{cache, source}; };

}  // namespace

TEST_CASE("eight threads on four layers of one cache get right results or the fault: few slots, plans") {
  const Bench bench;
  soak(bench, moe::ExpertCache{slots(5), moe::ByPlan{}}, share(), in_background);
}
TEST_CASE("eight threads on four layers of one cache get right results or the fault: reads on the callers' threads") {
  const Bench bench;
  soak(bench, moe::ExpertCache{slots(9), moe::MissCost{}}, share(), at_once);
}
TEST_CASE("eight threads on four layers of one cache get right results or the fault: staging") {
  const Bench bench;
  moe::CacheOptions options = slots(8);
  options.staging_slots = 2;
  soak(bench, moe::ExpertCache{options, moe::Multidimensional{}}, share(), in_background);
}
TEST_CASE("eight threads on four layers of one cache get right results or the fault: limits, layers without slots") {
  const Bench bench;
  moe::CacheOptions options = slots(9);
  options.slots_by_layer = {0, 1, 2, 4};
  options.staging_slots = 2;
  options.prefetch_bytes = 4 * slot_bytes();
  soak(bench, moe::ExpertCache{options, moe::Lfu{.decay = 0.5, .period = 100}}, share(), in_background);
}
TEST_CASE("eight threads on four layers of one cache get right results or the fault: two precisions") {
  const Bench bench;
  soak(bench, moe::ExpertCache{slots(10), moe::Lru{}}, share(), [](const moe::ExpertCache& cache, const Flaky& source) {
    return moe::Cached{cache,
                       moe::Mixed{moe::ByImportance{.up_to = {0.3f, 1, 1, 1}}, moe::Background{source, 1}, source}};
  });
}
