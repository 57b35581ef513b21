// Gates: the linear one, and none.
#include <moe/executors/cpu.hpp>
#include <moe/gate.hpp>

#include "problem.hpp"

TEST_CASE("a linear gate tells its width and its outputs") {
  const std::vector<float> w(12);
  const moe::Linear gate(view(w, 4));
  CHECK(gate.outputs() == 3);
  CHECK(gate.inputs() == 4);
}
TEST_CASE("a linear gate multiplies by rows and adds the bias") {
  const std::vector<float> w{1, 2, 3, 4}, x{10, 1}, bias{0.5f, -0.5f};
  std::vector<float> logits(2);
  moe::Frame<> f;
  moe::Linear(view(w, 2), bias.data()).logits(moe::Cpu{.threads = 1}, f, view(x, 2), view(logits, 2));
  CHECK(logits == std::vector<float>{12.5f, 33.5f});
}
TEST_CASE("a linear gate takes a mutable view") {
  std::vector<float> w(4);
  CHECK(moe::Linear(view(w, 2)).weight().data == w.data());
}
TEST_CASE("NoGate gives no logits") {
  CHECK(moe::NoGate::outputs() == 0);
  CHECK(moe::NoGate::inputs() == 0);
}
TEST_CASE("NoGate is a gate of every executor") { CHECK(moe::Gate<moe::NoGate, moe::Cpu>); }
