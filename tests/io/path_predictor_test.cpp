// The shipped path predictor against torch's numbers for it, and files that are no predictor.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <moe/executors/cpu.hpp>
#include <moe/io/path_predictor.hpp>
#include <moe/predictors/routing_paths.hpp>

#include "io/support.hpp"

using moe::PathPredictor;
using moe::io::Dtype;
using moe::io::TensorData;
using namespace io_test;

namespace {

const std::filesystem::path model = MOE_MODEL_DIR;

template <class T>
std::vector<T> values(const moe::io::SafetensorsFile& file, std::string_view name) {
  const moe::io::TensorInfo& tensor = file.at(name);
  std::vector<T> out(static_cast<std::size_t>(tensor.bytes) / sizeof(T));
  file.read(tensor, std::as_writable_bytes(std::span(out)));
  return out;
}

/// What train_path_predictor.py wrote: ids [T], logits [T,layers,experts], the model's picks [T,layers,k].
struct Reference {
  moe::io::SafetensorsFile file{model / "path_predictor_reference.safetensors"};
  std::vector<int> tokens = [this] {
    const auto bytes = values<std::uint8_t>(file, "token_ids");
    return std::vector<int>(bytes.begin(), bytes.end());
  }();
  std::vector<float> logits = values<float>(file, "logits");
  std::vector<std::uint8_t> picks = values<std::uint8_t>(file, "picks");
  int k = static_cast<int>(file.at("picks").shape[2]);
};

std::vector<float> logits_of(const PathPredictor& predictor, const std::vector<int>& tokens) {
  std::vector<float> out(tokens.size() * static_cast<std::size_t>(predictor.outputs()));
  moe::PathPredictorState state = predictor.begin();
  const int rows = static_cast<int>(tokens.size());
  predictor.advance(moe::Cpu{.threads = 1}, state, {tokens.data(), rows}, {out.data(), rows, predictor.outputs()});
  return out;
}

/// The share of the model's picks that are among the n best of their layer.
double recall(const Reference& reference, const std::vector<float>& logits, int layers, int experts, int n) {
  const auto rows = static_cast<int>(reference.tokens.size());
  const moe::RoutingPaths best =
      moe::top_paths(moe::View<const float>(logits.data(), rows, layers * experts), experts, n);
  int found = 0, at = 0;
  for (int t = 0; t < rows; ++t)
    for (int l = 0; l < layers; ++l)
      for (int i = 0; i < reference.k; ++i, ++at)
        found += best.test(t, l, reference.picks[static_cast<std::size_t>(at)]) ? 1 : 0;
  return static_cast<double>(found) / at;
}

/// A small predictor's tensors: V = 5, d = 2, W = 2, R = 1, h = 3, 2 layers of 4 experts.
struct Tensors {
  std::vector<float> memory = std::vector<float>(64, 0.5f);
  std::vector<TensorData> all = {{"decays", Dtype::F32, {1}, {}},
                                 {"embedding", Dtype::F32, {5, 2}, {}},
                                 {"enter.weight", Dtype::F32, {3, 3, 2}, {}},
                                 {"enter.bias", Dtype::F32, {3}, {}},
                                 {"leave.weight", Dtype::F32, {2, 4, 3}, {}},
                                 {"leave.bias", Dtype::F32, {2, 4}, {}}};
  TensorData& operator[](std::string_view name) {
    for (TensorData& t : all)
      if (t.name == name) return t;
    return all.at(6);
  }
  void write(const std::filesystem::path& file) {
    for (TensorData& t : all) {
      const auto bytes = static_cast<std::size_t>(*moe::io::tensor_bytes(t.dtype, t.shape));
      t.bytes = std::as_bytes(std::span(memory)).first(bytes);
    }
    moe::io::write_safetensors(file, all);
  }
};

}  // namespace

TEST_CASE("the shipped predictor says what torch says") {
  const PathPredictor predictor = moe::io::read_path_predictor(model / "path_predictor.safetensors");
  const Reference reference;
  const std::vector<float> logits = logits_of(predictor, reference.tokens);
  REQUIRE(logits.size() == reference.logits.size());
  REQUIRE(reference.tokens.size() > 100);
  float worst = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) worst = std::fmax(worst, std::fabs(logits[i] - reference.logits[i]));
  MESSAGE("logits differ by ", worst);
  CHECK(worst < 5e-5f);
  for (const int n : {2, 3, 4})
    CHECK(recall(reference, logits, predictor.layers(), predictor.experts(), n) ==
          recall(reference, reference.logits, predictor.layers(), predictor.experts(), n));
}

TEST_CASE("most of what the model picks on held-out text is predicted") {
  const PathPredictor predictor = moe::io::read_path_predictor(model / "path_predictor.safetensors");
  const Reference reference;
  const std::vector<float> logits = logits_of(predictor, reference.tokens);
  const double top = recall(reference, logits, predictor.layers(), predictor.experts(), reference.k);
  MESSAGE("recall of the top ", reference.k, ": ", top);
  CHECK(top > 0.85);
  CHECK(recall(reference, logits, predictor.layers(), predictor.experts(), 2 * reference.k) > 0.97);
}

TEST_CASE("sizes come from the shapes of the tensors") {
  const TemporaryFolder folder;
  Tensors().write(folder / "small.safetensors");
  const PathPredictor small = moe::io::read_path_predictor(folder / "small.safetensors");
  CHECK(small.vocabulary() == 5);
  CHECK(small.layers() == 2);
  CHECK(small.experts() == 4);
  CHECK(small.weights().window == 2);
  CHECK(small.weights().decays == std::vector<float>{0.5f});
}

TEST_CASE("files that are no predictor are refused, and the file and the tensor named") {
  const TemporaryFolder folder;
  const auto file = folder / "bad.safetensors";
  const auto message = [&](auto&& change) {
    Tensors tensors;
    change(tensors);
    tensors.write(file);
    const std::string text = message_of([&] { moe::io::read_path_predictor(file); });
    CHECK(contains(text, file.string()));
    return text;
  };
  CHECK(contains(message([](Tensors& t) { t["enter.bias"].name = "other"; }), "\"enter.bias\": missing"));
  CHECK(contains(message([](Tensors& t) {
                   t["leave.weight"].shape = {2, 3, 4};
                 }),
                 "expected [2, 4, 3], found [2, 3, 4]"));
  CHECK(contains(message([](Tensors& t) { t["enter.weight"].shape = {3, 1, 2}; }), "more than the 1 decays"));
  CHECK(contains(message([](Tensors& t) { t["enter.weight"].shape = {3, 6}; }), "dimensions: expected 3"));
  CHECK(contains(message([](Tensors& t) { t["embedding"].shape = {0, 2}; }), "expected 1 to 2147483647, found 0"));
  CHECK(
      contains(message([](Tensors& t) { t["decays"].dtype = Dtype::I32; }), "element type: expected F32, BF16 or F16"));
}

TEST_CASE("numbers that are none are refused") {
  const TemporaryFolder folder;
  Tensors tensors;
  tensors.memory[0] = std::numeric_limits<float>::quiet_NaN();
  tensors.write(folder / "nan.safetensors");
  CHECK_THROWS_WITH(moe::io::read_path_predictor(folder / "nan.safetensors"),
                    "moe::PathPredictor: decay: expected in [0, 1), found nan");
}
