// generate: text, or logits, from a mixture-of-experts model.
#include <algorithm>
#include <charconv>
#include <iostream>
#include <moe/io/safetensors.hpp>
#include <moe/io/trace_file.hpp>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "command_line.hpp"
#include "contrast.hpp"
#include "progress.hpp"
#include "sampling.hpp"
#include "sequence.hpp"

namespace {

using namespace programs;

/// --self-contrast
struct ContrastArguments {
  bool wanted = false;
  engine::ContrastOptions options;
  std::string strong = "trained", weak = "rank2";

  void add_to(CLI::App& app) {
    app.add_flag("--self-contrast", wanted, "Contrast the model with a weak routing of itself (SCMoE)");
    app.add_option("--alpha", options.alpha, "Cuts off tokens less likely than this share of the likeliest")
        ->capture_default_str();
    app.add_option("--beta", options.beta, "How much of the weak routing's logits is taken off")->capture_default_str();
    app.add_option("--weak", weak, "The weak routing: rankR, random, topK or pX")->capture_default_str();
    app.add_option("--strong", strong, "The strong one: trained, or as --weak")->capture_default_str();
  }
  engine::TwoStreams rules() const {
    return {strong == "trained" ? moe::StreamRule{} : engine::rule_from_text(strong), engine::rule_from_text(weak)};
  }
  Json json() const { return {{"alpha", options.alpha}, {"beta", options.beta}, {"strong", strong}, {"weak", weak}}; }
};

struct Arguments {
  ModelOptions model;
  ContrastArguments contrast;
  std::optional<std::string> prompt;
  std::string token_file, logits_file, trace_file;
  std::optional<int> tokens;
  double temperature = 0;
  std::uint64_t seed = 0;

  void add_to(CLI::App& app) {
    model.add_to(app);
    contrast.add_to(app);
    app.add_option("--prompt", prompt, "Text to go on from; its bytes are the tokens");
    app.add_option("--token-ids", token_file, "File of token ids to go on from, decimal, separated by white space");
    app.add_option("--tokens", tokens, "Tokens to generate (default: 200, or none with --logits)")
        ->check(CLI::Range(0, 1 << 30));
    app.add_option("--temperature", temperature, "0 always takes the likeliest token")->capture_default_str();
    app.add_option("--seed", seed, "Of the random numbers; the same seed repeats a text")->capture_default_str();
    app.add_option("--logits", logits_file, "Write the logits of the given tokens to this safetensors file");
    app.add_option("--trace", trace_file, "Write the experts chosen for every token to this file, for replay");
  }
};

std::vector<int> ids_from_file(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<int> ids;
  constexpr std::string_view space = " \t\r\n\f\v";
  for (std::size_t at = text.find_first_not_of(space); at != std::string::npos;
       at = text.find_first_not_of(space, at)) {
    const std::size_t end = std::min(text.find_first_of(space, at), text.size());
    int id = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, id);
    if (error != std::errc() || stop != text.data() + end) {
      moe::raise(moe::IoError(path, "token id number " + std::to_string(ids.size()), "a decimal number",
                              moe::io::in_quotes(std::string_view(text).substr(at, end - at))));
    }
    ids.push_back(id);
    at = end;
  }
  return ids;
}

std::vector<int> given_tokens(const Arguments& arguments, const moe::io::ModelConfig& config) {
  if (arguments.prompt.has_value() == !arguments.token_file.empty()) {
    moe::raise(moe::Error("give either --prompt or --token-ids"));
  }
  std::vector<int> ids;
  if (arguments.prompt) {
    require_bytes_as_tokens(config, "give --token-ids FILE instead of --prompt");
    for (const char c : *arguments.prompt) ids.push_back(static_cast<unsigned char>(c));
  } else {
    ids = ids_from_file(arguments.token_file);
  }
  if (ids.empty()) moe::raise(moe::Error("the prompt is empty: there is nothing to go on from"));
  return ids;
}

void write_logits(const std::string& path, engine::ConstRows logits) {
  const auto rows = static_cast<std::size_t>(logits.rows), columns = static_cast<std::size_t>(logits.cols);
  const moe::io::TensorData tensor{
      "logits", moe::io::Dtype::F32, {rows, columns}, std::as_bytes(std::span(logits.data, rows * columns))};
  moe::io::write_safetensors(path, std::span(&tensor, 1));
}

/// The experts chosen in every layer, in the order of execution. Each stream of the text is a sequence.
class Recorder {
 public:
  Recorder(engine::Model& model, const engine::Sequence& sequence)
      : model_(model),
        sequence_(sequence),
        trace_(model.config().layers(), model.config().experts(), model.config().experts_per_token()) {
    model.experts().observe([this](int layer, const moe::Frame<>& frame) { see(layer, frame); });
  }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;
  ~Recorder() { model_.experts().observe({}); }

  /// So many tokens are appended next.
  void expect(std::size_t tokens) { end_ = sequence_.position() + static_cast<int>(tokens); }
  const moe::RoutingTrace& trace() const { return trace_; }

 private:
  /// Rows are the tokens of the first stream, then those of the next; long texts come in several batches.
  void see(int layer, const moe::Frame<>& frame) {
    const int first = sequence_.position(), streams = sequence_.streams();
    const int count = std::min(engine::Sequence::batch / streams, end_ - first);
    streams_.clear();
    tokens_.clear();
    for (int row = 0; row < count * streams; ++row) {
      streams_.push_back(row / count);
      tokens_.push_back(first + row % count);
    }
    moe::TraceObserver{.trace = &trace_, .layer = layer, .sequences = streams_.data(), .tokens = tokens_.data()}.done(
        frame);
  }

  engine::Model& model_;
  const engine::Sequence& sequence_;
  moe::RoutingTrace trace_;
  std::vector<int> streams_, tokens_;  // of a batch's rows
  int end_ = 0;
};

/// One run: reads what was given, then goes on from it.
class Generation {
 public:
  Generation(const Arguments& arguments, engine::Model& model)
      : arguments_(arguments),
        model_(model),
        sampler_(arguments.temperature, arguments.seed),
        given_(given_tokens(arguments, model.config())),
        bytes_(model.config().vocab == 256),
        count_(arguments.tokens.value_or(arguments.logits_file.empty() ? 200 : 0)) {
    if (arguments.contrast.wanted) {
      contrast_.emplace(model, arguments.contrast.options);
    } else {
      sequence_.emplace(model);
    }
    engine::Sequence& sequence = contrast_ ? contrast_->streams() : *sequence_;
    sequence.set_seed(arguments.seed);
    if (!arguments.trace_file.empty()) recorder_.emplace(model, sequence);
  }

  void run() {
    const Stopwatch watch;
    const bool all = !arguments_.logits_file.empty();
    const engine::ConstRows logits = append(given_, all ? engine::LogitsOf::every_token : engine::LogitsOf::last_token);
    given_seconds_ = watch.seconds();
    if (all) write_logits(arguments_.logits_file, logits);
    if (count_ > 0) emit(given_);
    go_on(logits.slice(logits.rows - 1, 1));
    if (recorder_) moe::io::write_trace(arguments_.trace_file, recorder_->trace());
  }
  void report() const { arguments_.model.json ? print_json() : print_text(); }

 private:
  engine::ConstRows append(std::span<const int> tokens, engine::LogitsOf which) {
    if (recorder_) recorder_->expect(tokens.size());
    return contrast_ ? contrast_->append(tokens, which) : sequence_->append(tokens, which);
  }
  void go_on(engine::ConstRows logits) {
    Progress progress("generating");
    const Stopwatch watch;
    const std::vector<int>& ends = model_.config().eos_ids;
    for (int i = 0; i < count_; ++i) {
      const int token = sampler_(logits.row(0));
      if (std::find(ends.begin(), ends.end(), token) != ends.end()) break;
      generated_.push_back(token);
      emit({&generated_.back(), 1});
      if (arguments_.model.json) progress.show(i, count_);
      if (i + 1 < count_) logits = append({&generated_.back(), 1}, engine::LogitsOf::last_token);
    }
    seconds_ = watch.seconds();
  }

  std::string text_of(std::span<const int> tokens) const {
    std::string text;
    for (const int token : tokens) {
      if (bytes_)
        text += static_cast<char>(static_cast<unsigned char>(token));
      else
        text += std::to_string(token) + " ";
    }
    return text;
  }
  void emit(std::span<const int> tokens) const {
    if (!arguments_.model.json) std::cout << text_of(tokens) << std::flush;
  }

  double rate(std::size_t tokens, double seconds) const {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  }
  void print_text() const {
    if (count_ > 0) std::cout << "\n";
    std::cout.flush();
    std::cerr << "\n"
              << given_.size() << " tokens read at " << number_text(rate(given_.size(), given_seconds_), 0)
              << " tokens/s, " << generated_.size() << " written at "
              << number_text(rate(generated_.size(), seconds_), 0) << " tokens/s\n"
              << figures_as_text(model_);
  }
  void print_json() const {
    Json out = figures_as_json(model_);
    out["model"] = arguments_.model.model;
    out["family"] = model_.config().blocks.family;
    out["storage"] = arguments_.model.storage.storage;
    out["policy"] = arguments_.model.policy;
    if (contrast_) out["self_contrast"] = arguments_.contrast.json();
    if (arguments_.prompt) out["prompt"] = *arguments_.prompt;
    out["text"] = text_of(generated_);
    out["token_ids"] = generated_;
    out["prompt_tokens"] = given_.size();
    out["tokens"] = generated_.size();
    out["prompt_seconds"] = given_seconds_;
    out["seconds"] = seconds_;
    out["prompt_tokens_per_second"] = rate(given_.size(), given_seconds_);
    out["tokens_per_second"] = rate(generated_.size(), seconds_);
    out["seed"] = arguments_.seed;
    out["temperature"] = arguments_.temperature;
    std::cout << json_text(out) << "\n";
  }

  const Arguments& arguments_;
  engine::Model& model_;
  std::optional<engine::Sequence> sequence_;
  std::optional<engine::ContrastSequence> contrast_;
  std::optional<Recorder> recorder_;
  engine::Sampler sampler_;
  std::vector<int> given_, generated_;
  bool bytes_;
  int count_;
  double given_seconds_ = 0, seconds_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes text with a mixture-of-experts model, and its figures to stderr.", "generate");
  Arguments arguments;
  arguments.add_to(app);
  return programs::run(app, argc, argv, [&] {
    engine::Model model = arguments.model.load();
    if (arguments.contrast.wanted) {
      if (arguments.model.policy != "trained") moe::raise(moe::Error("give either --self-contrast or --policy"));
      model.experts().set_policy(arguments.contrast.rules());
    }
    Generation generation(arguments, model);
    generation.run();
    generation.report();
  });
}
