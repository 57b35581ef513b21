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
  CHECK(spec.weight_on == blocks.weight_on);
  CHECK(spec.output_scale == blocks.output_scale);
  CHECK(spec.latent == blocks.latent.width);
}

}  // namespace

TEST_CASE("specs of softmax families") {
  using namespace moe::models;
  agrees("mixtral", mixtral(64, 40));
  agrees("qwen2_moe", qwen2_moe(64, 40, 12, 4, 56));
  agrees("qwen3_moe", qwen3_moe(64, 24, 12, 8));
  agrees("qwen3_next", qwen3_next(32, 20, 8, 3, 28));
  agrees("qwen3_5_moe", qwen3_next(32, 20, 8, 3, 28));
  agrees("olmoe", olmoe(64, 24, 12, 8));
  agrees("flex_olmo", olmoe(32, 20, 8, 3));
  agrees("jamba", olmoe(32, 20, 8, 3));
  agrees("gpt_oss", gpt_oss(64, 64, 8, 4));
  agrees("granitemoe", gpt_oss(64, 40, 12, 8));
  agrees("dbrx", dbrx(32, 20, 8, 3));
  agrees("deepseek_v2", deepseek_v2(64, 40, 12, 6, 80, 16, 4, 3));
  agrees("longcat_flash", longcat(64, 40, 12, 6, 9, 6));
  agrees("zaya", zaya(32, 20, 4));
  agrees("granitemoeshared", gpt_oss(32, 20, 8, 3, 28));
  agrees("aria", gpt_oss(32, 20, 8, 3, 40));
  agrees("ernie4_5_moe", ernie4_5(32, 20, 8, 3, 40));
  agrees("gemma4", mixtral(32, 20, 8, 3));
}
TEST_CASE("specs of sigmoid families") {
  using namespace moe::models;
  agrees("deepseek_v3", deepseek_v3(64, 40, 12, 8, 40, 2.5f, 4, 3));
  agrees("llama4", llama4(64, 40, 12, 1, 40));
  agrees("minimax_m2", deepseek_v3(32, 20, 8, 3, 0, 1, 1, 1, 0));
  agrees("minimax_m3", minimax_m3(32, 20, 8, 3, 28, 2));
  agrees("step3p5", minimax_m3(32, 20, 8, 3, 28, 3));
  agrees("afmoe", deepseek_v3(32, 20, 8, 3, 40, 2.826f));
  agrees("lfm2_moe", deepseek_v3(32, 20, 8, 3, 0, 1.5f, 1, 1, 1e-6f));
  agrees("hy_v3", deepseek_v3(32, 20, 8, 3, 20, 2.826f));
  agrees("glm4_moe", deepseek_v3(32, 20, 8, 3, 20, 2.5f));
  agrees("kimi_linear", deepseek_v3(32, 20, 8, 3, 20, 2.446f, 4, 2));
  agrees("deepseek_v4", deepseek_v4(32, 20, 8, 3, 20, 1.5f));
  agrees("nemotron_h", nemotron_h(32, 20, 8, 3, 28, 2.5f));
  agrees("nemotron_h_latent", nemotron_h(32, 20, 8, 3, 28, 2.5f, 16));
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
