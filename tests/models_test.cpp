// Specs of families become routers with their rules.
#include <moe/models.hpp>

#include "laws/router_laws.hpp"

namespace {

void agrees(const moe::models::Spec& spec, const oracle::Routing& rule) {
  oracle::Random random(71);
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = random.reals(spec.experts, 4);
    const std::vector<moe::Slot> found = router_laws::choose(moe::models::router(spec), logits);
    const std::vector<oracle::Pick> expected = oracle::route(rule, logits, spec.k);
    REQUIRE(found.size() == expected.size());
    for (std::size_t k = 0; k < found.size(); ++k) CHECK(within(found[k].weight, expected[k].weight));
  }
}

const oracle::Routing renormalised{oracle::Score::softmax, oracle::Divide::by_sum};
const oracle::Routing as_they_are{oracle::Score::softmax};

}  // namespace

TEST_CASE("Mixtral renormalises the softmax of its picks") { agrees(moe::models::mixtral(8, 8), renormalised); }
TEST_CASE("Qwen3-MoE renormalises the softmax of its picks") {
  agrees(moe::models::qwen3_moe(8, 8, 64, 8), renormalised);
}
TEST_CASE("Qwen3-MoE without norm_topk_prob takes the softmax as it is") {
  agrees(moe::models::qwen3_moe(8, 8, 64, 8, false), as_they_are);
}
TEST_CASE("OLMoE takes the softmax as it is") { agrees(moe::models::olmoe(8, 8, 64, 8), as_they_are); }

TEST_CASE("the shipped specs have the published numbers") {
  using namespace moe::models;
  CHECK((mixtral_8x7b.hidden == 4096 && mixtral_8x7b.ffn == 14336 && mixtral_8x7b.experts == 8 && mixtral_8x7b.k == 2));
  CHECK((qwen3_30b_a3b.hidden == 2048 && qwen3_30b_a3b.ffn == 768 && qwen3_30b_a3b.experts == 128 &&
         qwen3_30b_a3b.k == 8));
  CHECK((olmoe_1b_7b.hidden == 2048 && olmoe_1b_7b.ffn == 1024 && olmoe_1b_7b.experts == 64 && olmoe_1b_7b.k == 8));
}
TEST_CASE("an alias and a spec make a layer") {
  oracle::Random random(72);
  const Problem<float> p({.tokens = 1, .hidden = 16, .ffn = 8, .experts = 8}, random);
  using Storage = moe::Resident<moe::PanelLayout, moe::formats<float>>;
  const moe::models::Mixtral<Storage> layer(moe::Linear(p.gate_view()),
                                            moe::models::router(moe::models::mixtral(16, 8)), p.storage(),
                                            moe::Cpu{.threads = 1});
  CHECK(layer.router().k == 2);
}
