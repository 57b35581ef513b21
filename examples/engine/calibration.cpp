#include "calibration.hpp"

#include <algorithm>
#include <limits>
#include <moe/io/text.hpp>

#include "loss.hpp"
#include "model.hpp"
#include "sequence.hpp"

namespace engine {

PerLayer Calibration::sensitivities() const {
  PerLayer all(static_cast<std::size_t>(decoder_layers), 1.0f);
  for (const LayerCalibration& l : layers) all[static_cast<std::size_t>(l.layer)] = l.sensitivity;
  return all;
}
PerLayer Calibration::betas() const {
  PerLayer all(static_cast<std::size_t>(decoder_layers), 0.0f);
  for (const LayerCalibration& l : layers) all[static_cast<std::size_t>(l.layer)] = l.beta;
  return all;
}
std::vector<std::vector<std::int64_t>> Calibration::picks() const {
  std::vector<std::vector<std::int64_t>> all(static_cast<std::size_t>(decoder_layers),
                                             std::vector<std::int64_t>(static_cast<std::size_t>(experts)));
  for (const LayerCalibration& l : layers) all[static_cast<std::size_t>(l.layer)] = l.picks;
  return all;
}

// ---- measuring

namespace {

/// The weights of first and second experts, [layer][token].
struct Weights {
  std::vector<std::vector<float>> shares;  // of the second in both
  std::vector<std::vector<float>> ratios;  // of the second to the first

  explicit Weights(int layers) : shares(static_cast<std::size_t>(layers)), ratios(shares) {}
  void add(int layer, const moe::Frame<>& frame) {
    for (int t = 0; t < frame.dims.tokens; ++t) {
      if (frame.table.size(t) < 2) continue;
      const moe::Row<moe::Slot> row = frame.table.slots.row(t);
      shares[static_cast<std::size_t>(layer)].push_back(row[1].weight / (row[0].weight + row[1].weight));
      ratios[static_cast<std::size_t>(layer)].push_back(row[1].weight / row[0].weight);
    }
  }
};

/// The value below which `share` of the values lie.
template <class Number>
Number quantile(std::vector<Number> values, double share) {
  if (values.empty()) return 0;
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

class Calibrator {
 public:
  Calibrator(Model& model, std::span<const int> text, const CalibrationOptions& options,
             const std::function<void(std::int64_t, std::int64_t)>& progress)
      : model_(model),
        text_(text),
        options_(options),
        progress_(progress),
        windows_(text.size() / static_cast<std::size_t>(std::max(2, options.window))) {
    const moe::io::ModelConfig& c = model.config();
    constexpr const char* where = "engine::calibrate";
    if (options.window < 2) moe::raise(moe::Error(where, "window", "at least 2", std::to_string(options.window)));
    if (windows_ == 0) {
      moe::raise(moe::Error(where, "tokens", moe::concat("at least ", options.window), std::to_string(text.size())));
    }
    if (c.experts_per_token() < 2 || model.experts().nulls().count > 0) {
      moe::raise(moe::Error(where, "model", "two experts or more for every token", "another one"));
    }
  }

  Calibration run() {
    const moe::io::ModelConfig& c = model_.config();
    Calibration result{{}, 0, static_cast<std::int64_t>(windows_) * options_.window, c.layers(), c.experts()};
    const std::vector<LayerLoad>& loads = model_.experts().loads();
    total_ = 1 + static_cast<std::int64_t>(loads.size());
    const Weights weights = trace();
    for (const LayerLoad& load : loads) {
      result.layers.push_back(
          {load.layer, 0, quantile(weights.ratios[static_cast<std::size_t>(load.layer)], 0.5), load.picks});
    }
    std::vector<double> costs;  // S g^2 of every token and layer: the T from which on it keeps one expert
    for (LayerCalibration& layer : result.layers) {
      layer.sensitivity = static_cast<float>(sensitivity(layer.layer));
      for (const float share : weights.shares[static_cast<std::size_t>(layer.layer)]) {
        costs.push_back(static_cast<double>(layer.sensitivity) * static_cast<double>(share) *
                        static_cast<double>(share));
      }
    }
    result.budget = static_cast<float>(quantile(std::move(costs), Calibration::single_share));
    return result;
  }

 private:
  Weights trace() {
    Weights weights(model_.config().layers());
    model_.experts().reset_loads();
    model_.experts().observe([&](int layer, const moe::Frame<>& frame) { weights.add(layer, frame); });
    for (std::size_t w = 0; w < windows_; ++w) loss(w, 0);
    model_.experts().observe({});
    step();
    return weights;
  }

  double sensitivity(int layer) {
    const auto probes = static_cast<std::size_t>(options_.probes);
    std::vector<double> losses;
    for (const float sign : {1.0f, -1.0f}) {
      model_.experts().set_policy(MovedWeight{layer, sign * options_.step});
      for (std::size_t i = 0; i < windows_ * probes; ++i) losses.push_back(loss(i / probes, 1 + i));
    }
    double sum = 0;
    for (std::size_t i = 0; i < windows_ * probes; ++i) {
      const double slope = (losses[i] - losses[windows_ * probes + i]) / (2 * static_cast<double>(options_.step));
      sum += slope * slope;
    }
    step();
    return sum / static_cast<double>(windows_ * probes) / (options_.window - 1);  // the last token is only predicted
  }

  /// Of one window, in nats.
  double loss(std::size_t window, std::size_t coins) {
    const auto size = static_cast<std::size_t>(options_.window);
    const std::span<const int> tokens = text_.subspan(window * size, size);
    sequence_.restart();
    sequence_.set_seed(options_.seed + coins);
    const ConstRows logits = sequence_.append(tokens.first(size - 1), LogitsOf::every_token);
    double sum = 0;
    for (std::size_t i = 1; i < size; ++i) sum += nats(logits.row(static_cast<int>(i) - 1), tokens[i]);
    return sum;
  }
  void step() {
    if (progress_) progress_(++done_, total_);
  }

  Model& model_;
  std::span<const int> text_;
  const CalibrationOptions& options_;
  const std::function<void(std::int64_t, std::int64_t)>& progress_;
  std::size_t windows_;
  Sequence sequence_{model_};
  std::int64_t done_ = 0, total_ = 0;
};

}  // namespace

Calibration calibrate(Model& model, std::span<const int> text, const CalibrationOptions& options,
                      const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const Policy before = model.experts().policy();
  model.experts().set_policy(AsTrained{});
  Calibration result = Calibrator(model, text, options, progress).run();
  model.experts().set_policy(before);
  model.experts().reset_loads();
  return result;
}

// ---- the file

moe::io::Json calibration_as_json(const Calibration& calibration) {
  moe::io::Json layers = moe::io::Json::array();
  for (const LayerCalibration& l : calibration.layers) {
    layers.push_back({{"layer", l.layer}, {"sensitivity", l.sensitivity}, {"beta", l.beta}, {"picks", l.picks}});
  }
  return {{"budget", calibration.budget},
          {"tokens", calibration.tokens},
          {"decoder_layers", calibration.decoder_layers},
          {"experts", calibration.experts},
          {"layers", layers}};
}

namespace {

/// The first layer with experts from `layer` on; the number of layers if there is none.
int next_moe_layer(const moe::io::ModelConfig& config, int layer) {
  while (layer < config.layers() && !config.is_moe_layer(layer)) ++layer;
  return layer;
}

}  // namespace

Calibration load_calibration(const std::filesystem::path& file, const moe::io::ModelConfig& config) {
  using moe::io::ConfigReader;
  constexpr double most = std::numeric_limits<float>::max();
  constexpr int largest = std::numeric_limits<int>::max();
  const moe::io::Json root = moe::io::parse_json(moe::io::read_text(file, 16u << 20), file.string());
  const ConfigReader reader(root, file.string());
  Calibration result;
  result.budget = static_cast<float>(reader.number({"budget"}, 0, most));
  result.tokens = reader.integer({"tokens"}, 1, largest);
  result.decoder_layers = reader.integer({"decoder_layers"}, config.layers(), config.layers());
  result.experts = reader.integer({"experts"}, config.experts(), config.experts());
  const moe::io::Json* const layers = reader.find({"layers"});
  if (layers == nullptr || !layers->is_array()) reader.refuse("layers", "an array", "none");
  for (const moe::io::Json& entry : *layers) {
    const int expected = next_moe_layer(config, result.layers.empty() ? 0 : result.layers.back().layer + 1);
    if (!entry.is_object()) reader.refuse("layers", "objects", "another entry");
    const ConfigReader layer(entry, moe::concat(file.string(), ": in \"layers\""));
    result.layers.push_back({layer.integer({"layer"}, expected, std::min(expected, config.layers() - 1)),
                             static_cast<float>(layer.number({"sensitivity"}, 1e-30, most)),
                             static_cast<float>(layer.number({"beta"}, 0, most)),
                             {}});
    for (const int n : layer.integers("picks", 0, largest)) result.layers.back().picks.push_back(n);
    if (result.layers.back().picks.size() != static_cast<std::size_t>(config.experts())) {
      layer.refuse("picks", moe::concat(config.experts(), " counts"),
                   std::to_string(result.layers.back().picks.size()));
    }
  }
  if (next_moe_layer(config, result.layers.empty() ? 0 : result.layers.back().layer + 1) < config.layers()) {
    reader.refuse("layers", "an entry for every layer with experts", std::to_string(result.layers.size()));
  }
  return result;
}

}  // namespace engine
