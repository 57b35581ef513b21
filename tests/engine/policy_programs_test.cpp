// Policies as a user chooses them: --policy, --self-contrast, calibrate_sensitivity, compare_policies.
#include "loss.hpp"
#include "shell.hpp"

using namespace engine_test;
using moe::io::Json;

namespace {

const std::filesystem::path kjv = MOE_MODEL_DIR;
const std::string with_model = " --model " + kjv.string(), with_text = " --text " + (kjv / "validation.txt").string();

}  // namespace

TEST_CASE("generate and perplexity run under a policy") {
  const Shell shell;
  const std::string start = "generate --model " + shell.byte_model() + " --prompt abc --tokens 40 --json";
  const Json trained = Json::parse(shell.accepts(start)), one = Json::parse(shell.accepts(start + " --policy top1"));
  CHECK(trained["policy"] == "trained");
  CHECK(trained["experts_per_token"] == 2.0);
  CHECK(one["policy"] == "top1");
  CHECK(one["experts_per_token"] == 1.0);
  CHECK(Json::parse(shell.accepts(start + " --policy top2"))["token_ids"] == trained["token_ids"]);
  const std::string text = shell.write("text", "some text that is scored"), score = "perplexity --json --text " + text;
  const Json three = Json::parse(shell.accepts(score + " --policy top3 --model " + shell.path("")));
  CHECK(three["experts_per_token"] == 3.0);
  shell.refuses(start + " --policy top7", "--policy");
  shell.refuses(start + " --policy nulls:shift=1", "null experts");
  shell.refuses(start + " --policy skip:file=nowhere", "nowhere");
  shell.refuses(start + " --adamoe nowhere", "nowhere");
}

TEST_CASE("generate contrasts the model with itself") {
  const Shell shell;
  const std::string start = "generate" + with_model + " --prompt 'And God said' --tokens 60 --json";
  const auto text = [&](const std::string& more) { return Json::parse(shell.accepts(start + more))["text"]; };
  const Json greedy = text("");
  CHECK(text(" --self-contrast --beta 0") == greedy);
  CHECK(text(" --self-contrast --alpha 1") == greedy);
  CHECK(text(" --self-contrast --beta 2 --strong trained --weak top2") == greedy);
  CHECK(text(" --self-contrast --beta 2") != greedy);
  const Json figures = Json::parse(shell.accepts(start + " --self-contrast --weak rank3"));
  CHECK(figures["self_contrast"]["weak"] == "rank3");
  CHECK(figures["self_contrast"]["alpha"].get<double>() == doctest::Approx(0.1));
  CHECK(figures["experts_per_token"] == 1.5);  // of two rows for each token
  const std::string random = " --self-contrast --beta 2 --weak random --seed ";
  CHECK(text(random + "1") == text(random + "1"));
  CHECK(text(random + "1") != text(random + "2"));
  shell.refuses(start + " --self-contrast --weak worst", "rankR");
  shell.refuses(start + " --self-contrast --weak rank9", "rank");
  shell.refuses(start + " --self-contrast --alpha 0", "alpha");
  shell.refuses(start + " --self-contrast --beta -1", "beta");
  shell.refuses(start + " --self-contrast --policy top1", "--policy");
}

TEST_CASE("generate writes contrasted logits") {
  const Shell shell;
  shell.accepts("generate" + with_model + " --prompt Genesis --self-contrast --logits " + shell.path("logits"));
  const moe::io::SafetensorsFile file(shell.path("logits"));
  CHECK(file.at("logits").shape == std::vector<std::uint64_t>{7, 256});
  const std::vector<float> logits = tensor<float>(file, "logits");
  CHECK(std::count(logits.begin(), logits.end(), -HUGE_VALF) > 7 * 128);
}

TEST_CASE("calibrate_sensitivity writes what --policy reads") {
  const Shell shell;
  const std::string file = shell.path("S.json");
  const std::string start = "calibrate_sensitivity" + with_model + with_text + " --tokens 512 --out " + file;
  CHECK(io_test::contains(shell.accepts(start), "25.9 %"));
  const Json written = Json::parse(read_file(file)), printed = Json::parse(shell.accepts(start + " --json"));
  CHECK(written["layers"].size() == 6);
  CHECK(written["tokens"] == 512);
  CHECK(printed["layers"] == written["layers"]);  // the same seed, the same numbers
  CHECK(Json::parse(shell.accepts(start + " --json --seed 3"))["layers"] != written["layers"]);
  const std::string generate = "generate" + with_model + " --prompt 'And God said' --tokens 100 --json --policy ";
  const auto experts = [&](const std::string& policy) {
    return Json::parse(shell.accepts(generate + policy + "file=" + file))["experts_per_token"].get<double>();
  };
  const double some = experts("sensitivity:"), half = experts("skip:");
  CHECK(some > 1);
  CHECK(some < 2);
  CHECK(half > 1.2);
  CHECK(half < 1.8);
  CHECK(experts("sensitivity:T=0,") == 2);
  CHECK(experts("sensitivity:T=1e5,when=decode,") < 1.2);  // the prompt keeps two
  CHECK(experts("pruned:keep=1,") == 1);
  shell.refuses(start + " --window 1000", "512");
  shell.refuses("calibrate_sensitivity" + with_model + with_text + " --out /nowhere/S.json --tokens 64", "/nowhere");
  shell.refuses("calibrate_sensitivity" + with_model + " --text nowhere --out " + file, "nowhere");
}

TEST_CASE("compare_policies measures every policy in one table") {
  const Shell shell;
  const std::string start = "compare_policies" + with_model + with_text + " --tokens 512 --calibration-tokens 256" +
                            " --decode 8 --rounds 1 --adamoe " + (kjv / "adamoe").string();
  const Json json = Json::parse(shell.accepts(start + " --json"));
  const Json& policies = json["policies"];
  REQUIRE(policies.size() == 18);
  CHECK(json["scored_bytes"] == 512);
  std::vector<double> experts;
  for (const Json& line : policies) {
    CAPTURE(line.dump());
    CHECK(line["bits_per_byte"] > 0.5);
    CHECK(line["bits_per_byte"] < 8.0);
    CHECK(line["tokens_per_second"] > 0.0);
    CHECK(line["expert_flops_to_trained"].get<double>() ==
          doctest::Approx(line["experts_per_token"].get<double>() / 2));
    experts.push_back(line["experts_per_token"]);
  }
  CHECK(experts[0] == 2);
  CHECK(experts[1] == 1);
  CHECK(std::abs(experts[3] - 1.66) < 0.1);  // calibrated on another part of the text
  for (std::size_t i = 5; i < 10; ++i) CHECK(experts[i] <= experts[i - 1]);
  CHECK(experts[13] == 3);
  CHECK(json["self_contrast"]["fused_step_to_greedy"] > 0.0);

  // The second half of the text is scored, from its beginning, in windows of 512 that are read from their own.
  const std::string text = read_file(kjv / "validation.txt");
  std::vector<int> tokens;
  for (const char c : text.substr(text.size() / 2, 512)) tokens.push_back(static_cast<unsigned char>(c));
  const std::vector<float> logits = logits_of(engine::Model(kjv, {}), tokens);
  double bits = 0;
  for (std::size_t t = 0; t < 511; ++t) bits += engine::bits({logits.data() + 256 * t, 256}, tokens[t + 1]);
  CHECK(std::abs(policies[0]["bits_per_byte"].get<double>() - bits / 511) < 1e-9);

  const std::string table = shell.accepts(start);
  for (const char* part : {"top-2, as trained", "AdaMoE shifted", "SCMoE, beta=0.9", "the papers' own figures"}) {
    CHECK(io_test::contains(table, part));
  }
}

TEST_CASE("compare_policies refuses what it cannot compare") {
  const Shell shell;
  const std::string start = "compare_policies" + with_model;
  shell.refuses(start + " --text " + shell.write("short", "too short"), "at least 512 bytes");
  shell.refuses(start + with_text + " --sensitivity nowhere", "nowhere");
  shell.refuses(start + with_text + " --adamoe nowhere", "nowhere");
  shell.refuses("compare_policies --model " + (golden / "mixtral").string() + with_text, "256 bytes");
  shell.refuses(start + with_text + " --rounds 0", "--rounds");
}
