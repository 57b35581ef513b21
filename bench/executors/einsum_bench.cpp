// What mapping tables save over one-hot products (DeepSpeed-MoE, section 5.4): the same layer with both executors,
// measured in turns in one process on one thread, as medians and their ratio. `einsum_bench [rounds]`.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <moe/executors/cpu.hpp>
#include <moe/executors/einsum.hpp>
#include <moe/layer.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/storage/resident.hpp>

namespace {

using Einsum = moe::EinsumReference<moe::Cpu>;
using Form = moe::ExpertForm<moe::Relu>;  // two matrices per expert, as DeepSpeed's

std::vector<float> normals(std::mt19937& engine, std::size_t n) {
  std::normal_distribution<float> normal;
  std::vector<float> out(n);
  for (float& x : out) x = normal(engine) / 16;
  return out;
}

/// Every row chooses one expert, every expert gets as many rows: capacity factor 1 and nothing to drop.
std::vector<moe::Slot> balanced_table(std::mt19937& engine, int tokens, int experts) {
  std::vector<int> order(static_cast<std::size_t>(tokens));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), engine);
  std::vector<moe::Slot> slots(order.size());
  for (std::size_t i = 0; i < order.size(); ++i)
    slots[i] = {order[i] % experts, 0.5f + 0.5f * static_cast<float>(i) / static_cast<float>(tokens)};
  return slots;
}

/// Of the processor, not of the clock: nothing here waits, and other programs may be running.
template <class F>
double seconds(const F& f) {
  const std::clock_t begin = std::clock();
  f();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}
double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}
/// Medians of both, a turn each after one of each that does not count.
template <class A, class B>
std::pair<double, double> in_turns(int rounds, const A& a, const B& b) {
  std::vector<double> of_a, of_b;
  for (int i = 0; i <= rounds; ++i) {
    const double one = seconds(a), two = seconds(b);
    if (i == 0) continue;
    of_a.push_back(one);
    of_b.push_back(two);
  }
  return {median(of_a), median(of_b)};
}
void print(const char* what, std::pair<double, double> s, double model, double wanted) {
  std::printf("%-32s einsum %9.3f ms   tables %9.3f ms   ratio %6.2f   operations %6.2f   at least %.1f\n", what,
              1e3 * s.first, 1e3 * s.second, s.first / s.second, model, wanted);
}

/// A whole layer on a given table: operations predict 1 + T/F.
template <class Format>
void layer(const char* format, int rounds, const moe::Cpu& cpu, int tokens, int experts, int hidden, int ffn) {
  std::mt19937 engine(1);
  const auto size = static_cast<std::size_t>(hidden) * static_cast<std::size_t>(ffn);
  const std::vector<float> up = normals(engine, size), down = normals(engine, size);
  std::vector<moe::ExpertMatrices> matrices(static_cast<std::size_t>(experts));
  for (moe::ExpertMatrices& m : matrices) {  // the same numbers, in places of their own once they are packed
    m.up = moe::Matrix(up.data(), ffn, hidden);
    m.down = moe::Matrix(down.data(), hidden, ffn);
  }
  const moe::Packed<Format> source({hidden, ffn, false, false}, matrices);
  const moe::TopK router{.experts = experts};
  const moe::MoELayer tables(moe::NoGate{}, router, moe::Resident(source), cpu, Form{});
  const moe::MoELayer einsum(moe::NoGate{}, router, moe::Resident(source), Einsum{cpu, tokens / experts}, Form{});
  moe::Workspace ws(moe::max(tables.workspace(tokens), einsum.workspace(tokens)));

  const std::vector<float> x = normals(engine, static_cast<std::size_t>(tokens) * static_cast<std::size_t>(hidden));
  std::vector<float> y(x.size()), expected(x.size());
  std::vector<moe::Slot> slots = balanced_table(engine, tokens, experts);
  const moe::RoutingTable<> table{{slots.data(), tokens, 1}, nullptr};
  moe::Call<> call{.x = {x.data(), tokens, hidden}, .y = {y.data(), tokens, hidden}, .table = table};
  const auto with_tables = [&] { tables.forward(call, ws); };
  const auto with_einsum = [&] { einsum.forward(call, ws); };
  with_tables();
  expected = y;
  with_einsum();
  if (y != expected) std::printf("the results differ!\n");
  char what[64];
  std::snprintf(what, sizeof what, "layer T%d E%d M%d F%d %s", tokens, experts, hidden, ffn, format);
  print(what, in_turns(rounds, with_einsum, with_tables), 1 + static_cast<double>(tokens) / ffn, 7.3);
}

/// Dispatch and combine alone. The tables' dispatch is the grouping and, though our kernels gather rows by themselves,
/// a copy of every row.
void dispatch_and_combine(int rounds, const moe::Cpu& cpu, int tokens, int experts, int hidden) {
  std::mt19937 engine(2);
  const std::vector<float> x = normals(engine, static_cast<std::size_t>(tokens) * static_cast<std::size_t>(hidden));
  std::vector<float> y(x.size()), buffer(x.size());
  const std::vector<moe::Slot> slots = balanced_table(engine, tokens, experts);
  const moe::View<const float> in(x.data(), tokens, hidden);
  const moe::View<float> out(y.data(), tokens, hidden);
  const Einsum einsum{cpu, tokens / experts};
  const moe::Dims dims{tokens, hidden, hidden, 0, experts, 1};
  const auto carve = [&](const auto& executor, moe::Buffer& memory) {
    moe::Arena measured, staging;
    executor.carve(measured, staging, dims, {experts, 0});
    memory = moe::Buffer(measured.used() + staging.used());
    moe::Arena main(memory.data(), measured.used()), rest(memory.data() + measured.used(), staging.used());
    auto frame = executor.carve(main, rest, dims, {experts, 0});
    for (int t = 0; t < tokens; ++t) {
      frame.table.slots.row(t)[0] = slots[static_cast<std::size_t>(t)];
      frame.table.count[t] = 1;
    }
    std::fill_n(frame.partial.data, frame.partial.rows * frame.partial.stride, 1.0f);
    return frame;
  };
  moe::Buffer einsum_memory, table_memory;
  moe::EinsumFrame e = carve(einsum, einsum_memory);
  moe::CpuFrame t = carve(cpu, table_memory);
  const auto with_einsum = [&] {
    moe::group_rows(einsum, e);
    einsum.take_rows(e, in);
    for (int expert = 0; expert < experts; ++expert) einsum.dispatch(e, expert, false);
    einsum.combine(e, in, Form{}, out, false);
  };
  const auto with_tables = [&] {
    moe::group_rows(cpu, t);
    for (int i = 0; i < tokens; ++i)
      std::memcpy(buffer.data() + i * hidden, in.row(t.dispatch.entry[i]).data(),
                  sizeof(float) * static_cast<std::size_t>(hidden));
    cpu.combine(t, in, Form{}, out, false);
  };
  char what[64];
  std::snprintf(what, sizeof what, "dispatch+combine T%d E%d M%d", tokens, experts, hidden);
  print(what, in_turns(rounds, with_einsum, with_tables), experts * (tokens / experts), 6);
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  const moe::Cpu cpu{.threads = 1};
  std::printf("%s, 1 thread, medians of %d\n", std::string(moe::isa_name(cpu.isa)).c_str(), rounds);
  layer<float>("f32", rounds, cpu, 4096, 128, 256, 512);
  layer<moe::bf16>("bf16", rounds, cpu, 4096, 128, 256, 512);
  dispatch_and_combine(rounds, cpu, 512, 64, 256);
  return 0;
}
