// calibrate_sensitivity: how much a model's loss minds its second experts, layer by layer, for adaptive routing.
#include <algorithm>
#include <iostream>
#include <span>

#include "calibration.hpp"
#include "command_line.hpp"
#include "progress.hpp"

namespace {

using namespace programs;

struct Arguments {
  ModelOptions model;
  std::string text, out;
  int tokens = 4096;
  engine::CalibrationOptions options;

  void add_to(CLI::App& app) {
    model.add_without_policy(app);
    app.add_option("--text", text, "File whose first bytes are the sample")->required();
    app.add_option("--out", out, "JSON file to write: what --policy of the other programs reads")->required();
    app.add_option("--tokens", tokens, "Size of the sample")->check(CLI::Range(2, 1 << 30))->capture_default_str();
    app.add_option("--window", options.window, "Tokens that are scored together")
        ->check(CLI::Range(2, 1 << 20))
        ->capture_default_str();
    app.add_option("--probes", options.probes, "Random directions for each window and layer")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--step", options.step, "Weight that is moved to take a derivative")
        ->check(CLI::Range(1e-4, 0.25))
        ->capture_default_str();
    app.add_option("--seed", options.seed, "Of the directions")->capture_default_str();
  }
};

Json result_as_json(const engine::Calibration& calibration, const Arguments& arguments, double seconds) {
  Json out = engine::calibration_as_json(calibration);
  out["model"] = arguments.model.model;
  out["text"] = arguments.text;
  out["estimator"] = "Fisher diagonal of the second expert's weight; central differences along random signs";
  out["window"] = arguments.options.window;
  out["probes"] = arguments.options.probes;
  out["step"] = arguments.options.step;
  out["seed"] = arguments.options.seed;
  out["seconds"] = seconds;
  return out;
}

void print_text(const engine::Calibration& calibration, double seconds) {
  std::cout << "layer  sensitivity  tau at T  second/first (median)\n";
  for (const engine::LayerCalibration& l : calibration.layers) {
    const auto sensitivity = static_cast<double>(l.sensitivity);
    std::printf("%5d  %11.5f  %8.4f  %21.4f\n", l.layer, sensitivity,
                static_cast<double>(moe::sensitivity_threshold(calibration.budget, l.sensitivity)),
                static_cast<double>(l.beta));
  }
  std::cout << "T = " << calibration.budget << " leaves " << number_text(100 * engine::Calibration::single_share, 1)
            << " % of the sample with one expert; " << calibration.tokens << " tokens, " << number_text(seconds, 1)
            << " s\n";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Measures on a text the sensitivity of every layer (AdapMoE), the ratio of second to first weights (expert "
      "skipping) and how often each expert is picked (pruning).",
      "calibrate_sensitivity");
  Arguments arguments;
  arguments.add_to(app);
  return programs::run(app, argc, argv, [&] {
    const std::vector<int> text = read_tokens(arguments.text, static_cast<std::size_t>(arguments.options.window));
    engine::Model model = arguments.model.load();
    require_bytes_as_tokens(model.config(), "a text cannot be read for it");
    const Stopwatch watch;
    Progress progress("calibrating");
    const auto sample = std::span(text).first(std::min(text.size(), static_cast<std::size_t>(arguments.tokens)));
    const engine::Calibration calibration = engine::calibrate(
        model, sample, arguments.options, [&](std::int64_t done, std::int64_t total) { progress.show(done, total); });
    const Json json = result_as_json(calibration, arguments, watch.seconds());
    write_file(arguments.out, json_text(json) + "\n");
    if (arguments.model.json) {
      std::cout << json_text(json) << "\n";
    } else {
      print_text(calibration, watch.seconds());
    }
  });
}
