// Files of first-layer gates: sizes from the shapes of the tensors, and files that are no gate.
#include <doctest/doctest.h>

#include <limits>
#include <moe/io/first_gate.hpp>
#include <vector>

#include "io/support.hpp"

using moe::io::Dtype;
using namespace io_test;

namespace {

/// A gate of 2 experts over 3 columns, as `change` leaves its tensors.
struct GateFile {
  template <class Change>
  explicit GateFile(const Change& change) {
    std::vector<moe::io::TensorData> tensors = {{"weight", Dtype::F32, {2, 3}, {}}, {"bias", Dtype::F32, {2}, {}}};
    change(tensors[0], tensors[1], numbers);
    for (moe::io::TensorData& t : tensors) {
      const auto bytes = static_cast<std::size_t>(*moe::io::tensor_bytes(t.dtype, t.shape));
      t.bytes = std::as_bytes(std::span(numbers)).subspan(&t == &tensors[1] ? 24 : 0).first(bytes);
    }
    moe::io::write_safetensors(path, tensors);
  }
  TemporaryFolder folder;
  std::filesystem::path path = folder / "gate.safetensors";
  std::vector<float> numbers{1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0};
};

template <class Change>
std::string refusal(const Change& change) {
  const GateFile file(change);
  const std::string message = message_of([&] { moe::io::read_first_gate(file.path); });
  CHECK(contains(message, file.path.string()));
  return message;
}

}  // namespace

TEST_CASE("experts and columns come from the shapes of the tensors, and numbers as they are") {
  const GateFile file([](auto&, auto&, auto&) {});
  const moe::FirstLayerGate gate = moe::io::read_first_gate(file.path);
  CHECK(gate.experts() == 2);
  CHECK(gate.hidden() == 3);
  const moe::Linear<> linear = gate.linear();
  for (int e = 0; e < 2; ++e) {
    for (int i = 0; i < 3; ++i) CHECK(linear.weight().row(e)[i] == static_cast<float>(1 + 3 * e + i));
    CHECK(linear.bias()[e] == static_cast<float>(7 + e));
  }
}

TEST_CASE("files that are no gate are refused, and the file and the tensor named") {
  CHECK(contains(refusal([](auto& weight, auto&, auto&) { weight.name = "other"; }), "\"weight\": missing"));
  CHECK(contains(refusal([](auto&, auto& bias, auto&) { bias.name = "other"; }), "\"bias\": missing"));
  CHECK(contains(refusal([](auto& weight, auto&, auto&) { weight.shape = {3, 2}; }), "expected [2, 2], found [3, 2]"));
  CHECK(contains(refusal([](auto& weight, auto&, auto&) { weight.shape = {6}; }), "dimensions: expected 2, found [6]"));
  CHECK(contains(refusal([](auto&, auto& bias, auto&) { bias.shape = {0}; }), "expected 1 to 2147483647, found 0"));
  CHECK(contains(refusal([](auto& weight, auto&, auto&) { weight.dtype = Dtype::I32; }),
                 "element type: expected F32, BF16 or F16"));
  CHECK(contains(message_of([] { moe::io::read_first_gate("nowhere"); }), "nowhere"));
}

TEST_CASE("numbers that are none are refused") {
  const GateFile file([](auto&, auto&, auto& numbers) { numbers[7] = std::numeric_limits<float>::quiet_NaN(); });
  CHECK_THROWS_WITH(moe::io::read_first_gate(file.path),
                    "moe::FirstLayerGate: numbers: expected finite ones, found nan");
}
