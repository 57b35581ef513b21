// perplexity: how well a model predicts a text, in bits per byte.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <span>

#include "command_line.hpp"
#include "loss.hpp"
#include "progress.hpp"
#include "sequence.hpp"

namespace {

using namespace programs;

struct Arguments {
  ModelOptions model;
  std::string text;
  int context = 0, stride = 0, step = 0;

  void add_to(CLI::App& app) {
    model.add_to(app);
    app.add_option("--text", text, "File whose bytes are scored")->required();
    app.add_option("--context", context, "Tokens in a window (default: the model's positions, at most 2048)");
    app.add_option("--stride", stride, "Tokens from one window to the next (default: half of the context)");
    app.add_option("--step", step, "Tokens that are read at a time; 1: as when text is written (default: the window)")
        ->check(CLI::Range(1, 1 << 30));
  }
};

/// Where the windows lie. Every byte but the first is scored once, in the first window that holds it.
struct Windows {
  int context = 0, stride = 0;

  Windows(const Arguments& arguments, const moe::io::ModelConfig& model)
      : context(arguments.context != 0 ? arguments.context : std::min(model.max_positions, 2048)),
        stride(arguments.stride != 0 ? arguments.stride : context / 2) {
    if (context < 2 || (!model.sliding_window && context > model.max_positions)) {
      refuse("--context", 2, model.max_positions, context);
    }
    if (stride < 1 || stride >= context) refuse("--stride", 1, context - 1, stride);
  }

 private:
  static void refuse(const char* option, int least, int most, int found) {
    moe::raise(
        moe::Error(option, "tokens", std::to_string(least) + " to " + std::to_string(most), std::to_string(found)));
  }
};

struct Score {
  double bits = 0, seconds = 0;
  std::int64_t scored = 0, tokens = 0, windows = 0;
  double bits_per_byte() const { return bits / static_cast<double>(scored); }
  double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

/// Tokens from `first_scored` on count; each is predicted by the row before it. `step` tokens are read at a time.
void score_window(std::span<const int> window, std::size_t first_scored, std::size_t step, engine::Sequence& sequence,
                  Score& score) {
  sequence.restart();
  const std::size_t read = window.size() - 1;
  for (std::size_t at = 0; at < read; at += step) {
    const std::size_t count = std::min(step, read - at);
    const engine::ConstRows logits = sequence.append(window.subspan(at, count), engine::LogitsOf::every_token);
    for (std::size_t i = std::max(at + 1, first_scored); i <= at + count; ++i) {
      score.bits += engine::bits(logits.row(static_cast<int>(i - at) - 1), window[i]);
    }
  }
  score.scored += static_cast<std::int64_t>(window.size() - first_scored);
  score.tokens += static_cast<std::int64_t>(read);
  ++score.windows;
}

Score score_text(std::span<const int> text, const Windows& windows, int step, const engine::Model& model) {
  engine::Sequence sequence(model);
  Progress progress("scoring");
  const Stopwatch watch;
  Score score;
  const auto at_once = static_cast<std::size_t>(step != 0 ? step : windows.context);
  const auto context = static_cast<std::size_t>(windows.context), stride = static_cast<std::size_t>(windows.stride);
  for (std::size_t begin = 0, scored = 1; scored < text.size(); begin += stride) {
    const std::size_t end = std::min(begin + context, text.size());
    score_window(text.subspan(begin, end - begin), scored - begin, at_once, sequence, score);
    scored = end;
    progress.show(static_cast<std::int64_t>(scored), static_cast<std::int64_t>(text.size()));
  }
  score.seconds = watch.seconds();
  if (!std::isfinite(score.bits)) moe::raise(moe::Error("engine", "logits", "numbers", "NaN: the model is broken"));
  return score;
}

void print_text(const Score& score, const Windows& windows, const engine::Model& model) {
  std::cout << number_text(score.bits_per_byte(), 5) << " bits per byte over " << score.scored << " bytes\n"
            << std::flush;
  std::cerr << score.windows << " windows of " << windows.context << " tokens, " << windows.stride << " apart, "
            << number_text(score.seconds, 1) << " s, " << number_text(score.tokens_per_second(), 0) << " tokens/s\n"
            << figures_as_text(model);
}

void print_json(const Score& score, const Windows& windows, const engine::Model& model, const Arguments& arguments) {
  Json out = figures_as_json(model);
  out["model"] = arguments.model.model;
  out["family"] = model.config().blocks.family;
  out["storage"] = arguments.model.storage.storage;
  out["text"] = arguments.text;
  out["policy"] = arguments.model.policy;
  out["bits_per_byte"] = score.bits_per_byte();
  out["scored_bytes"] = score.scored;
  out["windows"] = score.windows;
  out["context"] = windows.context;
  out["stride"] = windows.stride;
  out["seconds"] = score.seconds;
  out["tokens_per_second"] = score.tokens_per_second();
  std::cout << json_text(out) << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Bits per byte of a text: windows advance by the stride, positions restart at 0 in each, and every byte but the "
      "first of the text is scored once.",
      "perplexity");
  Arguments arguments;
  arguments.add_to(app);
  return programs::run(app, argc, argv, [&] {
    const std::vector<int> text = read_tokens(arguments.text, 2);
    const engine::Model model = arguments.model.load();
    require_bytes_as_tokens(model.config(), "bits per byte cannot be measured");
    const Windows windows(arguments, model.config());
    const Score score = score_text(text, windows, arguments.step, model);
    arguments.model.json ? print_json(score, windows, model, arguments) : print_text(score, windows, model);
  });
}
