// The specs of models.hpp say what the readers of published configs say, family by family.
#include <filesystem>
#include <moe/io/families.hpp>
#include <moe/models.hpp>
#include <string>

#include "problem.hpp"

using moe::models::Spec;

namespace {

const std::filesystem::path golden = std::filesystem::path(MOE_TEST_DATA) / "golden";

/// The router, form and widths of `spec` are those of the first layer with experts in tests/data/golden/<folder>.
void agrees(const std::string& folder, const Spec& spec) {
  CAPTURE(folder);
  const moe::io::BlockConfig blocks = moe::io::load_block_config(golden / folder / "config.json");
  const int layer = blocks.moe_layers.empty() ? 0 : blocks.moe_layers.front();
  const moe::io::RouterConfig& read = blocks.router;
  const moe::TopK router = moe::models::router(spec);
  router.check();
  CHECK(router.experts == read.experts.at(layer));
  CHECK(router.k == read.k.at(layer));
  CHECK(router.score == read.score);
  CHECK(router.normalise.by == read.normalise.by);
  CHECK(router.normalise.epsilon == read.normalise.epsilon);
  CHECK(router.normalise.floor == read.normalise.floor);
  CHECK(router.normalise.power == read.normalise.power);
  CHECK(router.scale == read.scale);
  CHECK(router.identities == read.identities);
  CHECK(router.nulls == read.nulls);
  CHECK(router.groups.count == read.groups.count);
  if (router.groups.count > 1) {
    CHECK(router.groups.kept == read.groups.kept);
    CHECK(router.groups.by == read.groups.by);
    CHECK(router.groups.others == read.groups.others);
  }
  CHECK(spec.hidden == blocks.hidden);
  CHECK(spec.ffn == blocks.ffn.at(layer));
  const bool shares = blocks.shared.mixing != moe::io::SharedConfig::Mixing::none;
  CHECK(spec.shared_ffn == (shares ? blocks.shared.ffn.at(layer) : 0));
  CHECK(spec.rule.weight_on == blocks.weight_on);
  CHECK(spec.output_scale == blocks.output_scale);
  CHECK(spec.latent == blocks.latent.width);
}

}  // namespace

TEST_CASE("specs of softmax families") {
  namespace r = moe::models::rules;
  agrees("mixtral", {.rule = r::mixtral, .hidden = 64, .ffn = 40, .experts = 8, .k = 2});
  agrees("qwen2_moe", {.rule = r::qwen2_moe, .hidden = 64, .ffn = 40, .experts = 12, .k = 4, .shared_ffn = 56});
  agrees("qwen3_moe", {.rule = r::qwen3_moe, .hidden = 64, .ffn = 24, .experts = 12, .k = 8});
  agrees("qwen3_next", {.rule = r::qwen3_moe, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .shared_ffn = 28});
  agrees("qwen3_5_moe", {.rule = r::qwen3_moe, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .shared_ffn = 28});
  agrees("olmoe", {.rule = r::olmoe, .hidden = 64, .ffn = 24, .experts = 12, .k = 8});
  agrees("flex_olmo", {.rule = r::olmoe, .hidden = 32, .ffn = 20, .experts = 8, .k = 3});
  agrees("jamba", {.rule = r::olmoe, .hidden = 32, .ffn = 20, .experts = 8, .k = 3});
  agrees("gpt_oss", {.rule = r::gpt_oss, .hidden = 64, .ffn = 64, .experts = 8, .k = 4});
  agrees("granitemoe", {.rule = r::gpt_oss, .hidden = 64, .ffn = 40, .experts = 12, .k = 8});
  agrees("dbrx", {.rule = r::dbrx, .hidden = 32, .ffn = 20, .experts = 8, .k = 3});
  agrees("deepseek_v2", {.rule = r::deepseek_v2,
                         .hidden = 64,
                         .ffn = 40,
                         .experts = 12,
                         .k = 6,
                         .scale = 16,
                         .shared_ffn = 80,
                         .groups = 4,
                         .kept = 3});
  agrees("longcat_flash",
         {.rule = r::longcat, .hidden = 64, .ffn = 40, .experts = 12, .k = 9, .scale = 6, .identities = 6});
  agrees("zaya", {.rule = r::zaya, .hidden = 32, .ffn = 20, .experts = 4, .k = 1, .nulls = 1});
  agrees("granitemoeshared", {.rule = r::gpt_oss, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .shared_ffn = 28});
  agrees("aria", {.rule = r::gpt_oss, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .shared_ffn = 40});
  agrees("ernie4_5_moe", {.rule = r::ernie4_5, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .shared_ffn = 40});
  agrees("gemma4", {.rule = r::mixtral, .hidden = 32, .ffn = 20, .experts = 8, .k = 3});
}
TEST_CASE("specs of sigmoid families") {
  namespace r = moe::models::rules;
  agrees("deepseek_v3", {.rule = r::deepseek_v3,
                         .hidden = 64,
                         .ffn = 40,
                         .experts = 12,
                         .k = 8,
                         .scale = 2.5f,
                         .shared_ffn = 40,
                         .groups = 4,
                         .kept = 3});
  agrees("llama4", {.rule = r::llama4, .hidden = 64, .ffn = 40, .experts = 12, .k = 1, .shared_ffn = 40});
  agrees("minimax_m2", {.rule = r::minimax_m2, .hidden = 32, .ffn = 20, .experts = 8, .k = 3});
  agrees("minimax_m3",
         {.rule = r::minimax_m3, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .shared_ffn = 28, .output_scale = 2});
  agrees("step3p5",
         {.rule = r::minimax_m3, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .shared_ffn = 28, .output_scale = 3});
  agrees("afmoe",
         {.rule = r::deepseek_v3, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .scale = 2.826f, .shared_ffn = 40});
  agrees("lfm2_moe", {.rule = r::lfm2_moe, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .scale = 1.5f});
  agrees("hy_v3",
         {.rule = r::deepseek_v3, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .scale = 2.826f, .shared_ffn = 20});
  agrees("glm4_moe",
         {.rule = r::deepseek_v3, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .scale = 2.5f, .shared_ffn = 20});
  agrees("kimi_linear", {.rule = r::deepseek_v3,
                         .hidden = 32,
                         .ffn = 20,
                         .experts = 8,
                         .k = 3,
                         .scale = 2.446f,
                         .shared_ffn = 20,
                         .groups = 4,
                         .kept = 2});
  agrees("deepseek_v4",
         {.rule = r::deepseek_v4, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .scale = 1.5f, .shared_ffn = 20});
  agrees("nemotron_h",
         {.rule = r::deepseek_v3, .hidden = 32, .ffn = 20, .experts = 8, .k = 3, .scale = 2.5f, .shared_ffn = 28});
  agrees("nemotron_h_latent", {.rule = r::deepseek_v3,
                               .hidden = 32,
                               .ffn = 20,
                               .experts = 8,
                               .k = 3,
                               .scale = 2.5f,
                               .shared_ffn = 28,
                               .latent = 16});
}
TEST_CASE("every family's alias is a layer") {
  using namespace moe::models;
  using S = moe::Resident<moe::PanelLayout, moe::formats<float>>;
  const auto complete = []<class... Layer>() { return ((sizeof(Layer) > 0) && ...); };
  CHECK(
      complete.operator()<Mixtral<S>, Qwen2Moe<S>, Qwen3Moe<S>, Qwen3Next<S>, Qwen35Moe<S>, Olmoe<S>, FlexOlmo<S>,
                          DeepSeekV2<S>, DeepSeekV3<S>, DeepSeekV4<S>, DeepSeekV4Hash<S>, GptOss<S>, Llama4<S>, Dbrx<S>,
                          PhiMoe<S>, GraniteMoe<S>, GraniteMoeShared<S>, Jamba<S>, MiniMaxM2<S>, MiniMaxM3<S>,
                          Hunyuan<S>, Ernie45<S>, LongCat<S>, Afmoe<S>, Lfm2Moe<S>, NemotronH<S>, NemotronHLatent<S>,
                          Gemma4<S>, Step35<S>, Aria<S>, Zaya<S>, Switch<S>, Nllb<S>, AdaMoe<S>, PrMoe<S>>());
}
