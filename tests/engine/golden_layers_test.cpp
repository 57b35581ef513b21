// run_layer on every golden case: all families, executors and instruction sets, within the bounds of golden/README.md.
#include <sys/wait.h>

#include <cstdlib>
#include <map>
#include <set>

#include "cpu/isas.hpp"
#include "support.hpp"

using namespace engine_test;
using moe::io::Json;
using moe::io::SafetensorsFile;

namespace {

constexpr double bound = 2e-5;

struct GoldenFile {
  std::filesystem::path io;
  int layer = 0;
  bool bf16_weights = false;  // in a file beside the config
};

std::vector<GoldenFile> golden_files() {
  std::vector<GoldenFile> all;
  for (const auto& folder : std::filesystem::directory_iterator(golden)) {
    if (!std::filesystem::exists(folder.path() / "case.json")) continue;
    const int layer = Json::parse(read_file(folder.path() / "case.json"))["layer"];
    for (const auto& file : std::filesystem::directory_iterator(folder.path())) {
      const std::string name = file.path().filename().string();
      if (name.starts_with("io") && name.ends_with(".safetensors"))
        all.push_back({file.path(), layer, name.find("bf16") != std::string::npos});
    }
  }
  std::sort(all.begin(), all.end(), [](const GoldenFile& a, const GoldenFile& b) { return a.io < b.io; });
  return all;
}

/// Every instruction set and Eigen.
std::vector<std::string> ways_to_compute() {
  std::vector<std::string> ways{" --executor eigen"};
  for (const moe::Isa isa : available_isas()) ways.push_back(" --threads 1 --isa " + std::string(moe::isa_name(isa)));
  return ways;
}

class RunLayer {
 public:
  /// The message on stderr; empty if it ran.
  std::string run(const std::string& arguments) const {
    const std::string command = moe::concat(MOE_BIN_DIR, "/run_layer ", arguments, " --out ", out().string(),
                                            " >/dev/null 2>", (folder_.path() / "err").string());
    const int status = std::system(command.c_str());
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    return moe::concat("failed: ", read_file(folder_.path() / "err"));
  }
  std::string run(const GoldenFile& file, const std::string& more) const {
    return run(moe::concat("--model ", file.io.parent_path().string(), " --io ", file.io.string(),
                           file.bf16_weights ? " --weights model.bf16.safetensors" : "", more));
  }
  std::filesystem::path out() const { return folder_.path() / "out"; }

 private:
  TemporaryFolder folder_;
};

using Choice = std::map<std::int64_t, float>;

std::vector<Choice> choices(const SafetensorsFile& file) {
  const std::vector<std::int64_t> ids = tensor<std::int64_t>(file, "topk_ids");
  const std::vector<float> weights = tensor<float>(file, "topk_weights");
  const std::vector<std::uint64_t>& shape = file.at("topk_ids").shape;
  const auto slots = static_cast<std::size_t>(shape[1]);
  std::vector<Choice> rows(static_cast<std::size_t>(shape[0]));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0)
      rows[i / slots][ids[i]] = weights[i];
    else
      REQUIRE(weights[i] == 0);
  }
  return rows;
}

/// The same experts, and each one's weight to within the bound of the row's largest.
void check_choices(const SafetensorsFile& found, const SafetensorsFile& expected) {
  CHECK(found.at("topk_ids").shape == expected.at("topk_ids").shape);
  const std::vector<Choice> a = choices(found), b = choices(expected);
  REQUIRE(a.size() == b.size());
  for (std::size_t t = 0; t < a.size(); ++t) {
    CAPTURE(t);
    REQUIRE(a[t].size() == b[t].size());
    float largest = 0;
    for (const auto& [id, weight] : b[t]) largest = std::max(largest, weight);
    for (const auto& [id, weight] : b[t]) {
      REQUIRE(a[t].count(id) == 1);
      CHECK(std::abs(a[t].at(id) - weight) <= static_cast<float>(bound) * largest);
    }
  }
}

/// All that the case gives; the difference of the output.
double check_results(const std::filesystem::path& found_path, const std::filesystem::path& expected_path) {
  const SafetensorsFile found(found_path), expected(expected_path);
  check_choices(found, expected);
  const auto off = [&](const char* name) {
    return difference(tensor<float>(found, name), tensor<float>(expected, name));
  };
  for (const char* name : {"router_logits", "router_state_out", "coefficient"}) {
    CAPTURE(name);
    if (expected.find(name) != nullptr) CHECK(off(name) <= bound);
  }
  const double output = off("output");
  CHECK(output <= bound);
  return output;
}

}  // namespace

TEST_CASE("every golden case comes out with every executor and instruction set") {
  const RunLayer program;
  const std::vector<GoldenFile> files = golden_files();
  std::set<std::filesystem::path> cases;
  double worst = 0;
  for (const GoldenFile& file : files) {
    CAPTURE(file.io.string());
    cases.insert(file.io.parent_path());
    for (const std::string& way : ways_to_compute()) {
      CAPTURE(way);
      // The cases are in float32, whatever numbers the weights were rounded to before.
      REQUIRE(program.run(file, moe::concat(way, " --layer ", file.layer)) == "");
      worst = std::max(worst, check_results(program.out(), file.io));
    }
  }
  MESSAGE(cases.size(), " cases, ", files.size(), " files; outputs differ by at most ", worst);
  CHECK(cases.size() >= 46);
}

TEST_CASE("without --layer the first layer with experts is run") {
  const RunLayer program;
  for (const GoldenFile& file : golden_files()) {
    if (file.io.filename() != "io.safetensors") continue;
    CAPTURE(file.io.string());
    REQUIRE(program.run(file, " --threads 1") == "");
    check_results(program.out(), file.io);
  }
}

TEST_CASE("MXFP4 experts kept in MXFP4 give the bits that they give as floats") {
  const RunLayer program;
  const GoldenFile file{golden / "gpt_oss_mxfp4/io.safetensors"};
  const auto output = [&](const std::string& arguments) {
    REQUIRE(program.run(file, arguments) == "");
    return tensor<float>(SafetensorsFile(program.out()), "output");
  };
  const std::vector<float> floats = output(" --format f32");
  CHECK(difference(output(" --format mxfp4"), floats) <= 1e-6);
  CHECK(same(output(" --format mxfp4"), output("")));  // what the checkpoint stores
}

TEST_CASE("a family's own inputs are asked for by name") {
  const RunLayer program;
  const auto folder = golden / "deepseek_v4_hash";
  const std::string io = (golden / "deepseek_v4/io.safetensors").string();
  const std::string message = program.run(moe::concat("--model ", folder.string(), " --layer 0 --io ", io));
  CHECK(io_test::contains(message, "token_ids"));
}
