// What every executor on the host must do. Each law takes an executor and is one fact.
#pragma once

#include <algorithm>
#include <cstddef>
#include <moe/concepts.hpp>
#include <type_traits>
#include <vector>

#include "problem.hpp"

namespace executor_laws {

using moe::ExpertForm;
using moe::ExpertRef;
using moe::IdMap;
using moe::Relu;
using moe::Row;
using moe::SwiGlu;
using moe::WeightOn;

/// One call of an executor on a table; the workspace is full of NaN before.
template <class X>
class Bench {
 public:
  Bench(const X& executor, moe::Dims dims, IdMap ids) : executor_(executor), workspace_(measure(executor, dims, ids)) {
    workspace_.poison();
    moe::Arena main = workspace_.main(), staging = workspace_.staging();
    frame = executor.carve(main, staging, dims, ids);
  }
  void set(Table& table) {
    for (int t = 0; t < frame.dims.tokens; ++t) {
      frame.table.count[t] = table.count[static_cast<std::size_t>(t)];
      for (int k = 0; k < frame.dims.slots; ++k) frame.table.slots.row(t)[k] = table.at(t, k);
    }
    moe::group_rows(executor_, frame);
  }
  template <class Format, class Form>
  void experts(const Problem<Format>& p, Row<const ExpertRef> refs, const Form& form) {
    executor_.experts(frame, p.x_view(), refs, moe::formats<Format>{}, p.shape(), form, {});
  }
  template <class Format, class Form>
  std::vector<float> combine(const Problem<Format>& p, const Form& form) {
    std::vector<float> y(p.x.size(), not_a_number);
    executor_.combine(frame, p.x_view(), form, moe::View<float>(y.data(), p.setup.tokens, p.setup.hidden), false);
    return y;
  }
  moe::frame_of<X> frame;

 private:
  static moe::WorkspaceSize measure(const X& executor, moe::Dims dims, IdMap ids) {
    moe::Arena main, staging;
    executor.carve(main, staging, dims, ids);
    return {main.used(), staging.used()};
  }
  const X& executor_;
  moe::Workspace<> workspace_;
};

template <class X, class Format, class Form>
std::vector<float> run(const X& executor, const Problem<Format>& p, Table& table, Row<const ExpertRef> refs,
                       const Form& form) {
  const Setup& s = p.setup;
  Bench<X> bench(executor, {s.tokens, s.hidden, s.ffn, 0, s.experts, table.columns}, {s.experts, p.layer.identities});
  bench.set(table);
  bench.experts(p, refs, form);
  return bench.combine(p, form);
}

template <class Format>
void check_rows(const Problem<Format>& p, const Table& table, const std::vector<float>& y) {
  for (int t = 0; t < p.setup.tokens; ++t) {
    CAPTURE(t);
    CHECK(first_outside(view(y, p.setup.hidden).row(t), run_token(p.layer, p.token(t), table.picks(t))) == -1);
  }
}

template <class Format, class X, class Form = ExpertForm<SwiGlu>>
void agrees(const X& executor, const Setup& s, const Form& form = {}) {
  oracle::Random random(static_cast<std::uint64_t>(s.hidden * 1000 + s.tokens * 10 + s.experts));
  CAPTURE(random.seed);
  CAPTURE(s.ffn);
  CAPTURE(moe::format_traits<Format>::name);
  Problem<Format> p(s, random);
  p.layer.weight_on_input = form.weight_on == WeightOn::input;
  Table table = random_table(random, s.tokens, s.k, s.experts);
  const auto storage = p.storage();
  check_rows(p, table, run(executor, p, table, storage.table(), form));
}

/// The bounds are those of the oracle, for widths around panels and blocks and for one to many rows per expert.
template <class Format, class X>
void agrees_with_oracle(const X& executor) {
  for (const int width : {1, 2, 7, 31, 32, 33, 63, 64, 65, 100})
    agrees<Format>(executor, {.tokens = 4, .hidden = width, .ffn = 67 - width % 50});
  for (const int tokens : {1, 2, 3, 5, 8, 13, 21})
    agrees<Format>(executor, {.tokens = tokens, .hidden = 40, .ffn = 24, .experts = 2, .k = 2});
}
template <class Format, class X>
void adds_biases(const X& executor) {
  agrees<Format>(executor, {.hidden = 33, .ffn = 65, .biased = true});
}
template <class Format, class X>
void computes_ungated_experts(const X& executor) {
  agrees<Format>(executor, {.hidden = 35, .ffn = 66, .gated = false}, ExpertForm<Relu>{});
}
template <class Format, class X>
void adds_biases_of_ungated_experts(const X& executor) {
  agrees<Format>(executor, {.hidden = 35, .ffn = 66, .gated = false, .biased = true}, ExpertForm<Relu>{});
}
template <class Format, class X>
void applies_weights_to_the_input(const X& executor) {
  agrees<Format>(executor, {.hidden = 39, .ffn = 40, .biased = true}, ExpertForm<SwiGlu>{.weight_on = WeightOn::input});
}

template <class X>
void computes_nothing_for_no_tokens(const X& executor) {
  oracle::Random random(1);
  Problem<float> p({.tokens = 0}, random);
  Table table(0, 2);
  const auto storage = p.storage();
  CHECK(run(executor, p, table, storage.table(), ExpertForm<SwiGlu>{}).empty());
}

/// Reading address 64 would end the program.
template <class X>
void reads_nothing_of_experts_without_rows(const X& executor) {
  oracle::Random random(2);
  Problem<float> p({.experts = 3, .k = 1}, random);
  Table table = random_table(random, 3, 1, 1);
  const auto storage = p.storage();
  std::vector<ExpertRef> refs(storage.table().begin(), storage.table().end());
  refs[1].bytes = refs[2].bytes = reinterpret_cast<const std::byte*>(std::uintptr_t{64});
  check_rows(p, table, run(executor, p, table, {refs.data(), 3}, ExpertForm<SwiGlu>{}));
}

/// Waves compute one after the other: rows of experts that are not in this wave stay as they are.
template <class X>
void writes_only_rows_of_the_wave(const X& executor) {
  oracle::Random random(3);
  Problem<float> p({.tokens = 4, .experts = 2, .k = 1}, random);
  Table table(4, 1);
  for (int t = 0; t < 4; ++t) table.at(t, 0) = {t % 2, 1};
  const auto storage = p.storage();
  Bench<X> bench(executor, {4, 37, 21, 0, 2, 1}, {2, 0});
  bench.set(table);
  for (int t = 0; t < 4; ++t)
    for (float& value : bench.frame.partial.row(t)) value = 7;
  bench.experts(p, {storage.table().data() + 1, 1}, ExpertForm<SwiGlu>{});
  for (const int t : {0, 2})
    for (const float value : bench.frame.partial.row(t)) CHECK(value == 7);
}

template <class X>
void adds_nothing_for_skipped_experts(const X& executor) {
  oracle::Random random(4);
  Problem<float> p({.experts = 3, .k = 3}, random);
  Table table = random_table(random, 3, 3, 3);
  const auto storage = p.storage();
  std::vector<ExpertRef> refs(storage.table().begin(), storage.table().end());
  refs[1].bytes = nullptr;
  const std::vector<float> y = run(executor, p, table, {refs.data(), 3}, ExpertForm<SwiGlu>{});
  for (moe::Slot& slot : table.slots_of_all)
    if (slot.expert == 1) slot.expert = -1;
  check_rows(p, table, y);
}

template <class X>
void adds_nothing_for_unknown_ids(const X& executor) {
  oracle::Random random(5);
  Problem<float> p({.tokens = 6, .experts = 3, .k = 2}, random);
  Table table = random_table(random, 6, 2, 3);
  const int strange[] = {-1, 3, std::numeric_limits<int>::min(), std::numeric_limits<int>::max(), 4096, -3};
  for (int t = 0; t < 6; ++t) table.at(t, t % 2).expert = strange[t];
  const auto storage = p.storage();
  check_rows(p, table, run(executor, p, table, storage.table(), ExpertForm<SwiGlu>{}));
}

template <class X>
void adds_the_input_for_identities(const X& executor) {
  oracle::Random random(6);
  Problem<float> p({.tokens = 4, .experts = 3, .k = 2}, random);
  p.layer.identities = 2;
  Table table = random_table(random, 4, 2, 6);  // ids 3 and 4 are identities, 5 is nothing
  const auto storage = p.storage();
  check_rows(p, table, run(executor, p, table, storage.table(), ExpertForm<SwiGlu>{}));
}

template <class X>
void writes_zero_for_tokens_without_choices(const X& executor) {
  oracle::Random random(7);
  Problem<float> p({.tokens = 3, .experts = 3, .k = 2}, random);
  Table table = random_table(random, 3, 2, 3);
  table.count = {2, 0, 1};
  const auto storage = p.storage();
  const std::vector<float> y = run(executor, p, table, storage.table(), ExpertForm<SwiGlu>{});
  for (const float value : view(y, 37).row(1)) CHECK(value == 0);
  check_rows(p, table, y);
}

/// Shared experts are added to what is there.
template <class X>
void adds_to_the_result_when_asked(const X& executor) {
  oracle::Random random(8);
  Problem<float> p({.tokens = 2, .experts = 2, .k = 1}, random);
  Table table(2, 1);
  table.count = {0, 0};
  Bench<X> bench(executor, {2, 37, 21, 0, 2, 1}, {2, 0});
  bench.set(table);
  std::vector<float> y = p.x;
  executor.combine(bench.frame, p.x_view(), ExpertForm<SwiGlu>{}, view(y, 37), true);
  CHECK(bits(y) == bits(p.x));
}

/// The gate's product: any number of outputs, with and without bias.
template <class X>
void linear_agrees_with_oracle(const X& executor) {
  oracle::Random random(9);
  for (const int n : {1, 5, 32, 63, 64, 65, 130}) {
    const int inputs = 1 + random.below(130);
    CAPTURE(n);
    CAPTURE(inputs);
    const std::vector<float> x = random.reals(3 * inputs), w = random.reals(n * inputs), bias = random.reals(n);
    std::vector<float> plain(static_cast<std::size_t>(3 * n)), biased = plain;
    moe::Frame<> f;
    executor.linear(f, view(x, inputs), view(w, inputs), nullptr, view(plain, n));
    executor.linear(f, view(x, inputs), view(w, inputs), bias.data(), view(biased, n));
    for (int t = 0; t < 3; ++t) {
      std::vector<oracle::Value> expected, expected_biased;
      for (int i = 0; i < n; ++i) {
        expected.push_back(oracle::dot(w.data() + i * inputs, oracle::exact(x.data() + t * inputs, inputs)));
        expected_biased.push_back(expected.back() +
                                  oracle::Value{static_cast<double>(bias[static_cast<std::size_t>(i)])});
      }
      CHECK(first_outside(view(plain, n).row(t), expected) == -1);
      CHECK(first_outside(view(biased, n).row(t), expected_biased) == -1);
    }
  }
}

/// What others dispatch need not be in the table's order: rows that came from other ranks, say.
template <class X>
void reads_and_writes_the_rows_of_the_dispatch(const X& executor) {
  oracle::Random random(10);
  Problem<float> p({.tokens = 4, .experts = 2, .k = 1}, random);
  Table table(4, 1);
  table.count = {0, 0, 0, 0};
  const auto storage = p.storage();
  Bench<X> bench(executor, {4, 37, 21, 0, 2, 1}, {2, 0});
  bench.set(table);
  const int offsets[] = {0, 1, 4}, entries[] = {3, 2, 0, 1}, rows[] = {2, 1, 3, 1};
  std::copy_n(offsets, 3, bench.frame.dispatch.offset);
  std::copy_n(entries, 4, bench.frame.dispatch.entry);
  std::copy_n(rows, 4, bench.frame.dispatch.row);
  bench.experts(p, storage.table(), ExpertForm<SwiGlu>{});
  for (int i = 0; i < 4; ++i) {
    CAPTURE(i);
    const auto expected = run_token(p.layer, p.token(rows[i]), {{i < 1 ? 0 : 1, {1}}});
    CHECK(first_outside(bench.frame.partial.row(entries[i]), expected) == -1);
  }
}

/// `rows` calls every index once.
template <class X>
void rows_visits_every_index_once(const X& executor) {
  for (const int n : {0, 1, 15, 16, 17, 100}) {
    std::vector<int> visits(100, 0);
    moe::Frame<> f;
    executor.rows(f, n, [&](int i) { ++visits[static_cast<std::size_t>(i)]; });
    for (int i = 0; i < 100; ++i) CHECK(visits[static_cast<std::size_t>(i)] == (i < n ? 1 : 0));
  }
}

/// Calls law(std::type_identity<Format>{}) for every format, and for one that differs between projections.
template <class Law>
void for_every_format(const Law& law) {
  const auto each = [&]<class... F>(moe::formats<F...>) { (law(std::type_identity<F>{}), ...); };
  each(moe::formats<float, moe::bf16, moe::f16, moe::q8_0, moe::mxfp4, moe::q4_0,
                    moe::expert_format<moe::q8_0, moe::f16>>{});
}

/// All of them.
template <class X>
void all(const X& x) {
  SUBCASE("experts agree with the oracle within rounding") {
    for_every_format([&]<class F>(std::type_identity<F>) { agrees_with_oracle<F>(x); });
  }
  SUBCASE("experts add biases") {
    for_every_format([&]<class F>(std::type_identity<F>) { adds_biases<F>(x); });
  }
  SUBCASE("ungated experts agree with the oracle within rounding") {
    for_every_format([&]<class F>(std::type_identity<F>) { computes_ungated_experts<F>(x); });
  }
  SUBCASE("ungated experts add biases") {
    for_every_format([&]<class F>(std::type_identity<F>) { adds_biases_of_ungated_experts<F>(x); });
  }
  SUBCASE("weights are applied to the input when the form says so") {
    for_every_format([&]<class F>(std::type_identity<F>) { applies_weights_to_the_input<F>(x); });
  }
  SUBCASE("nothing is computed for no tokens") { computes_nothing_for_no_tokens(x); }
  SUBCASE("nothing is read of experts without rows") { reads_nothing_of_experts_without_rows(x); }
  SUBCASE("only rows of the wave are written") { writes_only_rows_of_the_wave(x); }
  SUBCASE("experts read and write the rows of the dispatch") { reads_and_writes_the_rows_of_the_dispatch(x); }
  SUBCASE("skipped experts add nothing") { adds_nothing_for_skipped_experts(x); }
  SUBCASE("ids outside the experts add nothing") { adds_nothing_for_unknown_ids(x); }
  SUBCASE("identities add the input") { adds_the_input_for_identities(x); }
  SUBCASE("tokens without choices get zero") { writes_zero_for_tokens_without_choices(x); }
  SUBCASE("results are added to when asked") { adds_to_the_result_when_asked(x); }
  SUBCASE("gates are multiplied within rounding") { linear_agrees_with_oracle(x); }
  SUBCASE("every row is called once") { rows_visits_every_index_once(x); }
}

}  // namespace executor_laws
