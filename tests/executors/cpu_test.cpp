// Laws of executors, for Cpu with every instruction set of the machine; what its tuning does and does not change.
#include <memory>
#include <moe/executors/cpu.hpp>
#include <utility>

#include "../cpu/isas.hpp"
#include "../laws/executor_laws.hpp"
#include "../layer_support.hpp"

using moe::Cpu;
using moe::Isa;
using moe::cpu::Tuning;

namespace {

/// Runs tasks last to first and remembers how many there were.
struct CountingPool {
  int last = 0;
  int size() const { return 3; }
  template <class Task>
  void run(int tasks, const Task& task) {
    last = tasks;
    for (int i = tasks - 1; i >= 0; --i) task(i);
  }
};
using Counted = moe::CpuExecutor<CountingPool>;

Counted counted(const Tuning& tuning) {
  return {.isa = Isa::scalar, .pool = std::make_shared<CountingPool>(), .tuning = tuning};
}

/// Numbers that divide nothing, one by one, and all at once.
std::vector<Tuning> tunings() {
  return {{},
          {.rows_per_task = 1, .linear_rows = 1, .linear_outputs = 1, .shares_per_thread = 1},
          {.rows_per_task = 7},
          {.linear_rows = 5},
          {.linear_outputs = 3},
          {.shares_per_thread = 3},
          {.rows_per_task = 1 << 20, .linear_rows = 1 << 20, .linear_outputs = 1 << 20, .shares_per_thread = 1 << 20}};
}

std::string refusal(const Tuning& tuning) {
  moe::Arena main, staging;
  return message_of([&] { Cpu{.threads = 1, .tuning = tuning}.carve(main, staging, {}, {}); });
}

}  // namespace

TEST_CASE("scalar Cpu keeps the laws of executors") { executor_laws::all(Cpu{.threads = 2, .isa = Isa::scalar}); }
TEST_CASE("AVX2 Cpu keeps the laws of executors" * doctest::skip(!moe::cpu::supports(Isa::avx2))) {
  executor_laws::all(Cpu{.threads = 2, .isa = Isa::avx2});
}
TEST_CASE("AVX-512 Cpu keeps the laws of executors" * doctest::skip(!moe::cpu::supports(Isa::avx512))) {
  executor_laws::all(Cpu{.threads = 2, .isa = Isa::avx512});
}

TEST_CASE("results do not depend on the tuning, the number of threads or the instruction set") {
  oracle::Random random(780);
  const Problem<moe::q8_0> p({.tokens = 50, .hidden = 100, .ffn = 70, .experts = 40, .k = 3, .biased = true}, random);
  const auto expected = bits(forward(make_layer(p, Cpu{.threads = 1, .isa = Isa::scalar}), p));
  for (const Isa isa : available_isas())
    for (const int threads : {1, 3})
      for (const Tuning& tuning : tunings()) {
        CAPTURE(moe::isa_name(isa));
        CAPTURE(threads);
        CHECK(bits(forward(make_layer(p, Cpu{.threads = threads, .isa = isa, .tuning = tuning}), p)) == expected);
      }
}
TEST_CASE("the tuning says how many rows a task has") {
  for (const auto& [step, tasks] : {std::pair{1, 33}, {16, 3}, {33, 1}, {40, 1}}) {
    const Counted cpu = counted({.rows_per_task = step});
    moe::Frame<> f;
    cpu.rows(f, 33, [](int) {});
    CHECK(cpu.pool->last == tasks);
  }
}
TEST_CASE("the tuning says how many rows and outputs of a gate a task has") {
  oracle::Random random(781);
  const std::vector<float> x = random.reals(10 * 4), w = random.reals(6 * 4);
  std::vector<float> out(10 * 6);
  for (const auto& [tuning, tasks] :
       {std::pair<Tuning, int>{{}, 1}, {{.linear_rows = 3}, 4}, {{.linear_outputs = 4}, 2}}) {
    const Counted cpu = counted(tuning);
    moe::Frame<> f;
    cpu.linear(f, view(x, 4), view(w, 4), nullptr, view(out, 6));
    CHECK(cpu.pool->last == tasks);
  }
}
TEST_CASE("the tuning says how many shares of panels a thread gets") {
  oracle::Random random(782);
  const Problem<float> p({.tokens = 1, .hidden = 32 * 20, .ffn = 32, .experts = 2, .k = 2}, random);
  Table table = random_table(random, 1, 2, 2);
  const auto storage = p.storage();
  for (const auto& [shares, tasks] : {std::pair{1, 2 * 2}, {4, 2 * 6}, {100, 2 * 20}}) {  // down: 20 panels an expert
    const Counted cpu = counted({.shares_per_thread = shares});
    executor_laws::Bench<Counted> bench(cpu, {1, p.setup.hidden, p.setup.ffn, 0, 2, 2}, {2, 0});
    bench.set(table);
    bench.experts(p, storage.table(), moe::ExpertForm<moe::SwiGlu>{});
    CHECK(cpu.pool->last == tasks);
  }
}
TEST_CASE("a tuning with a number that is not from 1 to 2^20 is refused") {
  const std::string expected = "moe::Cpu: tuning: expected numbers from 1 to 1048576, found ";
  CHECK(refusal({.rows_per_task = 0}) == expected + "0");
  CHECK(refusal({.linear_rows = -1}) == expected + "-1");
  CHECK(refusal({.linear_outputs = (1 << 20) + 1}) == expected + "1048577");
  CHECK(refusal({.shares_per_thread = 0}) == expected + "0");
  CHECK(refusal({}).empty());
}
TEST_CASE("Cpu refuses an instruction set that the machine lacks" * doctest::skip(moe::cpu::supports(Isa::avx512))) {
  moe::Arena main, staging;
  const Cpu cpu{.threads = 1, .isa = Isa::avx512};
  CHECK(message_of([&] { cpu.carve(main, staging, {}, {}); }) ==
        "moe::Cpu: instruction set: expected one that this machine has, found avx512");
}
