// ExpertSources: where the records of a model's experts come from, layer by layer: checkpoint or record file.
#pragma once

#include <memory>
#include <moe/io/checkpoint.hpp>
#include <moe/io/xxh3.hpp>
#include <moe/storage/any_source.hpp>
#include <moe/storage/background.hpp>
#include <moe/storage/file.hpp>
#include <moe/storage/mixed.hpp>
#include <optional>
#include <string>

#include "storage_choice.hpp"

namespace engine {

/// Verifies every record; refuses files without checksums.
template <class F>
using ExpertsFile = moe::File<F, moe::PanelLayout, moe::io::Xxh3>;

/// Throws moe::IoError unless a record file is one of this model's experts.
template <class F>
void check_experts_file(const ExpertsFile<F>& file, const std::string& path, const moe::io::Checkpoint& checkpoint) {
  const moe::io::BlockConfig& blocks = checkpoint.blocks();
  const auto require = [&](const char* what, int expected, int found) {
    if (expected != found) moe::raise(moe::IoError(path, what, std::to_string(expected), std::to_string(found)));
  };
  require("layers with experts, of this model", static_cast<int>(blocks.moe_layers.size()), file.num_layers());
  for (const int layer : blocks.moe_layers) {
    const moe::ExpertShape shape = checkpoint.expert_shape(layer);
    require("experts a layer, of this model", blocks.router.experts.at(layer), file.num_experts());
    require("hidden width, of this model", shape.hidden, file.shape().hidden);
    require("width of the experts, of this model", shape.ffn, file.shape().ffn);
  }
}

/// The experts of all layers in format F. Reads run on threads of the source's own.
template <class F>
class ExpertSources {
 public:
  using source = moe::AnySource<moe::formats<F>>;

  /// Throws moe::IoError for a file that has other records or none of their checksums.
  ExpertSources(std::shared_ptr<const moe::io::Checkpoint> checkpoint, const StorageChoice& choice)
      : checkpoint_(std::move(checkpoint)) {
    if (choice.experts_file.empty()) return;
    file_.emplace(choice.experts_file.string());
    check_experts_file(*file_, choice.experts_file.string(), *checkpoint_);
  }

  /// `layer` of the model, the `index`-th one with experts.
  source layer(int layer, int index) const {
    if (file_) return source(file_->layer(index));
    return source(moe::Background{moe::io::CheckpointExperts<F>(checkpoint_, layer)});
  }

 private:
  std::shared_ptr<const moe::io::Checkpoint> checkpoint_;
  std::optional<ExpertsFile<F>> file_;
};

/// Two precisions of the experts, the less precise one for those that matter less.
template <class High, class Low>
moe::AnySource<moe::formats<High, Low>> mixed_source(const StorageChoice& choice,
                                                     moe::AnySource<moe::formats<High>> high,
                                                     moe::AnySource<moe::formats<Low>> low) {
  const moe::ByImportance rule{.up_to = {choice.thresholds[0], choice.thresholds[1], 1, 1}};
  return moe::AnySource<moe::formats<High, Low>>(moe::Mixed{rule, std::move(high), std::move(low)});
}

}  // namespace engine
