// What the programs share: exit statuses and messages, the options of a model, figures for people and for machines.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <functional>
#include <moe/io/json.hpp>
#include <string>
#include <vector>

#include "model.hpp"
#include "options.hpp"
#include "storage_options.hpp"

namespace programs {

using moe::io::Json;

/// Parses and calls `body`. What goes wrong is one message on stderr and exit status 1.
int run(CLI::App& app, int argc, char** argv, const std::function<void()>& body);

/// --threads and --isa
struct CpuOptions {
  int threads = 0;
  std::string isa;

  void add_to(CLI::App& app);
  moe::Cpu cpu() const;
};

/// --model, how it is held, and who chooses its experts.
struct ModelOptions {
  std::string model, format, adamoe, policy = "trained";
  StorageOptions storage;
  CpuOptions cpu;
  bool json = false;

  void add_to(CLI::App& app);
  /// Without --policy, for programs that set policies themselves.
  void add_without_policy(CLI::App& app);
  engine::Options parse() const;
  /// Loads with a progress bar.
  engine::Model load() const;
};

/// Throws moe::Error unless every byte is a token of the model.
void require_bytes_as_tokens(const moe::io::ModelConfig& config, const std::string& instead);

/// Experts per token, traffic of their storage, load of every expert.
Json figures_as_json(const engine::Model& model);
std::string figures_as_text(const engine::Model& model);

/// "12.3 MB"
std::string bytes_text(double bytes);
/// `value` with `decimals` digits after the point.
std::string number_text(double value, int decimals);
/// JSON whose strings may hold bytes that are no UTF-8.
std::string json_text(const Json& value);

/// The whole file. Throws moe::IoError.
std::string read_file(const std::string& path);
/// The bytes of a text as tokens. Throws moe::IoError, also for a text of fewer than `least` bytes.
std::vector<int> read_tokens(const std::string& path, std::size_t least);
/// Replaces the file once all of it is written. Throws moe::IoError.
void write_file(const std::string& path, const std::string& text);

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace programs
