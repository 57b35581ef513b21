// What a family is, and the parts that their readers share: sizes, which layers have experts, routers, tensor names.
#pragma once

#include <limits>
#include <moe/io/block_config.hpp>
#include <moe/io/model_config.hpp>
#include <moe/models/rules.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::io::detail {

using Keys = ConfigReader::Keys;

/// One row per published `model_type`.
struct Family {
  std::string_view model_type;
  models::Rule rule;
  /// Reads the blocks; what the rule says is there already.
  void (*read_blocks)(const ConfigReader&, BlockConfig&);
  /// Reads what the family has of its own around the blocks, where an engine runs whole models.
  void (*read_decoder)(const ConfigReader&, ModelConfig&) = nullptr;
};

// ---- sizes

inline int width(const ConfigReader& config, Keys keys) { return config.integer(keys, 1, ModelLimits::width); }

/// A number that may be a list, one a layer.
inline PerLayer<int> per_layer(const ConfigReader& config, Keys keys, int least, int most) {
  std::vector<int> values = config.integers(keys, least, most);
  if (values.empty()) return config.integer(keys, least, most);  // raises
  return values;
}

inline constexpr Keys expert_keys{"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"};
inline constexpr Keys pick_keys{"num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k",
                                "top_k_experts"};

/// E and K, which fit each other in every layer.
inline void read_experts_and_picks(const ConfigReader& config, BlockConfig& b, Keys picks = pick_keys) {
  b.router.experts = per_layer(config, expert_keys, 1, ModelLimits::experts);
  b.router.k = per_layer(config, picks, 1, ModelLimits::experts);
  const std::size_t lists = std::max(b.router.experts.values().size(), b.router.k.values().size());
  for (std::size_t i = 0; i < lists; ++i) {
    const int layer = static_cast<int>(i), k = b.router.k.at(layer), most = b.router.choosable(layer);
    if (k <= most) continue;
    const Json* given = nullptr;
    std::string key = *picks.begin();
    for (const char* one : picks)
      if (given == nullptr && (given = config.find({one})) != nullptr) key = one;
    config.refuse(key, concat("at most the ", most, " experts"), std::to_string(k));
  }
}

/// The experts' activation by its name, as Hugging Face's `hidden_act` has it.
inline AnyGated gated_activation(const ConfigReader& config, Keys keys, const char* otherwise = "silu") {
  const std::string name = config.text_or(otherwise, keys);
  if (name == "silu" || name == "swish") return {};
  if (name == "gelu_pytorch_tanh" || name == "gelu_tanh" || name == "gelu_new")
    return {.kind = AnyGated::Kind::geglu_tanh};
  if (name == "gelu") return {.kind = AnyGated::Kind::geglu};
  if (name == "relu") return {.kind = AnyGated::Kind::reglu};
  config.refuse(*keys.begin(), "\"silu\", \"gelu\", \"gelu_pytorch_tanh\" or \"relu\"", in_quotes(name));
}
inline AnyUngated ungated_activation(const ConfigReader& config, Keys keys, const char* otherwise) {
  const std::string name = config.text_or(otherwise, keys);
  if (name == "relu") return {AnyUngated::Kind::relu};
  if (name == "relu2") return {AnyUngated::Kind::squared_relu};
  if (name == "gelu") return {AnyUngated::Kind::gelu};
  if (name == "gelu_tanh" || name == "gelu_pytorch_tanh" || name == "gelu_new") return {AnyUngated::Kind::gelu_tanh};
  if (name == "silu" || name == "swish") return {AnyUngated::Kind::silu};
  config.refuse(*keys.begin(), "\"relu\", \"relu2\", \"gelu\", \"gelu_tanh\" or \"silu\"", in_quotes(name));
}

// ---- layers

/// Which of `layers` layers have experts, by whichever of the published keys are there: all that none of them excludes.
class LayerFilter {
 public:
  LayerFilter(const ConfigReader& config, int layers)
      : config_(config), has_experts_(static_cast<std::size_t>(layers), true) {}

  template <class Keep>
  void keep(Keep&& keep) {
    for (std::size_t i = 0; i < has_experts_.size(); ++i)
      has_experts_[i] = has_experts_[i] && keep(static_cast<int>(i));
  }
  /// `["dense", "sparse", ..]`; true if it is there.
  bool by_types(const char* key, std::initializer_list<std::string_view> with_experts) {
    const std::vector<std::string> types = config_.texts(key);
    if (types.empty()) return false;
    if (types.size() < has_experts_.size())
      config_.refuse(key, concat("one of each of the ", has_experts_.size(), " layers"), std::to_string(types.size()));
    keep([&](int i) {
      const std::string_view type = types[static_cast<std::size_t>(i)];
      return std::find(with_experts.begin(), with_experts.end(), type) != with_experts.end();
    });
    return true;
  }
  /// The first `fallback` layers, or as many as the keys say, are dense.
  void after_dense(Keys keys, int fallback) {
    const int dense = config_.integer_or(fallback, keys, 0, ModelLimits::layers);
    keep([&](int i) { return i >= dense; });
  }
  /// One integer n: every n-th layer, from 0 on; a list: the layers whose entry is not zero.
  void by_frequency(const char* key) {
    const Json* value = config_.find({key});
    const std::vector<int> n = config_.integers(key, 0, ModelLimits::layers);
    if (value == nullptr) return;
    if (!value->is_array()) {
      if (n[0] < 1) config_.refuse(key, "at least 1", "0");
      return keep([&](int i) { return i % n[0] == 0; });
    }
    if (n.size() < has_experts_.size())
      config_.refuse(key, concat("one of each of the ", has_experts_.size(), " layers"), std::to_string(n.size()));
    keep([&](int i) { return n[static_cast<std::size_t>(i)] != 0; });
  }
  void every(const char* key) {
    const int n = config_.integer_or(1, key, 1, ModelLimits::layers);
    keep([&](int i) { return (i + 1) % n == 0; });
  }
  void without(const char* key) {
    const std::vector<int> dense = config_.integers(key, 0, static_cast<int>(has_experts_.size()) - 1);
    keep([&](int i) { return std::find(dense.begin(), dense.end(), i) == dense.end(); });
  }
  void only(const std::vector<int>& layers) {
    keep([&](int i) { return std::find(layers.begin(), layers.end(), i) != layers.end(); });
  }

  std::vector<int> layers(int first = 0) const {
    std::vector<int> all;
    for (std::size_t i = 0; i < has_experts_.size(); ++i)
      if (has_experts_[i]) all.push_back(first + static_cast<int>(i));
    return all;
  }

 private:
  const ConfigReader& config_;
  std::vector<bool> has_experts_;
};

/// Where decoders keep their layers: alone, in transformers' multimodal models, in the hub's, and bare.
inline std::vector<std::string> decoder_prefixes() {
  return {"model.layers.{i}.", "model.language_model.layers.{i}.", "language_model.model.layers.{i}.",
          "language_model.layers.{i}.", "layers.{i}."};
}

/// One stack of `num_hidden_layers`; `dense` of them at its head have no experts where no key says so.
inline void read_decoder_layers(const ConfigReader& config, BlockConfig& b, int dense = 0,
                                Keys count = {"num_hidden_layers"}) {
  const int layers = config.integer(count, 1, ModelLimits::layers);
  LayerFilter filter(config, layers);
  if (!filter.by_types("mlp_layer_types", {"sparse", "moe", "hash_moe"})) {
    filter.by_frequency("moe_layer_freq");
    if (config.find({"moe_layer_freq"}) != nullptr) dense = 0;
    filter.after_dense({"first_k_dense_replace", "num_dense_layers", "moe_layer_num_skipped"}, dense);
  }
  b.stacks = {{layers, decoder_prefixes()}};
  b.moe_layers = filter.layers();
}

/// What most decoders have: hidden width, E and K, activation, layers.
inline void read_decoder(const ConfigReader& config, BlockConfig& b, Keys ffn, int dense = 0,
                         Keys layers = {"num_hidden_layers"}) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = per_layer(config, ffn, 1, ModelLimits::width);
  b.act = b.shared_act = gated_activation(config, {"hidden_act"});
  read_experts_and_picks(config, b);
  read_decoder_layers(config, b, dense, layers);
}

// ---- routers

inline void start_from(const models::Rule& rule, BlockConfig& b) {
  b.router.score = rule.score;
  b.router.normalise = rule.normalise;
  b.router.groups.by = rule.groups_by;
  b.router.groups.others = rule.other_groups;
  b.weight_on = rule.weight_on;
}
/// Softmax over all experts, then the picks divided by their sum or as they are: as the rule says, unless a key does.
inline void read_norm_topk_prob(const ConfigReader& config, BlockConfig& b) {
  const bool divided = config.flag_or(b.router.score == Score::softmax_of_picked, "norm_topk_prob");
  b.router.score = divided ? Score::softmax_of_picked : Score::softmax;
}
/// As the rule says, or not at all.
inline void normalise_if(BlockConfig& b, bool normalise) {
  if (!normalise) b.router.normalise = Normalisation::none();
}
/// The bias's name unless a flag says that there is none.
inline std::string bias_if(const ConfigReader& config, const char* flag, const char* name) {
  return config.flag_or(true, flag) ? name : "";
}
inline float factor(const ConfigReader& config, Keys keys, double otherwise = 1) {
  return static_cast<float>(config.number_if_any(keys, -1e6, 1e6).value_or(otherwise));
}

/// DeepSeek's groups; one group, or none, is no limit.
inline void read_groups(const ConfigReader& config, BlockConfig& b) {
  GroupLimit& groups = b.router.groups;
  groups.count = config.integer_or(1, {"n_group", "num_expert_group"}, 1, std::numeric_limits<int>::max());
  if (groups.count == 1) return;
  const int experts = b.router.experts.at(0);
  if (experts % groups.count != 0)
    config.refuse("n_group", concat("a divisor of the ", experts, " experts"), std::to_string(groups.count));
  groups.kept = config.integer({"topk_group"}, 1, groups.count);
}

inline Score read_score(const ConfigReader& config, Keys keys, const char* otherwise) {
  const std::string name = config.text_or(otherwise, keys);
  if (name == "sigmoid" || name == "noaux_tc") return Score::sigmoid;  // dots1 names the method here
  if (name == "softmax") return Score::softmax;
  if (name == "sqrtsoftplus") return Score::sqrt_softplus;
  config.refuse(*keys.begin(), "\"sigmoid\", \"softmax\" or \"sqrtsoftplus\"", in_quotes(name));
}

// ---- tensors

inline NetworkTensors separate(const std::string& prefix, const char* gate, const char* up, const char* down) {
  NetworkTensors n;
  n.gate = concat(prefix, gate, ".weight");
  n.up = concat(prefix, up, ".weight");
  n.down = concat(prefix, down, ".weight");
  return n;
}
inline NetworkTensors projections(const std::string& prefix) {
  return separate(prefix, "gate_proj", "up_proj", "down_proj");
}
inline NetworkTensors numbered(const std::string& prefix) { return separate(prefix, "w1", "w3", "w2"); }
/// Gate above up in one tensor of all experts.
inline NetworkTensors fused(std::string gate_up, std::string down) {
  NetworkTensors n;
  n.up = std::move(gate_up);
  n.down = std::move(down);
  n.fusion = NetworkTensors::Fusion::halves;
  n.experts = NetworkTensors::Experts::stacked;
  return n;
}
/// The same with inputs first.
inline NetworkTensors fused_transposed(std::string gate_up, std::string down) {
  NetworkTensors n = fused(std::move(gate_up), std::move(down));
  n.up_transposed = n.down_transposed = true;
  return n;
}
inline NetworkTensors ungated(const std::string& prefix, const char* up, const char* down, bool biased) {
  NetworkTensors n;
  n.up = concat(prefix, up, ".weight");
  n.down = concat(prefix, down, ".weight");
  if (biased) n.up_bias = concat(prefix, up, ".bias"), n.down_bias = concat(prefix, down, ".bias");
  return n;
}

/// Gate and experts below `block` as Qwen names them; also stacked, as transformers 5 keeps them in memory.
inline void name_as_qwen(BlockConfig& b, const std::string& block = "mlp.") {
  b.gate.weight = {concat(block, "gate.weight")};
  b.experts = {projections(concat(block, "experts.{e}.")),
               fused(concat(block, "experts.gate_up_proj"), concat(block, "experts.down_proj"))};
}
/// Gate and experts as Mixtral names them.
inline void name_as_mixtral(BlockConfig& b, const std::string& block = "block_sparse_moe.") {
  b.gate.weight = {concat(block, "gate.weight")};
  b.experts = {numbered(concat(block, "experts.{e}.")),
               fused(concat(block, "experts.gate_up_proj"), concat(block, "experts.down_proj"))};
}

// ---- shared experts

/// One network of width `ffn`; none if that is zero.
inline void shared_network(BlockConfig& b, SharedConfig::Mixing mixing, PerLayer<int> ffn, NetworkTensors tensors) {
  const std::vector<int>& widths = ffn.values();
  if (std::all_of(widths.begin(), widths.end(), [](int w) { return w == 0; })) return;
  b.shared.mixing = mixing;
  b.shared.ffn = std::move(ffn);
  b.shared.tensors = std::move(tensors);
}
/// As many networks of the experts' width as the config says, stored as one.
inline void shared_experts(const ConfigReader& config, BlockConfig& b, Keys count, const std::string& prefix,
                           int otherwise = 0) {
  std::vector<int> counts = config.integers(count, 0, 1024);
  if (counts.empty()) counts = {otherwise};
  std::vector<int> widths;
  for (std::size_t i = 0; i < std::max(counts.size(), b.ffn.values().size()); ++i) {
    const int ffn = b.ffn.at(static_cast<int>(i)), n = counts[std::min(i, counts.size() - 1)];
    if (n != 0 && ffn > ModelLimits::width / n)
      config.refuse(*count.begin(), concat("a width up to ", ModelLimits::width), concat(n, " x ", ffn));
    widths.push_back(n * ffn);
  }
  shared_network(b, SharedConfig::Mixing::add, widths, projections(prefix));
}

}  // namespace moe::io::detail
