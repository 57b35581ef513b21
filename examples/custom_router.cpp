// A router of one's own: as many of the likeliest experts as together hold 80 % of the probability, four at most.
#include <cstdio>
#include <moe/moe.hpp>
#include <vector>

struct TopP {
  int experts = 0, most = 4;
  float share = 0.8f;

  int num_logits() const noexcept { return experts; }
  int num_experts() const noexcept { return experts; }
  int max_slots() const noexcept { return most; }
  int select(moe::Row<const float> logits, moe::Row<moe::Slot> out) const noexcept {
    const moe::TopK best{.experts = experts, .k = most, .score = moe::Score::softmax};
    const int found = best.select({.logits = logits}, out);
    float sum = 0;
    for (int k = 0; k < found; ++k)
      if ((sum += out[k].weight) >= share) return k + 1;
    return found;
  }
};

namespace {

/// Prints how many experts each token got.
struct PrintChoices {
  void routed(const moe::Frame<>& frame) const {
    for (int t = 0; t < frame.dims.tokens; ++t) {
      std::printf("token %d:", t);
      for (int k = 0; k < frame.table.size(t); ++k) {
        const moe::Slot slot = frame.table.slots.row(t)[k];
        std::printf("  expert %d with %.2f", slot.expert, static_cast<double>(slot.weight));
      }
      std::printf("\n");
    }
  }
};

}  // namespace

int main() {
  constexpr int hidden = 32, ffn = 64, experts = 6, tokens = 3;
  const std::vector<float> weights(ffn * hidden, 0.1f), x(tokens * hidden, 1.0f);
  const std::vector<moe::ExpertMatrices> matrices(experts, {.gate = {weights.data(), ffn, hidden},
                                                            .up = {weights.data(), ffn, hidden},
                                                            .down = {weights.data(), hidden, ffn}});
  // Logits may come from the host application; then the layer needs no gate.
  const std::vector<float> logits{9, 0, 0, 0, 0, 0,   // sure
                                  2, 3, 0, 0, 0, 0,   // two candidates
                                  0, 0, 0, 0, 0, 0};  // no idea
  const moe::MoELayer layer{moe::NoGate{}, TopP{.experts = experts},
                            moe::Resident{moe::Packed<moe::f32>{{hidden, ffn}, matrices}}, moe::Cpu{.threads = 1}};
  moe::Workspace workspace{layer.workspace(tokens)};
  std::vector<float> y(x.size());
  layer.forward(
      {.x = {x.data(), tokens, hidden}, .y = {y.data(), tokens, hidden}, .logits = {logits.data(), tokens, experts}},
      workspace, PrintChoices{});
}
