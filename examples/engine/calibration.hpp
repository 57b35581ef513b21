// Calibration: what a model's routing looks like on a text, and how much its loss minds the second expert.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <moe/io/json.hpp>
#include <moe/io/model_config.hpp>
#include <span>
#include <string>
#include <vector>

#include "policy.hpp"

namespace engine {

class Model;

/// What was measured of one layer with experts.
struct LayerCalibration {
  int layer = 0;
  float sensitivity = 0;            // Fisher diagonal of the second expert's weight, per token
  float beta = 0;                   // median over tokens of the second weight over the first
  std::vector<std::int64_t> picks;  // [E] how often each expert was picked
};

struct Calibration {
  std::vector<LayerCalibration> layers;  // those with experts, ascending
  float budget = 0;                      // at which `single_share` of the measured tokens would use one expert
  std::int64_t tokens = 0;
  int decoder_layers = 0, experts = 0;  // of the model

  /// The share of (token, layer) pairs that AdapMoE's default T leaves one expert on its own model and text.
  static constexpr double single_share = 0.259;

  /// By layer of the decoder; 1 or nothing for layers without experts.
  PerLayer sensitivities() const;
  PerLayer betas() const;
  std::vector<std::vector<std::int64_t>> picks() const;
};

struct CalibrationOptions {
  int window = 64;  // tokens that are scored together; a perturbation is felt inside its window alone
  int probes = 2;   // per window and layer
  float step = 0.02f;
  std::uint64_t seed = 0;
};

/// Measures S_l = E[(dL / dg_t)^2] for each layer l, the empirical Fisher diagonal that AdapMoE's gate divides by: L is
/// the loss of a window in nats, summed over its tokens, and g_t the weight of token t's second expert, which its first
/// one pays for. By central differences along random signs (Spall 1992): all tokens of a window move their g_t by
/// +-step at layer l, with signs s_t; (L+ - L-) / (2 step) is sum_t s_t dL/dg_t, and the mean of its square over signs
/// is sum_t (dL/dg_t)^2. Relative standard error about sqrt(2 / (windows * probes)).
///
/// Costs 1 + 2 * layers * probes passes over `text`, whose tail that fills no window is left out. Leaves the model's
/// policy as it was; its loads are reset. Throws moe::Error unless the model gives each token at least two experts and
/// the text fills a window.
Calibration calibrate(Model& model, std::span<const int> text, const CalibrationOptions& options,
                      const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

moe::io::Json calibration_as_json(const Calibration& calibration);
/// Throws moe::IoError for a file that is malformed or of another kind of model.
Calibration load_calibration(const std::filesystem::path& file, const moe::io::ModelConfig& config);

}  // namespace engine
