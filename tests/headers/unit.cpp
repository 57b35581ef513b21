// One translation unit with all headers. Its answer touches every inline text whose code the compiler's flags could
// change: the same functions are compiled elsewhere with other flags, and the linker keeps one copy of each.
#include <all_headers.hpp>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

namespace {

// All bits: the library promises the same ones for every flag.
void say(std::string& answer, const char* what, float value) {
  char text[64];
  std::snprintf(text, sizeof text, "%s %a\n", what, static_cast<double>(value));
  answer += text;
}

// A fixed sequence in (-1, 1).
std::vector<float> numbers(int count, unsigned seed) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values.push_back(static_cast<float>(seed >> 8) * 0x1p-23f - 1.0f);
  }
  return values;
}

void math_and_elements(std::string& answer) {
  float exponentials = 0, sigmoids = 0, elements = 0;
  for (const float value : numbers(500, 1)) {
    exponentials += moe::exp(20 * value);
    sigmoids += moe::sigmoid(9 * value) + moe::silu(5 * value);
    elements += float(moe::bf16(value)) + 2 * float(moe::f16(value));
  }
  say(answer, "exp", exponentials);
  say(answer, "sigmoid", sigmoids);
  say(answer, "elements", elements);
}

void top_k(std::string& answer) {
  const std::vector<float> logits = numbers(40, 2);
  std::array<moe::Slot, 6> slots{};
  for (const moe::Score score : {moe::Score::softmax_of_picked, moe::Score::softmax, moe::Score::sigmoid}) {
    const moe::TopK router{.experts = 40, .k = 6, .score = score, .normalise = moe::Normalisation::by_sum(1e-20f)};
    const moe::RowContext row{.logits = {logits.data(), 40}};
    const int picked = router.select(row, {slots.data(), 6});
    for (int k = 0; k < picked; ++k) say(answer, "slot", slots[static_cast<std::size_t>(k)].weight);
  }
}

template <class Format>
void layer(std::string& answer) {
  constexpr int tokens = 3, experts = 4, hidden = 64, ffn = 96;
  const std::vector<float> weights = numbers(experts * 3 * hidden * ffn, 3), gate = numbers(experts * hidden, 4);
  std::vector<moe::ExpertMatrices> matrices;
  for (int e = 0; e < experts; ++e) {
    const float* const first = weights.data() + e * 3 * hidden * ffn;
    matrices.push_back({.gate = moe::Matrix(first, ffn, hidden),
                        .up = moe::Matrix(first + hidden * ffn, ffn, hidden),
                        .down = moe::Matrix(first + 2 * hidden * ffn, hidden, ffn)});
  }
  const moe::MoELayer layer{
      moe::Linear{moe::View<const float>{gate.data(), experts, hidden}}, moe::TopK{.experts = experts, .k = 2},
      moe::Resident{moe::Packed<Format>{{.hidden = hidden, .ffn = ffn}, matrices}}, moe::Cpu{.threads = 2}};
  moe::Workspace ws{layer.workspace(tokens)};
  const std::vector<float> x = numbers(tokens * hidden, 5);
  std::vector<float> y(x.size());
  layer.forward(moe::View<const float>{x.data(), tokens, hidden}, moe::View<float>{y.data(), tokens, hidden}, ws);
  for (std::size_t i = 0; i < y.size(); i += 37) say(answer, "y", y[i]);
}

}  // namespace

std::string MOE_UNIT();
std::string MOE_UNIT() {
  std::string answer;
  math_and_elements(answer);
  top_k(answer);
  layer<float>(answer);
  layer<moe::bf16>(answer);
  layer<moe::q8_0>(answer);
  return answer;
}
