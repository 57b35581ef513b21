// Which layers, prefixes and layouts of a family one checkpoint has.
#pragma once

#include <algorithm>
#include <cstddef>
#include <moe/error.hpp>
#include <moe/io/block_config.hpp>
#include <moe/io/network_tensors.hpp>
#include <moe/io/tensor_set.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moe::io::detail {

/// What the names of a layer's tensors begin with, once the stacks have one prefix each.
inline std::string layer_prefix(const BlockConfig& blocks, int layer) {
  int first = 0;
  for (const LayerStack& stack : blocks.stacks) {
    if (layer < first + stack.layers || &stack == &blocks.stacks.back())
      return tensor_name(stack.prefixes[0], layer - first);
    first += stack.layers;
  }
  return {};
}

/// Reduces what a config leaves open to what the tensors have: one prefix a stack, one layout of the experts, the
/// layers of configs that do not count them.
class BlockLocator {
 public:
  BlockLocator(BlockConfig& blocks, const TensorSet& tensors) : blocks_(blocks), tensors_(tensors) {}

  /// The layer that was asked for, or else the first one whose gate is there.
  void keep_one_layer(std::optional<int> layer, const std::string& place) {
    one_layer_ = true;
    std::vector<int>& layers = blocks_.moe_layers;
    const bool counted = !layers.empty() || blocks_.layers() > 0;
    if (layer && counted && !blocks_.is_moe_layer(*layer))
      raise(IoError(place, "layer", concat("one with experts among the model's ", blocks_.layers()),
                    std::to_string(*layer)));
    if (layer) {
      layers = {*layer};
    } else {
      const auto first = std::find_if(layers.begin(), layers.end(), [&](int l) { return has_any_gate(l); });
      if (first != layers.end()) layers = {*first};
    }
  }
  /// Throws `IoError` if no layer has experts. What is missing stays in the config, to be reported by name.
  void locate() {
    find_layers();
    if (blocks_.moe_layers.empty())
      raise(IoError(tensors_.files()[0].path().string(), "model", "a layer with experts", "none"));
    if (one_layer_) blocks_.moe_layers = {blocks_.moe_layers.front()};
    find_layout();
  }

 private:
  bool has_any_gate(int layer) const {
    int first = 0;
    for (const LayerStack& stack : blocks_.stacks) {
      const int begin = std::exchange(first, first + stack.layers);
      if (layer < begin || layer >= first) continue;
      for (const std::string& prefix : stack.prefixes)
        if (has_gate(prefix, layer - begin)) return true;
    }
    return false;
  }
  /// Of each stack, the prefix that is there and how many layers; stacks that are not in the file at all have no layer.
  void find_layers() {
    int first = 0;
    std::size_t missing = 0;
    for (LayerStack& stack : blocks_.stacks) {
      const std::string* found = nullptr;
      const int known = first_layer_of(stack, first);
      for (const std::string& prefix : stack.prefixes)
        if (found == nullptr && has_gate(prefix, known - first)) found = &prefix;
      if (found == nullptr) {
        ++missing;
        found = &stack.prefixes[0];
      }
      stack.prefixes = {std::string(*found)};
      if (stack.layers == 0) count_layers(stack);
      first += stack.layers;
    }
    if (missing != 0 && missing < blocks_.stacks.size()) drop_missing_stacks();
  }
  int first_layer_of(const LayerStack& stack, int first) const {
    const auto at = std::lower_bound(blocks_.moe_layers.begin(), blocks_.moe_layers.end(), first);
    const bool inside = at != blocks_.moe_layers.end() && *at < first + stack.layers;
    return inside ? *at : first;
  }
  bool has_gate(const std::string& prefix, int layer) const {
    return tensors_.find(tensor_name(prefix, layer) + blocks_.gate.weight[0]) != nullptr;
  }
  /// The layers of a config that does not say how many: all that have a gate, or the one that was asked for.
  void count_layers(LayerStack& stack) {
    std::vector<int>& layers = blocks_.moe_layers;
    const bool asked = !layers.empty();
    for (int i = 0; i < ModelLimits::layers && !asked; ++i)
      if (has_gate(stack.prefixes[0], i)) layers.push_back(i);
    if (layers.empty()) layers = {0};
    stack.layers = layers.back() + 1;
  }
  void drop_missing_stacks() {
    int first = 0;
    for (const LayerStack& stack : blocks_.stacks) {
      const int begin = std::exchange(first, first + stack.layers), end = first;
      if (has_gate(stack.prefixes[0], first_layer_of(stack, begin) - begin)) continue;
      std::erase_if(blocks_.moe_layers, [&](int layer) { return layer >= begin && layer < end; });
    }
  }
  /// The first layout whose tensors are there; if none is, the first one, which is then reported as missing.
  void find_layout() {
    for (const NetworkTensors& layout : blocks_.experts) {
      const std::string name = tensor_name(layout.up, 0, 0) + (layout.mxfp4 ? "_blocks" : "");
      if (tensors_.find(layer_prefix(blocks_, blocks_.moe_layers.front()) + name) == nullptr) continue;
      blocks_.experts = {NetworkTensors(layout)};
      return;
    }
    blocks_.experts.resize(1);
  }

  BlockConfig& blocks_;
  const TensorSet& tensors_;
  bool one_layer_ = false;
};

}  // namespace moe::io::detail
