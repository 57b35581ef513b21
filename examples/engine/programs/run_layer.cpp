// run_layer: one mixture-of-experts block of a checkpoint on given inputs; writes all that it decided and computed.
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <moe/executors/eigen.hpp>
#include <moe/io/checkpoint.hpp>
#include <moe/io/safetensors.hpp>
#include <moe/storage/resident.hpp>
#include <span>
#include <vector>

#include "command_line.hpp"
#include "families.hpp"

namespace {

using namespace programs;
using moe::io::Checkpoint;

struct Arguments {
  std::string model, weights, input, output, executor = "cpu", format;
  int layer = -1;
  CpuOptions cpu;

  void add_to(CLI::App& app) {
    app.add_option("--model", model, "Directory with config.json and safetensors")->required();
    app.add_option("--layer", layer, "Number of the layer (default: the first with experts)")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--io", input, "safetensors file with the tensor input [T,H] f32")->required();
    app.add_option("--out", output, "File to write: router_logits, topk_ids, topk_weights, output")->required();
    app.add_option("--weights", weights, "Weights instead of the directory's own: a file, also one in the directory");
    app.add_option("--executor", executor, "cpu or eigen")
        ->check(CLI::IsMember({"cpu", "eigen"}))
        ->capture_default_str();
    app.add_option("--format", format, "Weights of the experts: f32, bf16, f16 or q8_0 (default: as stored)");
    cpu.add_to(app);
  }
};

struct Results {
  std::vector<float> router_logits, topk_weights, output;
  std::vector<std::int64_t> topk_ids;
};

/// Copies what the router saw and chose. Long inputs come in chunks, in order.
struct Record {
  Results* results;

  void logits(moe::View<const float> rows) const {
    for (int t = 0; t < rows.rows; ++t) {
      results->router_logits.insert(results->router_logits.end(), rows.row(t).begin(), rows.row(t).end());
    }
  }
  void routed(const moe::Frame<>& frame) const {
    for (int t = 0; t < frame.dims.tokens; ++t) {
      const moe::Row<const moe::Slot> slots = frame.table.slots.row(t);
      for (int k = 0; k < slots.size(); ++k) {
        const bool chosen = k < frame.table.size(t) && slots[k].expert >= 0;
        results->topk_ids.push_back(chosen ? slots[k].expert : -1);
        results->topk_weights.push_back(chosen ? slots[k].weight : 0.0f);
      }
    }
  }
};

std::shared_ptr<const Checkpoint> open_checkpoint(const Arguments& arguments) {
  if (arguments.weights.empty()) return std::make_shared<const Checkpoint>(arguments.model);
  const std::filesystem::path given = arguments.weights;  // as seen from here, or else from the model's directory
  return std::make_shared<const Checkpoint>(arguments.model, std::filesystem::exists(given) ? absolute(given) : given);
}

int chosen_layer(const Arguments& arguments, const moe::io::ModelConfig& config) {
  int layer = arguments.layer;
  if (layer < 0) {
    for (layer = 0; !config.is_moe_layer(layer);) ++layer;
  }
  return layer;
}

engine::Matrix read_input(const std::string& path, int hidden) {
  const moe::io::SafetensorsFile file(path);
  const moe::io::TensorInfo& info = file.at("input");
  const bool fits = info.dtype == moe::io::Dtype::F32 && info.shape.size() == 2 &&
                    info.shape[1] == static_cast<std::uint64_t>(hidden) && info.shape[0] <= 1u << 20;
  if (!fits) {
    moe::raise(moe::IoError(path + ": tensor \"input\"", "shape and type", "[T, " + std::to_string(hidden) + "] of F32",
                            moe::io::shape_text(info.shape) + " of " + std::string(dtype_name(info.dtype))));
  }
  std::vector<float> values(static_cast<std::size_t>(info.bytes) / sizeof(float));
  file.read(info, std::as_writable_bytes(std::span(values)));
  return {std::move(values), static_cast<int>(info.shape[0]), hidden};
}

template <class Format, class Executor>
Results compute(std::shared_ptr<const Checkpoint> checkpoint, int layer, engine::ConstRows x, Executor executor) {
  const moe::io::ModelConfig& config = checkpoint->config();
  moe::Resident storage{moe::io::CheckpointExperts<Format>(checkpoint, layer)};  // checks the layer's number
  const std::vector<float> gate = checkpoint->gate(layer);
  Results results;
  results.output.resize(static_cast<std::size_t>(x.rows) * static_cast<std::size_t>(x.cols));
  const auto block = engine::make_block(config, {gate.data(), config.experts, config.hidden}, std::move(storage),
                                        std::move(executor), Record{&results});
  moe::Workspace workspace{block->workspace(std::clamp(x.rows, 1, 512))};
  block->forward({.x = x, .y = {results.output.data(), x.rows, x.cols}}, workspace);
  return results;
}

Results compute(const Arguments& arguments, std::shared_ptr<const Checkpoint> checkpoint, engine::ConstRows x) {
  const engine::Format format = arguments.format.empty() ? engine::format_of(checkpoint->default_format())
                                                         : engine::format_from_name(arguments.format);
  const int layer = chosen_layer(arguments, checkpoint->config());
  Results results;
  engine::with_format(format, [&]<class F>(std::type_identity<F>) {
    results = arguments.executor == "eigen" ? compute<F>(checkpoint, layer, x, moe::EigenReference{})
                                            : compute<F>(checkpoint, layer, x, arguments.cpu.cpu());
  });
  return results;
}

void write(const std::string& path, const Results& results, int tokens, const moe::io::ModelConfig& config) {
  using moe::io::Dtype;
  const auto rows = static_cast<std::uint64_t>(tokens);
  const auto tensor = [&](const char* name, Dtype type, std::size_t columns, const auto& values) {
    return moe::io::TensorData{name, type, {rows, columns}, std::as_bytes(std::span(values))};
  };
  const auto slots = static_cast<std::size_t>(engine::router_of(config).max_slots());
  const std::vector<moe::io::TensorData> tensors{
      tensor("router_logits", Dtype::F32, static_cast<std::size_t>(engine::router_of(config).num_logits()),
             results.router_logits),
      tensor("topk_ids", Dtype::I64, slots, results.topk_ids),
      tensor("topk_weights", Dtype::F32, slots, results.topk_weights),
      tensor("output", Dtype::F32, static_cast<std::size_t>(config.hidden), results.output)};
  moe::io::write_safetensors(path, tensors);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Runs one mixture-of-experts block of a checkpoint.", "run_layer");
  Arguments arguments;
  arguments.add_to(app);
  return programs::run(app, argc, argv, [&] {
    const auto checkpoint = open_checkpoint(arguments);
    const engine::Matrix input = read_input(arguments.input, checkpoint->config().hidden);
    const Results results = compute(arguments, checkpoint, input.view());
    write(arguments.output, results, input.rows(), checkpoint->config());
    std::cout << arguments.output << ": layer " << chosen_layer(arguments, checkpoint->config()) << " on "
              << input.rows() << " tokens\n";
  });
}
