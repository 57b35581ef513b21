// What a backward pass asks of the layer: an executor that keeps, the frame of the last call, who was chosen, and the
// policies. Gradients of routing weights and of activations are checked against differences of the layer itself.
#include <cmath>
#include <moe/routers/capacity.hpp>

#include "doubles/keeping_executor.hpp"
#include "layer_support.hpp"

namespace {

using moe::TopK;

struct Kept {
  Kept() : random(717), p({.tokens = 5, .experts = 6, .k = 2}, random) {}
  template <class Router>
  auto layer(const Router& router) const {
    return moe::MoELayer(moe::Linear(p.gate_view()), router, p.storage(), keeping::Executor{});
  }
  moe::Call<> call(std::vector<float>& y) const {
    y.assign(p.x.size(), not_a_number);
    return {.x = p.x_view(), .y = view(y, p.setup.hidden)};
  }
  oracle::Random random;
  Problem<float> p;
};
const TopK top2{.experts = 6, .k = 2};

}  // namespace

TEST_CASE("an executor that keeps gives the bits of one that does not") {
  const Kept k;
  CHECK(bits(forward(k.layer(top2), k.p)) == bits(forward(make_layer(k.p), k.p)));
}
TEST_CASE("the frame of the last call is found again in its workspace") {
  const Kept k;
  const auto layer = k.layer(top2);
  std::vector<float> y;
  const moe::Call<> call = k.call(y);
  moe::Workspace ws(layer.workspace(5));
  layer.forward(call, ws);
  const keeping::Frame f = layer.kept(call, ws);
  CHECK(bits(f.routing_logits.row(4)) == bits(row_of(gate_logits(k.p), 6, 4)));
  for (int t = 0; t < 5; ++t) {
    const std::vector<oracle::Pick> picks = oracle::route({}, row_of(gate_logits(k.p), 6, t), 2);
    REQUIRE(f.table.size(t) == 2);
    for (int s = 0; s < 2; ++s) {
      const moe::Slot slot = f.table.slots.row(t)[s];
      REQUIRE(slot.expert == picks[static_cast<std::size_t>(s)].expert);
      const oracle::Expert& e = k.p.layer.experts[static_cast<std::size_t>(slot.expert)];
      const std::vector<oracle::Value> x = oracle::exact(k.p.token(t), k.p.setup.hidden);
      CHECK(first_outside(f.gate.row(2 * t + s), oracle::multiply(e.gate, {}, x, {1})) == -1);
      CHECK(first_outside(f.up.row(2 * t + s), oracle::multiply(e.up, {}, x, {1})) == -1);
    }
  }
}
TEST_CASE("the kept logits of a call that brings its own are the call's") {
  const Kept k;
  const auto layer = k.layer(top2);
  std::vector<float> y;
  moe::Call<> call = k.call(y);
  const std::vector<float> logits = gate_logits(k.p);
  call.logits = view(logits, 6);
  moe::Workspace ws(layer.workspace(5));
  layer.forward(call, ws);
  CHECK(layer.kept(call, ws).routing_logits.data == logits.data());
}
TEST_CASE("the gradient of a routing weight is the product of its kept output row and the output's gradient") {
  const Kept k;
  const auto layer = k.layer(top2);
  oracle::Random random(718);
  const std::vector<float> dy = random.reals(5 * k.p.setup.hidden);
  std::vector<float> y;
  moe::Call<> call = k.call(y);
  Table table = random_table(random, 5, 2, 6);
  call.table = table.get();
  moe::Workspace ws(layer.workspace(5));
  layer.forward(call, ws);
  const keeping::Frame f = layer.kept(call, ws);
  for (int t = 0; t < 5; ++t)
    for (int s = 0; s < 2; ++s) {
      double gradient = 0, change = 0, mass = 0;
      const moe::Row<const float> kept = f.partial.row(2 * t + s);
      for (int i = 0; i < k.p.setup.hidden; ++i)
        gradient += static_cast<double>(dy[static_cast<std::size_t>(t * 37 + i)]) * static_cast<double>(kept[i]);
      // The output is linear in the weight: any step gives the derivative, but for the rounding of both outputs.
      Table moved = table;
      moved.at(t, s).weight += 0.5f;
      moe::Call<> other;
      other.table = moved.get();
      const std::vector<float> there = forward(layer, k.p, other);
      for (std::size_t i = 0; i < 37; ++i) {
        const std::size_t at = static_cast<std::size_t>(t) * 37 + i;
        const double d = static_cast<double>(dy[at]);
        change += d * (static_cast<double>(there[at]) - static_cast<double>(y[at])) / 0.5;
        mass += std::fabs(d) * (std::fabs(static_cast<double>(there[at])) + std::fabs(static_cast<double>(y[at])) +
                                std::fabs(static_cast<double>(kept[static_cast<int>(i)])));
      }
      CHECK(std::fabs(gradient - change) <=
            8 * oracle::unit * mass);  // sums of two terms, rounded three times, over 0.5
    }
}
TEST_CASE("a choice that its expert turned away still says who was chosen") {
  const Kept k;
  const moe::Capacity<TopK> router{.inner = top2, .fixed = 1};
  const auto layer = k.layer(router);
  std::vector<float> y;
  const moe::Call<> call = k.call(y);
  moe::Workspace ws(layer.workspace(5));
  layer.forward(call, ws);
  const keeping::Frame f = layer.kept(call, ws);
  int dropped = 0;
  for (int t = 0; t < 5; ++t) {
    const std::vector<oracle::Pick> picks = oracle::route({}, row_of(gate_logits(k.p), 6, t), 2);
    for (int s = 0; s < 2; ++s) {
      const moe::ExpertId e = f.table.slots.row(t)[s].expert;
      dropped += moe::is_dropped(e) ? 1 : 0;
      CHECK((moe::is_dropped(e) ? moe::dropped(e) : e) == picks[static_cast<std::size_t>(s)].expert);
    }
  }
  CHECK(dropped == 4);  // ten choices, six experts of one row
}
TEST_CASE("a layer shows the policies that a gradient must know") {
  const Kept k;
  moe::ExpertForm<moe::SwiGlu> form{.weight_on = moe::WeightOn::input};
  const moe::MoELayer layer(moe::Linear(k.p.gate_view()), top2, k.p.storage(), keeping::Executor{}, form);
  CHECK(layer.form().weight_on == moe::WeightOn::input);
  CHECK(layer.gate().weight().data == k.p.gate.data());
  CHECK(layer.router().k == 2);
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(layer.shared())>, moe::NoShared>);
}
TEST_CASE("two workspaces keep two calls at once") {
  const Kept k;
  const auto layer = k.layer(top2);
  std::vector<float> y, z;
  const moe::Call<> call = k.call(y);
  moe::Call<> other = k.call(z);
  other.max_slots = 1;
  moe::Workspace first(layer.workspace(5)), second(layer.workspace(5));
  layer.forward(call, first);
  const std::vector<std::uint32_t> before = bits(layer.kept(call, first).gate.row(9));
  layer.forward(other, second);
  CHECK(layer.kept(other, second).table.size(4) == 1);
  CHECK(bits(layer.kept(call, first).gate.row(9)) == before);
}
