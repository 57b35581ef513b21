// One layer of any shape: microseconds, bytes of weights touched per second, FLOP/s, and the share of a ceiling that is
// measured in the same run. `layer_bench --help`.

#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <CLI/CLI.hpp>

#include <moe/moe.hpp>

#include "ceilings.hpp"

namespace {

struct Shape {
  int hidden = 2048, inter = 768, experts = 128, topk = 8;
  std::vector<int> tokens{1, 32, 512};
  std::vector<std::string> formats{"bf16"};
  std::vector<int> threads{1, 2};
  std::string isa{moe::isa_name(moe::cpu::best_isa())};
  std::size_t working_set_mib = 1536;
  bool given_table = false;
  std::vector<std::string> activations{"f32"};
};

std::size_t size(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

std::vector<float> random_values(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> out(n);
  for (float& v : out) v = normal(engine);
  return out;
}

/// `topk` different experts for every row of every batch.
std::vector<moe::Slot> random_picks(const Shape& s, int tokens, std::size_t batches) {
  std::mt19937 engine(4);
  std::vector<int> ids(static_cast<std::size_t>(s.experts));
  std::iota(ids.begin(), ids.end(), 0);
  std::vector<moe::Slot> picks;
  for (std::size_t row = 0; row < batches * static_cast<std::size_t>(tokens); ++row)
    for (int k = 0; k < s.topk; ++k) {
      std::swap(ids[static_cast<std::size_t>(k)],
                ids[std::uniform_int_distribution<std::size_t>(static_cast<std::size_t>(k), ids.size() - 1)(engine)]);
      picks.push_back({ids[static_cast<std::size_t>(k)], 1.0f / static_cast<float>(s.topk)});
    }
  return picks;
}

/// As many layers as exceed the working set, so that every call reads weights from memory. All experts hold the same
/// values in memory of their own: the time does not depend on values.
template <class Format>
class Stack {
 public:
  using Layer = moe::MoELayer<moe::TopK, moe::Resident<moe::PanelLayout, moe::formats<Format>>, moe::Cpu>;

  Stack(const Shape& s, const moe::Cpu& cpu)
      : gate_(random_values(size(s.experts, s.hidden), 1)), weights_(random_values(size(s.inter, s.hidden), 2)) {
    const moe::ExpertShape shape{s.hidden, s.inter};
    const moe::Matrix up(weights_.data(), s.inter, s.hidden), down(weights_.data(), s.hidden, s.inter);
    const std::vector<moe::ExpertMatrices> experts(static_cast<std::size_t>(s.experts), {up, up, down});
    const moe::Packed<Format> source{shape, experts};
    const std::size_t layer_bytes = static_cast<std::size_t>(s.experts) * source.bytes(0);
    const std::size_t layers = moe::pieces(s.working_set_mib << 20, layer_bytes);
    for (std::size_t l = 0; l < layers; ++l)
      layers_.push_back(std::make_unique<Layer>(moe::Linear{moe::View<const float>(gate_.data(), s.experts, s.hidden)},
                                                moe::TopK{.experts = s.experts, .k = s.topk}, moe::Resident{source},
                                                cpu));
  }
  const Layer& operator[](std::size_t i) const { return *layers_[i % layers_.size()]; }
  std::size_t size_of_expert() const { return moe::PanelLayout::record_bytes<Format>(layers_[0]->storage().shape()); }

 private:
  std::vector<float> gate_, weights_;
  std::vector<std::unique_ptr<Layer>> layers_;
};

/// Distinct experts of one call.
struct CountExperts {
  int* distinct;
  void routed(const moe::Frame<>& f) const {
    *distinct = 0;
    for (int e = 0; e < f.dims.experts; ++e) *distinct += f.dispatch.offset[e + 1] > f.dispatch.offset[e];
  }
};

/// What a user writes around a layer of float32: one loop before, one behind.
template <class T>
class TwoLoops {
 public:
  explicit TwoLoops(std::size_t floats) : x_(floats), y_(floats) {}
  template <class Layer>
  void forward(const Layer& layer, moe::Call<> call, moe::Workspace<>& ws) {
    const auto* x = static_cast<const T*>(call.x.data);
    auto* y = static_cast<T*>(call.y.data);
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] = float(x[i]);
    call.x = {x_.data(), call.x.rows, call.x.cols};
    call.y = {y_.data(), call.y.rows, call.y.cols};
    layer.forward(call, ws);
    for (std::size_t i = 0; i < y_.size(); ++i) y[i] = T(y_[i]);
  }

 private:
  std::vector<float> x_, y_;
};

/// x and y are Ts. `by_loops`: the layer sees floats.
template <class Format, class T>
void run(benchmark::State& state, const Shape& s, const Stack<Format>& stack, int tokens,
         const ceilings::Ceilings& ceiling, bool by_loops) {
  constexpr std::size_t batches = 64;  // other rows, so that other experts are chosen
  std::vector<T> x, y(size(tokens, s.hidden));
  for (const float value : random_values(size(tokens, s.hidden) + batches * 97, 3)) x.push_back(T(value));
  TwoLoops<T> loops(by_loops ? y.size() : 0);
  moe::Workspace ws{stack[0].workspace(tokens)};
  const std::vector<moe::Slot> picks = s.given_table ? random_picks(s, tokens, batches) : std::vector<moe::Slot>{};
  moe::RoutingTable<> table{{nullptr, tokens, s.topk}, nullptr};
  const auto call = [&](std::size_t i) {
    moe::Call<> c{.x = {x.data() + i % batches * 97, tokens, s.hidden}, .y = {y.data(), tokens, s.hidden}};
    if (!s.given_table) return c;
    table.slots.data = const_cast<moe::Slot*>(picks.data()) + i % batches * size(tokens, s.topk);  // only read
    c.table = table;
    return c;
  };
  double experts = 0;
  for (std::size_t i = 0; i < batches; ++i) {
    int distinct = 0;
    stack[i].forward(call(i), ws, CountExperts{&distinct});
    experts += distinct / static_cast<double>(batches);
  }
  std::size_t i = 0;
  for (auto _ : state) {
    if (by_loops)
      loops.forward(stack[i], call(i), ws);
    else
      stack[i].forward(call(i), ws);
    benchmark::DoNotOptimize(y.data());
    ++i;
  }
  const double bytes = experts * static_cast<double>(stack.size_of_expert());
  const double flop = 6.0 * tokens * s.topk * s.hidden * s.inter;
  const double floor = std::max(bytes / ceiling.read_bytes_per_s, flop / ceiling.flop_per_s);
  using benchmark::Counter;
  state.counters["experts"] = experts;
  state.counters["weights_GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["GFLOP/s"] = Counter(flop * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["of_ceiling"] = Counter(floor, Counter::kIsIterationInvariantRate);
  state.counters["ceiling_GB/s"] = ceiling.read_bytes_per_s * 1e-9;
  state.counters["ceiling_GFLOP/s"] = ceiling.flop_per_s * 1e-9;
}

template <class Format>
void add(const Shape& s, const moe::Cpu& cpu, const ceilings::Ceilings& ceiling) {
  const auto stack = std::make_shared<const Stack<Format>>(s, cpu);
  for (const int tokens : s.tokens) {
    const std::string name = std::string("layer/") + std::string(moe::format_traits<Format>::name) +
                             "/H:" + std::to_string(s.hidden) + "/F:" + std::to_string(s.inter) +
                             "/E:" + std::to_string(s.experts) + "/K:" + std::to_string(s.topk) +
                             "/T:" + std::to_string(tokens) + "/threads:" + std::to_string(cpu.pool->size());
    for (const std::string& type : s.activations) {
      const bool by_loops = type.ends_with("_loops");
      const auto timed = [=](benchmark::State& state) {
        if (type.starts_with("bf16")) return run<Format, moe::bf16>(state, s, *stack, tokens, ceiling, by_loops);
        if (type.starts_with("f16")) return run<Format, moe::f16>(state, s, *stack, tokens, ceiling, by_loops);
        return run<Format, float>(state, s, *stack, tokens, ceiling, false);
      };
      benchmark::RegisterBenchmark((type == "f32" ? name : name + "/x:" + type).c_str(), timed)
          ->Unit(benchmark::kMicrosecond)
          ->UseRealTime();
    }
  }
}

void add_format(const std::string& format, const Shape& s, const moe::Cpu& cpu, const ceilings::Ceilings& ceiling) {
  if (format == "f32") return add<moe::f32>(s, cpu, ceiling);
  if (format == "bf16") return add<moe::bf16>(s, cpu, ceiling);
  if (format == "f16") return add<moe::f16>(s, cpu, ceiling);
  if (format == "q8_0") return add<moe::q8_0>(s, cpu, ceiling);
  if (format == "mxfp4") return add<moe::mxfp4>(s, cpu, ceiling);
  if (format == "q4_0") return add<moe::q4_0>(s, cpu, ceiling);
  throw CLI::ValidationError("--formats", "expected f32, bf16, f16, q8_0, mxfp4 or q4_0, found " + format);
}

}  // namespace

int main(int argc, char** argv) {
  Shape s;
  CLI::App app{
      "Times one MoE layer over weights larger than the caches. Google Benchmark's own flags work too, for "
      "example --benchmark_out=layer.json --benchmark_repetitions=5."};
  app.add_option("--hidden", s.hidden, "width of the layer")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--inter", s.inter, "width inside an expert")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--experts", s.experts, "number of experts")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--topk", s.topk, "experts per token")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--tokens", s.tokens, "rows per call")->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--formats", s.formats, "f32, bf16, f16, q8_0, mxfp4, q4_0")->delimiter(',');
  app.add_option(
         "--activations", s.activations,
         "type of x and y: f32, bf16, f16; bf16_loops, f16_loops: a layer of f32 between two loops that convert")
      ->delimiter(',')
      ->check(CLI::IsMember({"f32", "bf16", "f16", "bf16_loops", "f16_loops"}));
  app.add_option("--threads", s.threads, "threads, the caller included")->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--isa", s.isa, "scalar, avx2 or avx512")->capture_default_str();
  app.add_option("--working-set", s.working_set_mib, "MiB of weights walked through")->capture_default_str();
  app.add_flag("--given-table", s.given_table,
               "routing from outside: times the experts alone, without gate and router");
  app.allow_extras();
  try {
    app.parse(argc, argv);
    for (const int threads : s.threads) {
      const moe::Cpu cpu{.threads = threads, .isa = moe::cpu::isa_from_name(s.isa)};
      const ceilings::Ceilings ceiling = ceilings::measure(cpu);
      for (const std::string& format : s.formats) add_format(format, s, cpu, ceiling);
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "layer_bench: %s\n", error.what());
    return 1;
  }
  std::vector<std::string> rest = app.remaining();
  std::vector<char*> arguments{argv[0]};
  for (std::string& argument : rest) arguments.push_back(argument.data());
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
