// inspect: what is in a safetensors file, an index or a model directory, after full validation.
#include <filesystem>
#include <iostream>
#include <map>
#include <moe/io/checkpoint.hpp>
#include <moe/io/tensor_set.hpp>

#include "command_line.hpp"

namespace {

using namespace programs;
using moe::io::Checkpoint;
using moe::io::ModelConfig;
using moe::io::TensorInfo;
using moe::io::TensorSet;

/// Bytes of all tensors by element type.
std::map<std::string, std::uint64_t> bytes_by_type(const TensorSet& set) {
  std::map<std::string, std::uint64_t> bytes;
  for (std::size_t i = 0; i < set.size(); ++i) bytes[std::string(dtype_name(set[i].dtype))] += set[i].bytes;
  return bytes;
}

/// Names come from strangers; quotes only where they are needed.
std::string shown_name(const std::string& name) {
  const std::string quoted = moe::io::in_quotes(name);
  return quoted.size() == name.size() + 2 ? name : quoted;
}

// ---- tensors

Json tensors_as_json(const TensorSet& set) {
  Json files = Json::array(), tensors = Json::array();
  for (const auto& file : set.files()) {
    files.push_back({{"path", file.path().string()}, {"bytes", file.file_bytes()}, {"metadata", file.metadata()}});
  }
  for (std::size_t i = 0; i < set.size(); ++i) {
    tensors.push_back({{"name", set[i].name},
                       {"dtype", dtype_name(set[i].dtype)},
                       {"shape", set[i].shape},
                       {"bytes", set[i].bytes},
                       {"file", set.file_of(set[i]).path().filename().string()}});
  }
  return {{"files", files}, {"tensors", tensors}, {"tensor_bytes", set.bytes()}, {"bytes_by_type", bytes_by_type(set)}};
}

std::string tensors_summary(const TensorSet& set) {
  std::string text = std::to_string(set.size()) + " tensors in " + std::to_string(set.files().size()) +
                     (set.files().size() == 1 ? " file, " : " files, ") + std::to_string(set.bytes()) + " bytes (";
  std::string separator;
  for (const auto& [type, bytes] : bytes_by_type(set)) {
    text += separator + type + " " + bytes_text(static_cast<double>(bytes));
    separator = ", ";
  }
  return text + ")\n";
}

std::string tensor_lines(const TensorSet& set) {
  std::string text;
  for (std::size_t i = 0; i < set.size(); ++i) {
    const TensorInfo& tensor = set[i];
    text += "  " + shown_name(tensor.name) + "  " + std::string(dtype_name(tensor.dtype)) + " " +
            moe::io::shape_text(tensor.shape) + "  " + std::to_string(tensor.bytes) + " bytes\n";
  }
  return text;
}

// ---- models

int moe_layers(const ModelConfig& c) {
  int n = 0;
  for (int layer = 0; layer < c.layers; ++layer) n += c.is_moe_layer(layer) ? 1 : 0;
  return n;
}

/// Opening checked the config, all headers, gates and experts; this is the rest.
void validate(const Checkpoint& checkpoint) {
  engine::check_backbone(checkpoint);
  for (int layer = 0; layer < checkpoint.config().layers; ++layer) {
    if (checkpoint.config().is_moe_layer(layer)) checkpoint.gate(layer);
  }
}

struct ExpertBytes {
  explicit ExpertBytes(const Checkpoint& checkpoint) {
    const ModelConfig& c = checkpoint.config();
    stored = 3 * static_cast<std::uint64_t>(c.expert_ffn) * static_cast<std::uint64_t>(c.hidden) *
             element_bytes(checkpoint.default_format());
    all = stored * static_cast<std::uint64_t>(c.experts) * static_cast<std::uint64_t>(moe_layers(c));
    for (const engine::Format format :
         {engine::Format::f32, engine::Format::bf16, engine::Format::f16, engine::Format::q8_0}) {
      engine::with_format(format, [&]<class F>(std::type_identity<F>) {
        records[std::string(engine::format_name(format))] =
            moe::PanelLayout::record_bytes<F>(checkpoint.expert_shape());
      });
    }
  }
  std::uint64_t stored = 0, all = 0;             // in the checkpoint: one expert, all experts
  std::map<std::string, std::uint64_t> records;  // in memory: one expert by format
};

Json model_as_json(const Checkpoint& checkpoint) {
  const ModelConfig& c = checkpoint.config();
  const ExpertBytes bytes(checkpoint);
  Json out = tensors_as_json(checkpoint.tensors());
  out["family"] = moe::io::family_name(c.family);
  out["layers"] = c.layers;
  out["moe_layers"] = moe_layers(c);
  out["experts"] = c.experts;
  out["experts_per_token"] = c.experts_per_token;
  out["hidden"] = c.hidden;
  out["expert_ffn"] = c.expert_ffn;
  out["dense_ffn"] = c.dense_ffn;
  out["vocab"] = c.vocab;
  out["heads"] = c.heads;
  out["kv_heads"] = c.kv_heads;
  out["head_dim"] = c.head_dim;
  out["max_positions"] = c.max_positions;
  out["sliding_window"] = c.sliding_window ? Json(*c.sliding_window) : Json();
  out["tied_embeddings"] = c.tied_embeddings;
  out["format"] = engine::format_name(engine::format_of(checkpoint.default_format()));
  out["bytes_per_expert"] = bytes.stored;
  out["bytes_of_experts"] = bytes.all;
  out["record_bytes"] = bytes.records;
  return out;
}

std::string model_as_text(const Checkpoint& checkpoint) {
  const ModelConfig& c = checkpoint.config();
  const ExpertBytes bytes(checkpoint);
  const auto text = [](int n) { return std::to_string(n); };
  const std::string format(engine::format_name(engine::format_of(checkpoint.default_format())));
  std::string out = "family     " + std::string(moe::io::family_name(c.family)) + "\n";
  out += "layers     " + text(c.layers) + ", " + text(moe_layers(c)) + " of them with experts\n";
  out += "experts    " + text(c.experts) + " a layer, " + text(c.experts_per_token) + " a token\n";
  out += "widths     hidden " + text(c.hidden) + ", expert " + text(c.expert_ffn) +
         (moe_layers(c) < c.layers ? ", dense " + text(c.dense_ffn) : "") + ", vocabulary " + text(c.vocab) +
         (c.tied_embeddings ? " (tied)" : "") + "\n";
  out += "attention  " + text(c.heads) + " heads of " + text(c.head_dim) + ", " + text(c.kv_heads) +
         " of keys and values, " + text(c.max_positions) + " positions" +
         (c.sliding_window ? ", window of " + text(*c.sliding_window) : "") + "\n";
  out += "an expert  gate and up [" + text(c.expert_ffn) + ", " + text(c.hidden) + "], down [" + text(c.hidden) + ", " +
         text(c.expert_ffn) + "], " + format + ", " + std::to_string(bytes.stored) + " bytes\n";
  out += "in memory ";
  for (const auto& [name, size] : bytes.records)
    out += " " + name + " " + std::to_string(size) + " bytes" + (name == "q8_0" ? "\n" : ",");
  out += "all of it  " + tensors_summary(checkpoint.tensors());
  return out + "           of which experts " + std::to_string(bytes.all) + " bytes\n";
}

struct Arguments {
  std::string path;
  bool tensors = false, json = false;

  void add_to(CLI::App& app) {
    app.add_option("path", path, "safetensors file, index (.json) or model directory")->required();
    app.add_flag("--tensors", tensors, "List the tensors of a directory too");
    app.add_flag("--json", json, "Print one JSON object for machines");
  }
};

void inspect_model(const Arguments& arguments) {
  const Checkpoint checkpoint(arguments.path);
  validate(checkpoint);
  if (arguments.json) {
    std::cout << json_text(model_as_json(checkpoint)) << "\n";
  } else {
    std::cout << model_as_text(checkpoint) << (arguments.tensors ? tensor_lines(checkpoint.tensors()) : "");
  }
}

void inspect_tensors(const Arguments& arguments) {
  const TensorSet set(arguments.path);
  if (arguments.json) {
    std::cout << json_text(tensors_as_json(set)) << "\n";
  } else {
    std::cout << tensors_summary(set) << tensor_lines(set);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Validates model files and prints what is in them. Exit status 1 and one message if one is bad.",
               "inspect");
  Arguments arguments;
  arguments.add_to(app);
  return programs::run(app, argc, argv, [&] {
    std::filesystem::is_directory(arguments.path) ? inspect_model(arguments) : inspect_tensors(arguments);
  });
}
