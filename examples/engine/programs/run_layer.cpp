// run_layer: one mixture-of-experts block of a checkpoint on given inputs; writes all that it decided and computed.
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <moe/executors/eigen.hpp>
#include <moe/io/checkpoint.hpp>
#include <moe/io/safetensors.hpp>
#include <optional>
#include <span>
#include <vector>

#include "block.hpp"
#include "command_line.hpp"

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
    app.add_option("--io", input,
                   "safetensors file with the tensor input [T,H] f32, and where the family has them expert_input [T,H] "
                   "(experts see it, the router sees input), token_ids [T], router_state_in [T,R]")
        ->required();
    app.add_option("--out", output,
                   "File to write: router_logits [T,R] f32, topk_ids [T,K] i64 (-1: dropped, or adds nothing), "
                   "topk_weights [T,K] f32, output [T,H] f32; router_state_out, coefficient where the family has them")
        ->required();
    app.add_option("--weights", weights, "Weights instead of the directory's own: a file, also one in the directory");
    app.add_option("--executor", executor, "cpu or eigen")
        ->check(CLI::IsMember({"cpu", "eigen"}))
        ->capture_default_str();
    app.add_option("--format", format,
                   "Weights of the experts: f32, bf16, f16, q8_0, mxfp4 or q4_0 (default: as stored)");
    cpu.add_to(app);
  }
};

// ---- input

struct Input {
  engine::Matrix router;                  // [T,H]
  std::optional<engine::Matrix> experts;  // [T,H], where they see something else
  std::vector<int> token_ids;             // [T] or empty
  std::optional<engine::Matrix> state;    // [T,R]
  int tokens() const { return router.rows(); }
};

class InputFile {
 public:
  explicit InputFile(const std::string& path) : path_(path), file_(path) {}

  /// A matrix of `columns`, and of `rows` if they are known.
  engine::Matrix matrix(const char* name, int columns, std::optional<int> rows) const {
    const moe::io::TensorInfo& info = file_.at(name);
    const bool fits = info.dtype == moe::io::Dtype::F32 && info.shape.size() == 2 &&
                      info.shape[1] == static_cast<std::uint64_t>(columns) && info.shape[0] <= 1u << 20 &&
                      (!rows || info.shape[0] == static_cast<std::uint64_t>(*rows));
    const std::string height = rows ? std::to_string(*rows) : "T";
    if (!fits) refuse(info, "[" + height + ", " + std::to_string(columns) + "] of F32");
    std::vector<float> values(static_cast<std::size_t>(info.bytes) / sizeof(float));
    file_.read(info, std::as_writable_bytes(std::span(values)));
    return {std::move(values), static_cast<int>(info.shape[0]), columns};
  }
  std::vector<int> ids(const char* name, int rows) const {
    const moe::io::TensorInfo& info = file_.at(name);
    std::uint64_t elements = 1;
    for (const std::uint64_t size : info.shape) elements *= size;
    const bool wide = info.dtype == moe::io::Dtype::I64;
    if ((!wide && info.dtype != moe::io::Dtype::I32) || elements != static_cast<std::uint64_t>(rows))
      refuse(info, "[" + std::to_string(rows) + "] of I64 or I32");
    return wide ? read_ids<std::int64_t>(info) : read_ids<std::int32_t>(info);
  }
  bool has(const char* name) const { return file_.find(name) != nullptr; }

 private:
  template <class T>
  std::vector<int> read_ids(const moe::io::TensorInfo& info) const {
    std::vector<T> stored(static_cast<std::size_t>(info.bytes) / sizeof(T));
    file_.read(info, std::as_writable_bytes(std::span(stored)));
    std::vector<int> ids;
    for (const T id : stored) ids.push_back(id < 0 || id > 0x7fffffff ? -1 : static_cast<int>(id));
    return ids;
  }
  [[noreturn]] void refuse(const moe::io::TensorInfo& info, const std::string& expected) const {
    moe::raise(moe::IoError(path_ + ": tensor \"" + info.name + "\"", "shape and type", expected,
                            moe::io::shape_text(info.shape) + " of " + std::string(dtype_name(info.dtype))));
  }

  std::string path_;
  moe::io::SafetensorsFile file_;
};

Input read_input(const std::string& path, const Checkpoint& checkpoint, const engine::BlockWeights& weights) {
  const InputFile file(path);
  const moe::io::BlockConfig& blocks = checkpoint.blocks();
  Input in;
  in.router = file.matrix("input", blocks.hidden, {});
  if (file.has("expert_input")) in.experts = file.matrix("expert_input", blocks.hidden, in.tokens());
  if (blocks.router.is_hash_layer(checkpoint.first_moe_layer())) in.token_ids = file.ids("token_ids", in.tokens());
  if (weights.takes_state() && file.has("router_state_in"))
    in.state = file.matrix("router_state_in", blocks.gate.state, in.tokens());
  return in;
}

// ---- results

struct Results {
  int logits = 0, slots = 0;  // columns
  std::vector<float> router_logits, topk_weights;
  std::vector<std::int64_t> topk_ids;
  engine::Matrix output, router_state, coefficient;  // the last two may be empty
};

/// Copies what the router saw and chose. Long inputs come in chunks, in order.
struct Record final : engine::BlockObserver {
  explicit Record(Results* to) : results(to) {}
  Results* results;

  void logits(moe::View<const float> rows) const override {
    for (int t = 0; t < rows.rows; ++t)
      results->router_logits.insert(results->router_logits.end(), rows.row(t).begin(), rows.row(t).end());
  }
  void routed(const moe::Frame<>& frame) const override {
    for (int t = 0; t < frame.dims.tokens; ++t) {
      const moe::Row<const moe::Slot> slots = frame.table.slots.row(t).first(frame.table.size(t));
      for (int k = 0; k < results->slots; ++k) {
        const moe::Slot slot = k < slots.size() ? slots[k] : moe::Slot{};
        const bool adds = frame.ids.network(slot.expert) || frame.ids.identity(slot.expert);
        results->topk_ids.push_back(adds ? slot.expert : -1);
        results->topk_weights.push_back(adds ? slot.weight : 0.0f);
      }
    }
  }
};

// ---- the layer

std::shared_ptr<const Checkpoint> open_checkpoint(const Arguments& arguments) {
  const std::filesystem::path model = arguments.model, given = arguments.weights;
  const bool here = !given.empty() && std::filesystem::exists(given);  // or else from the model's directory
  const std::optional<int> layer = arguments.layer < 0 ? std::nullopt : std::optional(arguments.layer);
  const std::filesystem::path weights = given.empty() ? model : (here ? absolute(given) : model / given);
  return std::make_shared<const Checkpoint>(Checkpoint::of_layer(model, weights, layer));
}

/// A rule about all rows of a call (capacity) needs them in one chunk.
int rows_at_once(const Checkpoint& checkpoint, int tokens) {
  const bool together = checkpoint.blocks().router.kind == moe::io::RouterConfig::Kind::capacity;
  return std::clamp(tokens, 1, together ? tokens + 1 : 512);
}

Results compute(const Arguments& arguments, const std::shared_ptr<const Checkpoint>& checkpoint) {
  const moe::io::BlockConfig& blocks = checkpoint->blocks();
  const int layer = checkpoint->first_moe_layer();
  const moe::Cpu cpu = arguments.cpu.cpu();
  Results results;
  results.logits = blocks.logits(layer);
  results.slots = blocks.router.k.at(layer);
  const Record record(&results);
  const engine::BlockOptions options{
      .format = arguments.format.empty() ? engine::format_of(*checkpoint) : engine::format_from_name(arguments.format),
      .observer = &record};
  const engine::Block block = arguments.executor == "eigen"
                                  ? engine::make_block(checkpoint, layer, options, moe::EigenReference{})
                                  : engine::make_block(checkpoint, layer, options, cpu);
  const Input input = read_input(arguments.input, *checkpoint, *block.weights);
  const int tokens = input.tokens();
  results.output = engine::Matrix(tokens, blocks.hidden);
  if (blocks.gate.state > 0) results.router_state = engine::Matrix(tokens, blocks.gate.state);
  moe::Call<> call{.x = input.experts ? input.experts->view() : input.router.view(),
                   .y = results.output.view(),
                   .x_router = input.router.view()};
  if (!input.token_ids.empty()) call.context.tokens = input.token_ids.data();
  if (input.state) call.router_state_in = input.state->view();
  if (blocks.gate.state > 0) call.router_state_out = results.router_state.view();
  moe::Workspace workspace{block.layer->workspace(rows_at_once(*checkpoint, tokens))};
  block.layer->forward(call, workspace);
  results.coefficient = block.weights->coefficients(cpu, call.x);
  return results;
}

void write(const std::string& path, const Results& results) {
  using moe::io::Dtype;
  const auto rows = static_cast<std::uint64_t>(results.output.rows());
  std::vector<moe::io::TensorData> tensors;
  const auto add = [&](const char* name, Dtype type, int columns, std::span<const std::byte> bytes) {
    tensors.push_back({name, type, {rows, static_cast<std::uint64_t>(columns)}, bytes});
  };
  const auto add_matrix = [&](const char* name, const engine::Matrix& m) {
    const auto size = static_cast<std::size_t>(m.rows()) * static_cast<std::size_t>(m.cols());
    if (m.cols() != 0) add(name, Dtype::F32, m.cols(), std::as_bytes(std::span(m.view().data, size)));
  };
  add("router_logits", Dtype::F32, results.logits, std::as_bytes(std::span(results.router_logits)));
  add("topk_ids", Dtype::I64, results.slots, std::as_bytes(std::span(results.topk_ids)));
  add("topk_weights", Dtype::F32, results.slots, std::as_bytes(std::span(results.topk_weights)));
  add_matrix("output", results.output);
  add_matrix("router_state_out", results.router_state);
  add_matrix("coefficient", results.coefficient);
  moe::io::write_safetensors(path, tensors);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Runs one mixture-of-experts block of a checkpoint of any known family.", "run_layer");
  Arguments arguments;
  arguments.add_to(app);
  return programs::run(app, argc, argv, [&] {
    const auto checkpoint = open_checkpoint(arguments);
    const Results results = compute(arguments, checkpoint);
    write(arguments.output, results);
    std::cout << arguments.output << ": layer " << checkpoint->first_moe_layer() << " on " << results.output.rows()
              << " tokens\n";
  });
}
