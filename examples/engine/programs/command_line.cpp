#include "command_line.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <iostream>
#include <limits>
#include <moe/io/text.hpp>
#include <numeric>
#include <span>

#include "progress.hpp"

namespace programs {

int run(CLI::App& app, int argc, char** argv, const std::function<void()>& body) {
  try {
    app.parse(argc, argv);
    body();
    std::cout.flush();
    if (!std::cout) throw moe::IoError("standard output cannot be written");
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 1;
  } catch (const std::bad_alloc&) {
    std::cerr << app.get_name() << ": error: out of memory\n";
  } catch (const std::exception& error) {
    std::cerr << app.get_name() << ": error: " << error.what() << "\n";
  }
  return 1;
}

// ---- options

void CpuOptions::add_to(CLI::App& app) {
  app.add_option("--threads", threads, "Threads that compute; 0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--isa", isa, "Instruction set: scalar, avx2 or avx512 (default: the best of this machine)");
}

moe::Cpu CpuOptions::cpu() const {
  return {.threads = threads, .isa = isa.empty() ? moe::cpu::best_isa() : moe::cpu::isa_from_name(isa)};
}

void ModelOptions::add_to(CLI::App& app) {
  add_without_policy(app);
  app.add_option("--policy", policy,
                 "Who chooses the experts: trained, topK, nulls:shift=X, sensitivity:file=S.json[,T=X][,when=decode], "
                 "skip:file=S.json, pruned:keep=N,file=S.json (or seed=N); S.json is written by calibrate_sensitivity")
      ->capture_default_str();
}

void ModelOptions::add_without_policy(CLI::App& app) {
  app.add_option("--model", model, "Directory with config.json and safetensors (Mixtral, Qwen3-MoE, OLMoE)")
      ->required();
  storage.add_to(app);
  app.add_option("--format", format,
                 "Weights of the experts: f32, bf16, f16, q8_0, mxfp4 or q4_0 (default: as stored)");
  app.add_option("--adamoe", adamoe, "Directory of what makes an AdaMoE of the model: config.json, adamoe.safetensors");
  cpu.add_to(app);
  app.add_flag("--json", json, "Print one JSON object for machines");
}

engine::Options ModelOptions::parse() const {
  engine::Options options{storage.parse(), {}, cpu.cpu()};
  if (!format.empty()) options.format = engine::format_from_name(format);
  options.adamoe = adamoe;
  return options;
}

engine::Model ModelOptions::load() const {
  const engine::Options options = parse();
  Progress progress("loading");
  engine::Model loaded(model, options, [&](int done, int total) { progress.show(done, total); });
  loaded.experts().set_policy(engine::policy_from_text(policy, loaded.config()));
  return loaded;
}

void require_bytes_as_tokens(const moe::io::ModelConfig& config, const std::string& instead) {
  if (config.vocab == 256) return;
  moe::raise(moe::Error("this model has a vocabulary of " + std::to_string(config.vocab) +
                        " tokens, and text can only be read for models whose tokens are the 256 bytes; " + instead));
}

// ---- figures

namespace {

/// One bar per expert, an eighth of a line high per step.
std::string bars(const std::vector<std::int64_t>& picks) {
  constexpr std::array<const char*, 9> steps{" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const std::int64_t most = std::max<std::int64_t>(1, *std::max_element(picks.begin(), picks.end()));
  std::string text;
  for (const std::int64_t n : picks) text += steps[static_cast<std::size_t>((8 * n + most - 1) / most)];
  return text;
}

std::string load_text(const engine::LayerLoad& load) {
  const auto total = static_cast<double>(std::accumulate(load.picks.begin(), load.picks.end(), std::int64_t{0}));
  const auto [least, most] = std::minmax_element(load.picks.begin(), load.picks.end());
  const auto share = [&](std::int64_t n) {
    return number_text(total == 0 ? 0 : 100.0 * static_cast<double>(n) / total, 1);
  };
  const std::string layer = std::to_string(load.layer);
  return std::string(layer.size() < 4 ? 4 - layer.size() : 0, ' ') + layer + " |" + bars(load.picks) + "| " +
         share(*least) + " to " + share(*most) + " %\n";
}

}  // namespace

Json figures_as_json(const engine::Model& model) {
  Json loads = Json::array();
  for (const engine::LayerLoad& load : model.experts().loads()) {
    loads.push_back({{"layer", load.layer}, {"tokens", load.tokens}, {"picks", load.picks}});
  }
  Json out = storage_as_json(model);
  out["format"] = engine::format_name(model.experts().format());
  out["threads"] = model.cpu().pool->size();
  out["isa"] = moe::isa_name(model.cpu().isa);
  out["experts_per_token"] = model.experts().experts_per_token();
  out["expert_load"] = std::move(loads);
  return out;
}

std::string figures_as_text(const engine::Model& model) {
  std::string text = number_text(model.experts().experts_per_token(), 2) + " experts per token and layer, " +
                     std::string(engine::format_name(model.experts().format())) + ", " +
                     std::to_string(model.cpu().pool->size()) + " threads, " +
                     std::string(moe::isa_name(model.cpu().isa)) + "\n";
  text += storage_as_text(model);
  text += "load of the experts by layer, lowest to highest share of the picks:\n";
  for (const engine::LayerLoad& load : model.experts().loads()) text += load_text(load);
  return text;
}

std::string number_text(double value, int decimals) {
  std::array<char, 64> text{};
  const int n = std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return {text.data(), static_cast<std::size_t>(std::clamp(n, 0, 63))};
}

std::string bytes_text(double bytes) {
  constexpr std::array<const char*, 5> units{" B", " kB", " MB", " GB", " TB"};
  std::size_t unit = 0;
  for (; bytes >= 1000 && unit + 1 < units.size(); ++unit) bytes /= 1000;
  return number_text(bytes, unit == 0 ? 0 : 1) + units[unit];
}

std::string json_text(const Json& value) { return value.dump(1, ' ', false, Json::error_handler_t::replace); }

std::string read_file(const std::string& path) {
  return moe::io::read_text(path, std::numeric_limits<std::uint32_t>::max());
}

std::vector<int> read_tokens(const std::string& path, std::size_t least) {
  const std::string text = read_file(path);
  if (text.size() < least) {
    moe::raise(moe::IoError(path, "text", "at least " + std::to_string(least) + " bytes", std::to_string(text.size())));
  }
  std::vector<int> tokens;
  tokens.reserve(text.size());
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

void write_file(const std::string& path, const std::string& text) {
  moe::OutputFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace programs
