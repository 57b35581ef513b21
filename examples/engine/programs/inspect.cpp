// inspect: what is in a safetensors file, an index or a model directory, after full validation.
#include <filesystem>
#include <iostream>
#include <map>
#include <moe/io/checkpoint.hpp>
#include <moe/io/tensor_set.hpp>

#include "block.hpp"
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

/// Opening checked the config, all headers, gates and experts; this is the rest.
void validate(const Checkpoint& checkpoint) {
  if (checkpoint.is_language_model()) engine::check_backbone(checkpoint);
  for (const int layer : checkpoint.blocks().moe_layers) checkpoint.gate(layer);
}

struct ExpertBytes {
  explicit ExpertBytes(const Checkpoint& checkpoint) {
    const moe::io::BlockConfig& blocks = checkpoint.blocks();
    for (const int layer : blocks.moe_layers) {
      const std::uint64_t one = bytes_of(checkpoint, checkpoint.expert_shape(layer));
      if (layer == checkpoint.first_moe_layer()) stored = one;
      all += one * static_cast<std::uint64_t>(blocks.router.experts.at(layer));
    }
    using engine::Format;
    for (const Format format : {Format::f32, Format::bf16, Format::f16, Format::q8_0, Format::mxfp4, Format::q4_0}) {
      engine::with_format(format, [&]<class F>(std::type_identity<F>) {
        records[std::string(engine::format_name(format))] =
            moe::PanelLayout::record_bytes<F>(checkpoint.expert_shape());
      });
    }
  }
  static std::uint64_t bytes_of(const Checkpoint& checkpoint, const moe::ExpertShape& s) {
    const std::uint64_t weights = static_cast<std::uint64_t>(s.gated ? 3 : 2) * static_cast<std::uint64_t>(s.ffn) *
                                  static_cast<std::uint64_t>(s.hidden);
    return checkpoint.stores_mxfp4() ? weights / 32 * sizeof(moe::mxfp4)
                                     : weights * element_bytes(checkpoint.default_format());
  }
  std::uint64_t stored = 0, all = 0;             // in the checkpoint: one expert, all experts; without biases
  std::map<std::string, std::uint64_t> records;  // in memory: one expert by format
};

void add_backbone(Json& out, const ModelConfig& c) {
  out["dense_ffn"] = c.blocks.dense_ffn;
  out["vocab"] = c.vocab;
  out["heads"] = c.heads;
  out["kv_heads"] = c.kv_heads;
  out["head_dim"] = c.head_dim;
  out["max_positions"] = c.max_positions;
  out["sliding_window"] = c.sliding_window ? Json(*c.sliding_window) : Json();
  out["tied_embeddings"] = c.tied_embeddings;
}

Json model_as_json(const Checkpoint& checkpoint) {
  const moe::io::BlockConfig& b = checkpoint.blocks();
  const int first = checkpoint.first_moe_layer();
  const ExpertBytes bytes(checkpoint);
  Json out = tensors_as_json(checkpoint.tensors());
  out["family"] = b.family;
  out["layers"] = b.layers();
  out["moe_layers"] = b.moe_layers.size();
  out["experts"] = b.router.experts.at(first);
  out["experts_per_token"] = b.router.k.at(first);
  out["hidden"] = b.hidden;
  out["expert_ffn"] = b.ffn.at(first);
  out["shared_ffn"] = b.shared.ffn.at(first);
  if (checkpoint.is_language_model()) add_backbone(out, checkpoint.config());
  out["format"] = engine::format_name(engine::format_of(checkpoint));
  out["bytes_per_expert"] = bytes.stored;
  out["bytes_of_experts"] = bytes.all;
  out["record_bytes"] = bytes.records;
  return out;
}

std::string backbone_as_text(const ModelConfig& c) {
  const auto text = [](int n) { return std::to_string(n); };
  return "attention  " + text(c.heads) + " heads of " + text(c.head_dim) + ", " + text(c.kv_heads) +
         " of keys and values, " + text(c.max_positions) + " positions" +
         (c.sliding_window ? ", window of " + text(*c.sliding_window) : "") + "\nvocabulary " + text(c.vocab) +
         (c.tied_embeddings ? " (tied)" : "") + "\n";
}

std::string expert_as_text(const Checkpoint& checkpoint) {
  const auto text = [](int n) { return std::to_string(n); };
  const moe::ExpertShape s = checkpoint.expert_shape();
  return std::string(s.gated ? "gate and up [" : "up [") + text(s.ffn) + ", " + text(s.hidden) + "], down [" +
         text(s.hidden) + ", " + text(s.ffn) + "], " + std::string(engine::format_name(engine::format_of(checkpoint)));
}

std::string model_as_text(const Checkpoint& checkpoint) {
  const moe::io::BlockConfig& b = checkpoint.blocks();
  const int first = checkpoint.first_moe_layer();
  const ExpertBytes bytes(checkpoint);
  const auto text = [](auto n) { return std::to_string(n); };
  std::string out = "family     " + b.family + "\n";
  out += "layers     " + text(b.layers()) + ", " + text(b.moe_layers.size()) + " of them with experts\n";
  out += "experts    " + text(b.router.experts.at(first)) + " a layer, " + text(b.router.k.at(first)) + " a token\n";
  out += "widths     hidden " + text(b.hidden) + ", expert " + text(b.ffn.at(first));
  if (b.shared.mixing != moe::io::SharedConfig::Mixing::none) out += ", shared expert " + text(b.shared.ffn.at(first));
  const bool dense = static_cast<int>(b.moe_layers.size()) < b.layers() && b.dense_ffn > 0;
  out += (dense ? ", dense " + text(b.dense_ffn) : "") + "\n";
  if (checkpoint.is_language_model()) out += backbone_as_text(checkpoint.config());
  out += "an expert  " + expert_as_text(checkpoint) + ", " + text(bytes.stored) + " bytes\n";
  out += "in memory ";
  std::string separator = " ";
  for (const auto& [name, size] : bytes.records) {
    out += separator + name + " " + text(size) + " bytes";
    separator = ", ";
  }
  out += "\nall of it  " + tensors_summary(checkpoint.tensors());
  return out + "           of which experts " + text(bytes.all) + " bytes\n";
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
