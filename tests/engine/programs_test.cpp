// The programs as a user runs them: help, good runs, and bad input with its message and exit status.
#include <map>
#include <memory>
#include <moe/io/checkpoint.hpp>
#include <moe/io/xxh3.hpp>
#include <moe/storage/file.hpp>
#include <set>

#include "cpu/isas.hpp"
#include "damage.hpp"
#include "shell.hpp"

using namespace engine_test;
using moe::io::Json;

namespace {

std::string model(const std::string& family) { return " --model " + (golden / family).string(); }

/// The experts of `byte_model` as a record file.
void pack_byte_model(const std::string& folder, const std::string& file) {
  const auto checkpoint = std::make_shared<const moe::io::Checkpoint>(folder);
  const std::vector<moe::io::CheckpointExperts<moe::f32>> layers{{checkpoint, 0}, {checkpoint, 1}};
  moe::write_records<moe::io::CheckpointExperts<moe::f32>>(file, layers, moe::io::Xxh3{});
}

// ---- results of run_layer against a golden case

using Choice = std::map<std::int64_t, float>;

/// The chosen experts of a row with their weights.
std::vector<Choice> choices(const moe::io::SafetensorsFile& file) {
  const std::vector<std::int64_t> ids = tensor<std::int64_t>(file, "topk_ids");
  const std::vector<float> weights = tensor<float>(file, "topk_weights");
  const std::size_t slots = static_cast<std::size_t>(file.at("topk_ids").shape[1]);
  std::vector<Choice> rows(ids.size() / slots);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0) rows[i / slots][ids[i]] = weights[i];
  }
  return rows;
}

void check_choices(const Choice& found, const Choice& expected) {
  REQUIRE(found.size() == expected.size());
  float largest = 0;
  for (const auto& [id, weight] : expected) largest = std::max(largest, weight);
  for (const auto& [id, weight] : expected) {
    REQUIRE(found.count(id) == 1);
    CHECK(std::abs(found.at(id) - weight) <= 2e-5f * largest);
  }
}

void check_layer(const std::string& found_path, const std::filesystem::path& expected_path) {
  const moe::io::SafetensorsFile found(found_path), expected(expected_path);
  const auto off = [&](const char* name) {
    return difference(tensor<float>(found, name), tensor<float>(expected, name));
  };
  CHECK(off("router_logits") <= 2e-5);
  const double output = off("output");
  MESSAGE(expected_path.parent_path().filename().string(), "/", expected_path.filename().string(),
          " output differs by ", output);
  CHECK(output <= 2e-5);
  CHECK(found.at("topk_ids").shape == expected.at("topk_ids").shape);
  const std::vector<Choice> a = choices(found), b = choices(expected);
  REQUIRE(a.size() == b.size());
  for (std::size_t t = 0; t < a.size(); ++t) check_choices(a[t], b[t]);
}

std::vector<std::string> ways_to_compute() {
  std::vector<std::string> ways{" --executor eigen"};
  for (const moe::Isa isa : available_isas())
    ways.push_back(" --executor cpu --isa " + std::string(moe::isa_name(isa)));
  return ways;
}

}  // namespace

TEST_CASE("every program explains itself") {
  const Shell shell;
  for (const std::string program :
       {"generate", "perplexity", "inspect", "run_layer", "calibrate_sensitivity", "compare_policies"}) {
    CAPTURE(program);
    CHECK(io_test::contains(shell.accepts(program + " --help"), "Usage: " + program));
    shell.refuses(program, "required");
    shell.refuses(program + " --no-such-option", "");
  }
}

// ---- run_layer

TEST_CASE("run_layer reproduces all golden cases, on every instruction set and with Eigen") {
  const Shell shell;
  for (const std::string family : {"mixtral", "qwen3_moe", "olmoe"}) {
    for (const std::string io : {"io", "io_t1", "io_bf16"}) {
      for (const std::string& way : ways_to_compute()) {
        CAPTURE(family);
        CAPTURE(io);
        CAPTURE(way);
        const std::filesystem::path expected = golden / family / (io + ".safetensors");
        const std::string weights = io == "io_bf16" ? " --weights model.bf16.safetensors" : "";
        shell.accepts("run_layer" + model(family) + " --io " + expected.string() + " --out " + shell.path("out") + way +
                      weights);
        check_layer(shell.path("out"), expected);
      }
    }
  }
}

TEST_CASE("run_layer finds weights from here and from the model's directory") {
  const Shell shell;
  const std::filesystem::path io = golden / "olmoe/io_bf16.safetensors";
  const std::string rest = "run_layer" + model("olmoe") + " --io " + io.string() + " --out " + shell.path("out");
  shell.accepts(rest + " --layer 0 --weights " + (golden / "olmoe/model.bf16.safetensors").string());
  check_layer(shell.path("out"), io);
  shell.refuses(rest + " --weights nowhere.safetensors", "nowhere.safetensors");
}

TEST_CASE("run_layer refuses what does not fit") {
  const Shell shell;
  const std::string io = " --io " + (golden / "mixtral/io.safetensors").string(), out = " --out " + shell.path("out");
  shell.refuses("run_layer" + model("mixtral") + io + out + " --layer 2", "layer");
  shell.refuses("run_layer" + model("mixtral") + io + out + " --layer -1", "--layer");
  shell.refuses("run_layer" + model("mixtral") + io + out + " --isa sse9", "one of scalar, avx2, avx512");
  shell.refuses("run_layer" + model("mixtral") + io + out + " --executor gpu", "--executor");
  shell.refuses("run_layer" + model("mixtral") + io + out + " --format q3", "f32, bf16, f16, q8_0, mxfp4 or q4_0");
  shell.refuses("run_layer --model nowhere" + io + out, "nowhere/config.json");
  shell.refuses("run_layer" + model("mixtral") + io + " --out /nowhere/out", "/nowhere/out");
  shell.refuses("run_layer" + model("mixtral") + " --io " + (golden / "mixtral/full.safetensors").string() + out,
                "\"input\"");
  const std::vector<float> narrow(2 * 63);
  const moe::io::TensorData tensor{"input", moe::io::Dtype::F32, {2, 63}, std::as_bytes(std::span(narrow))};
  moe::io::write_safetensors(shell.path("narrow"), std::span(&tensor, 1));
  shell.refuses("run_layer" + model("mixtral") + " --io " + shell.path("narrow") + out, "[T, 64]");
  CHECK(!std::filesystem::exists(shell.path("out")));
}

// ---- generate

TEST_CASE("generate writes logits that agree with the reference") {
  const Shell shell;
  for (const std::string family : {"mixtral", "qwen3_moe", "olmoe"}) {
    CAPTURE(family);
    const moe::io::SafetensorsFile full(golden / family / "full.safetensors");
    std::string ids;
    for (const int id : token_ids(full)) ids += std::to_string(id) + (ids.size() % 3 == 0 ? "\n" : "\t ");
    const std::string arguments = "generate" + model(family) + " --token-ids " + shell.write("ids", ids);
    CHECK(shell.accepts(arguments + " --logits " + shell.path("logits")).empty());
    const moe::io::SafetensorsFile written(shell.path("logits"));
    CHECK(written.at("logits").shape == std::vector<std::uint64_t>{24, 48});
    CHECK(difference(tensor<float>(written, "logits"), tensor<float>(full, "logits")) <= 2e-5);
  }
}

TEST_CASE("generate writes the same text for every storage and number of threads") {
  const Shell shell;
  const std::string start = "generate --model " + shell.byte_model() + " --prompt 'In the beginning' --tokens 90";
  const std::string text = shell.accepts(start + " --temperature 1 --seed 4");
  CHECK(text.starts_with("In the beginning"));
  CHECK(text.size() == 16 + 90 + 1);
  CHECK(shell.accepts(start + " --temperature 1 --seed 4 --storage cached:16K --threads 3") == text);
  CHECK(shell.accepts(start + " --temperature 1 --seed 5") != text);
  CHECK(shell.accepts(start) == shell.accepts(start + " --seed 9"));
}

TEST_CASE("generate tells people and machines what it did") {
  const Shell shell;
  const std::string start = "generate --model " + shell.byte_model() + " --prompt abc --tokens 20 --storage cached:50K";
  const Outcome people = shell.run(start);
  for (const char* part : {"tokens/s", "2.00 experts per token", "read", "hit rate", "load of the experts"}) {
    CAPTURE(part);
    CHECK(io_test::contains(people.err, part));
  }
  CHECK(!io_test::contains(people.err, "\r"));  // no bar without a terminal
  const Json json = Json::parse(shell.accepts(start + " --json"));
  CHECK(json["family"] == "mixtral");
  CHECK(json["prompt"] == "abc");
  CHECK(json["token_ids"].size() == 20);
  CHECK(json["tokens_per_second"] > 0);
  CHECK(json["experts_per_token"] == 2.0);
  CHECK(json["bytes_read"] > 0);
  CHECK(json["hits"].get<int>() + json["misses"].get<int>() > 0);
  CHECK(json["expert_load"].size() == 2);
  CHECK(json["expert_load"][0]["picks"].size() == 6);
}

TEST_CASE("generate writes the same text however its experts are offloaded, and accounts for it") {
  const Shell shell;
  const std::string folder = shell.byte_model();
  const std::string start = "generate --json --model " + folder + " --prompt 'In the beginning' --tokens 40 --storage ";
  const auto json_of = [&](const std::string& storage) { return Json::parse(shell.accepts(start + storage)); };
  const Json resident = json_of("resident");
  CHECK(resident["hit_rate"] == 1.0);
  CHECK(resident["loads"] == 0);
  CHECK(resident["repacks"] == false);
  const std::string file = shell.path("experts");
  pack_byte_model(folder, file);
  for (const std::string storage : {"cached:50K --eviction lfu --prefetch enforce", "cached:50K/80K --eviction hobbit",
                                    "cached:100K --per-layer --staging 1 --prefetch enforce --predictor token-table",
                                    "cached:100K --allocation 1,2 --staging 1", "ring:layers=1", "ring:1M"}) {
    CAPTURE(storage);
    const Json packed = json_of(storage + " --experts-file " + file), unpacked = json_of(storage);
    CHECK(unpacked["text"] == resident["text"]);
    CHECK(packed["text"] == resident["text"]);
    CHECK(unpacked["bytes_loaded"] > 0);
    CHECK(unpacked["repacks"] == true);
    CHECK(packed["repacks"] == false);
  }
  CHECK(json_of("cached:50K --prefetch observe")["predictor_recall"] > 0.0);
  const Json mixed = json_of("cached:100K --low-precision q4_0 --thresholds 0.4,0.9");
  CHECK(mixed["loads_by_format"][1] > 0);
}

TEST_CASE("a flipped bit in a record file ends a program with file, expert and layer, and no result") {
  const Shell shell;
  const std::string folder = shell.byte_model(), file = shell.path("experts");
  pack_byte_model(folder, file);
  const std::string with_file = " --json --model " + folder + " --experts-file " + file + " --storage ";
  const std::string generate = "generate --prompt 'In the beginning' --tokens 40" + with_file;
  const std::string score = "perplexity --text " + shell.write("text", "In the beginning God created") + with_file;
  for (const std::string& program : {generate, score}) CHECK(!shell.accepts(program + "cached:50K").empty());
  damage(file, 1, 2);
  for (const std::string& program : {generate, score})
    for (const char* storage : {"resident", "cached:50K", "ring:1M"})
      shell.refuses(program + storage, file + ": checksum of expert 2 of layer 1 in f32");
}

TEST_CASE("generate says how experts were offloaded, all figures together") {
  const Shell shell;
  const std::string start = "generate --model " + shell.byte_model() + " --prompt abc --tokens 20";
  const std::string cached = shell.run(start + " --storage cached:50K --prefetch enforce").err;
  for (const char* part : {"waited", "hits", "misses", "skipped", "evictions", "prefetched", "wasted", "precision",
                           "recall", "pack_experts"}) {
    CAPTURE(part);
    CHECK(io_test::contains(cached, part));
  }
  CHECK(!io_test::contains(shell.run(start).err, "pack_experts"));
  shell.refuses(start + " --eviction best --storage cached:50K", "--eviction");
  shell.refuses(start + " --prefetch enforce", "--prefetch needs --storage cached:BYTES");
  shell.refuses(start + " --storage cached:50K --allocation 1,x", "--allocation");
  shell.refuses(start + " --storage cached:50K --low-precision f16", "q4_0");
  shell.refuses(start + " --storage cached:50K --thresholds 0.5", "--thresholds");
}

TEST_CASE("generate refuses what it cannot do, and says what would do") {
  const Shell shell;
  const std::string ids = " --token-ids " + shell.write("ids", "1 2 3"), start = "generate" + model("mixtral");
  shell.refuses(start + " --prompt hello", "--token-ids");
  shell.refuses(start, "--prompt or --token-ids");
  shell.refuses(start + ids + " --prompt hello", "--prompt or --token-ids");
  shell.refuses(start + " --token-ids nowhere", "nowhere");
  shell.refuses(start + " --token-ids " + shell.write("bad", "1 2x 3"), "token id number 1");
  shell.refuses(start + " --token-ids " + shell.write("big", "1 99999999999 3"), "token id number 1");
  shell.refuses(start + " --token-ids " + shell.write("empty", " \n"), "empty");
  shell.refuses(start + " --logits " + shell.path("out") + " --token-ids " + shell.write("outside", "48"), "0 to 47");
  shell.refuses(start + ids + " --logits /nowhere/out", "/nowhere/out");
  shell.refuses(start + " --token-ids " + shell.path("outside"), "0 to 47");
  shell.refuses(start + ids + " --storage disk", "resident or cached:BYTES");
  shell.refuses(start + ids + " --storage cached:1K", "at least 1 of ");
  shell.refuses(start + ids + " --format int4", "f32, bf16, f16, q8_0, mxfp4 or q4_0");
  shell.refuses(start + ids + " --temperature -1", "--temperature");
  shell.refuses(start + ids + " --threads -1", "--threads");
  shell.refuses(start + ids + " --tokens x", "--tokens");
  shell.refuses("generate --model nowhere" + ids, "nowhere/config.json");
}

TEST_CASE("generate ends with a message where the model's positions end") {
  const Shell shell;
  const std::string ids = " --token-ids " + shell.write("ids", "5 6 7 8");
  const Outcome o = shell.run("generate" + model("olmoe") + ids + " --tokens 100");
  CHECK((o.status == 0 || (o.status == 1 && io_test::contains(o.err, "at most 64"))));  // or the end token came
  const Outcome none = shell.run("generate" + model("olmoe") + ids + " --tokens 0");
  CHECK(none.status == 0);
  CHECK(none.out.empty());
}

// ---- perplexity

TEST_CASE("perplexity scores every byte but the first once, in windows") {
  const Shell shell;
  const std::string folder = shell.byte_model();
  std::string text;
  for (int i = 0; i < 150; ++i) text += static_cast<char>('a' + i * i % 26);
  const std::string start = "perplexity --json --model " + folder + " --text " + shell.write("text", text);
  const Json json = Json::parse(shell.accepts(start + " --context 40 --stride 30"));
  CHECK(json["scored_bytes"] == 149);
  CHECK(json["windows"] == 5);

  const engine::Model model(folder, {});
  engine::Sequence sequence(model);
  double bits = 0;
  for (int begin = 0, scored = 1; scored < 150; begin += 30) {
    const int end = std::min(begin + 40, 150);
    std::vector<int> window(text.begin() + begin, text.begin() + end);
    const std::vector<float> logits = logits_in_steps(sequence, window, window.size());
    for (; scored < end; ++scored) {
      const std::span<const float> row =
          std::span(logits).subspan(static_cast<std::size_t>(scored - begin - 1) * 256, 256);
      double sum = 0;
      for (const float logit : row) sum += std::exp(double{logit});
      bits += std::log2(sum / std::exp(double{row[static_cast<std::size_t>(text[static_cast<std::size_t>(scored)])]}));
    }
  }
  CHECK(std::abs(json["bits_per_byte"].get<double>() - bits / 149) < 1e-6);
  CHECK(io_test::contains(shell.accepts("perplexity --model " + folder + " --text " + shell.path("text")),
                          " bits per byte over 149 bytes"));
  const Json defaults = Json::parse(shell.accepts(start));
  CHECK(defaults["context"] == 64);
  CHECK(defaults["stride"] == 32);
}

TEST_CASE("perplexity is the same however many tokens are read at a time") {
  const Shell shell;
  const std::string start = "perplexity --json --model " + shell.byte_model() + " --context 20 --stride 15 --text " +
                            shell.write("text", "In the beginning God created the heaven and the earth.");
  const Json whole = Json::parse(shell.accepts(start));
  for (const char* step : {"1", "7", "100"}) {
    const Json json = Json::parse(shell.accepts(start + " --step " + step));
    CHECK(json["bits_per_byte"] == whole["bits_per_byte"]);
    CHECK(json["scored_bytes"] == whole["scored_bytes"]);
  }
}

TEST_CASE("perplexity refuses what it cannot score") {
  const Shell shell;
  const std::string text = " --text " + shell.write("text", "some text");
  shell.refuses("perplexity" + model("mixtral") + text, "256 bytes");
  const std::string start = "perplexity --model " + shell.byte_model();
  shell.refuses(start + " --text nowhere", "nowhere");
  shell.refuses(start + " --text " + shell.write("short", "x"), "at least 2 bytes");
  shell.refuses(start + text + " --context 1", "--context");
  shell.refuses(start + text + " --context 10 --stride 10", "--stride");
  shell.refuses(start + text + " --context -5", "--context");
}

// ---- inspect

TEST_CASE("inspect prints a model, a file and an index") {
  const Shell shell;
  const std::string text = shell.accepts("inspect " + (golden / "qwen3_moe").string());
  for (const char* part : {"qwen3_moe", "12 a layer", "8 a token", "f32", "bytes"})
    CHECK(io_test::contains(text, part));
  const Json json = Json::parse(shell.accepts("inspect --json " + (golden / "mixtral").string()));
  CHECK(json["family"] == "mixtral");
  CHECK(json["layers"] == 2);
  CHECK(json["experts"] == 8);
  CHECK(json["experts_per_token"] == 2);
  CHECK(json["bytes_per_expert"] == 3 * 40 * 64 * 4);
  CHECK(json["bytes_of_experts"] == 2 * 8 * 3 * 40 * 64 * 4);
  CHECK(json["format"] == "f32");
  CHECK(json["tensors"].size() == 65);
  const std::string file = (golden / "olmoe/io_t1.safetensors").string();
  CHECK(io_test::contains(shell.accepts("inspect " + file), "router_logits  F32 [1, 12]"));
  std::filesystem::copy(golden / "olmoe/io_t1.safetensors", shell.path("one.safetensors"));
  Json index;
  for (const char* name : {"input", "output", "router_logits", "topk_ids", "topk_weights"}) {
    index["weight_map"][name] = "one.safetensors";
  }
  CHECK(io_test::contains(shell.accepts("inspect " + shell.write("all.index.json", index.dump())),
                          "5 tensors in 1 file"));
}

TEST_CASE("inspect refuses bad files with one message") {
  const Shell shell;
  shell.refuses("inspect nowhere", "nowhere");
  shell.refuses("inspect " + shell.write("cut.safetensors", "\x08"), "cut.safetensors");
  const std::string whole = read_file(golden / "mixtral/model.safetensors");
  shell.refuses("inspect " + shell.write("short.safetensors", whole.substr(0, whole.size() - 1)), "short.safetensors");
  std::filesystem::create_directory(shell.path("model"));
  shell.refuses("inspect " + shell.path("model"), "config.json");
  std::filesystem::copy(golden / "mixtral/config.json", shell.path("model/config.json"));
  shell.refuses("inspect " + shell.path("model"), "model.safetensors");
  std::filesystem::copy(golden / "olmoe/model.safetensors", shell.path("model/model.safetensors"));
  const Outcome o = shell.run("inspect " + shell.path("model"));
  CHECK(o.status == 1);
  CHECK(std::count(o.err.begin(), o.err.end(), '\n') == 1);
  CHECK(io_test::contains(o.err, "block_sparse_moe"));
}

TEST_CASE("a gate with NaN is refused by every program that reads the model") {
  const Shell shell;
  std::filesystem::create_directory(shell.path("model"));
  std::filesystem::copy(golden / "mixtral/config.json", shell.path("model/config.json"));
  std::filesystem::copy(golden / "mixtral/model.safetensors", shell.path("model/model.safetensors"));
  {
    const moe::io::SafetensorsFile file(shell.path("model/model.safetensors"));
    const std::uint64_t at = file.at("model.layers.1.block_sparse_moe.gate.weight").offset;
    std::fstream stream(shell.path("model/model.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(static_cast<std::streamoff>(at) + 8);
    const float nan = std::nanf("");
    stream.write(reinterpret_cast<const char*>(&nan), sizeof nan);
  }
  shell.refuses("inspect " + shell.path("model"), "[0, 2]");
  shell.refuses("generate --model " + shell.path("model") + " --token-ids " + shell.write("ids", "1"), "[0, 2]");
  shell.refuses("run_layer --layer 1 --model " + shell.path("model") + " --io " +
                    (golden / "mixtral/io.safetensors").string() + " --out " + shell.path("out"),
                "[0, 2]");
}
