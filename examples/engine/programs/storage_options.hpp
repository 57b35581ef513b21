// StorageOptions: what a user may say about offloading experts, and what came of it.
#pragma once

#include <CLI/CLI.hpp>
#include <moe/io/json.hpp>
#include <string>

#include "model.hpp"
#include "storage_choice.hpp"

namespace programs {

/// --storage and what belongs to it.
struct StorageOptions {
  std::string storage = "resident";

  void add_to(CLI::App& app);
  /// Throws moe::Error for texts that are none of those in the help.
  engine::StorageChoice parse() const;

 private:
  std::string experts_file_, eviction_ = "lru", allocation_, prefetch_ = "off", predictor_ = "next-gate";
  std::string low_precision_, thresholds_ = "0.6,0.9";
  bool per_layer_ = false;
  int staging_ = 0, horizon_ = engine::StorageChoice{}.horizon;
  double low_share_ = 0;
};

/// The accounts of a model's storage, always together.
moe::io::Json storage_as_json(const engine::Model& model);
std::string storage_as_text(const engine::Model& model);

}  // namespace programs
