// Tokens per second where experts exceed memory: every technique over the same routing, from records on a real disk, in
// rounds of which the median counts, beside max(bytes / bandwidth, compute) of the same run. `offload_bench --help`;
// bench/offload.sh makes the README's figures.

#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include <moe/io/trace_file.hpp>
#include <moe/offline/trace_generator.hpp>

#include "offload/experiment.hpp"
#include "offload/report.hpp"

namespace {

using namespace offload;

struct Options {
  Sizes sizes;
  int topk = 8;
  std::string folder = (std::filesystem::temp_directory_path() / "moe-offload").string();
  std::vector<std::string> traces{"sticky"}, techniques;
  std::vector<int> batches{1};
  std::vector<double> budgets{7, 10, 25, 50};
  int tokens = 24, warmup = 48, sequence = 24, rounds = 3;
  int threads = 0, readers = 2;
  bool no_resident = false, make_only = false, balance = false, rings = false;
  std::string csv;
};

/// Made up by name, or read from a file.
moe::RoutingTrace load_trace(const Options& o, const std::string& name, int batch, int steps) {
  moe::TraceShape shape{.layers = o.sizes.layers, .experts = o.sizes.experts, .k = o.topk, .batch = batch, .seed = 1};
  shape.tokens = std::min(steps, o.sequence);
  shape.sequences = batch * moe::pieces(steps, shape.tokens);
  if (name == "sticky") return generate_trace(shape);
  if (name == "taste") {
    shape.bias = 1.5;
    shape.rho = 0.3;
    shape.tau = 0.62;
    return generate_trace(shape);
  }
  if (name == "uniform") {
    shape.bias = shape.rho = 0;
    return generate_trace(shape);
  }
  moe::RoutingTrace trace = moe::io::read_trace(name);
  for (const auto& [what, most, found] :
       {std::tuple{"layers", o.sizes.layers, trace.layers()}, std::tuple{"experts", o.sizes.experts, trace.experts()}})
    if (found > most)
      moe::raise(moe::Error(name, what, moe::concat("at most ", most, ", as the records"), std::to_string(found)));
  return trace;
}

Setup make_setup(const Options& o, const ModelFile& file, const moe::RoutingTrace& trace, int rows) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads = o.threads > 0 ? o.threads : std::max(1, cores - 1);
  return {.file = &file,
          .cpu = moe::Cpu{.threads = threads},
          .readers = o.readers,
          .layers = trace.layers(),
          .experts = trace.experts(),
          .k = trace.k(),
          .rows = rows};
}

std::size_t budget_bytes(const Setup& setup, double percent) {
  return static_cast<std::size_t>(percent / 100 * static_cast<double>(setup.expert_bytes()));
}

/// All rounds of some techniques over one experiment.
class Comparison {
 public:
  Comparison(Experiment& experiment, std::string trace, bool with_resident)
      : experiment_(experiment), trace_(std::move(trace)) {
    if (!with_resident) return;
    resident_ = make_model(experiment.setup(), resident_technique_, 0, {});
    for (const bool gated : {false, true}) {
      Technique t = resident_technique_;
      t.gated = gated;
      expected_[gated] = experiment.run(*resident_, t).y;
    }
  }

  void add(const Technique& t, double budget) { entries_.push_back({t, budget}); }

  /// Reports each technique when its last round ends. False if an output is wrong.
  bool run(int rounds, Report& report) {
    bool right = true;
    for (int round = 0; round < rounds; ++round) {
      if (resident_ != nullptr) resident_rounds_.push_back({experiment_.run(*resident_, resident_technique_), {}});
      Limits before = measure_disk(round);
      for (Entry& entry : entries_) {
        show_progress(moe::concat(trace_, ", round ", round + 1, " of ", rounds, ": ", label(entry.technique)));
        if (entry.technique.kind != Kind::resident) before = take_turn(entry, round, before);
        if (round + 1 < rounds) continue;
        show_progress("");
        right = write(entry, report) && right;
      }
    }
    return right;
  }

  double seconds_per_layer(const Technique& t, double budget) {
    return experiment_.run(t, budget_bytes(experiment_.setup(), budget)).seconds / experiment_.schedule().steps /
           experiment_.setup().layers;
  }

 private:
  struct Round {
    Figures figures;
    Limits limits;
  };
  struct Entry {
    Technique technique;
    double budget;
    std::vector<Round> rounds = {};
    std::string output = "not checked";
    bool right = true;
  };

  /// Returns what the disk gives afterwards.
  Limits take_turn(Entry& entry, int round, const Limits& before) {
    Figures figures = experiment_.run(entry.technique, budget_bytes(experiment_.setup(), entry.budget));
    const Limits after = measure_disk(round);
    compare(entry, figures);
    figures.y = {};
    entry.rounds.push_back({std::move(figures), between(before, after)});
    return after;
  }
  /// A disk that others use too is another one a second later: it is measured before and after each turn.
  Limits measure_disk(int round) const {
    const auto sources = layer_sources<BothFormats>(experiment_.setup());
    const auto& source = sources[static_cast<std::size_t>(round) % sources.size()];
    constexpr std::size_t enough = std::size_t{256} << 20;
    return {bandwidth(source, 0, enough), bandwidth(source, 1, enough), 0};
  }
  static Limits between(const Limits& a, const Limits& b) {
    return {(a.high_bytes_per_s + b.high_bytes_per_s) / 2, (a.low_bytes_per_s + b.low_bytes_per_s) / 2, 0};
  }

  void compare(Entry& entry, const Figures& figures) const {
    if (resident_ == nullptr) return;
    const double apart = distance(figures.y, expected_[entry.technique.gated]);
    if (!entry.technique.exact()) {
      entry.output = moe::concat(std::to_string(apart).substr(0, 6), " off");
    } else if (apart != 0) {
      entry.right = false;
      entry.output = "WRONG";
    } else if (entry.right) {
      entry.output = "identical";
    }
  }

  static const Round& median(std::vector<Round>& rounds) {
    const auto middle = rounds.begin() + static_cast<std::ptrdiff_t>(rounds.size() / 2);
    std::nth_element(rounds.begin(), middle, rounds.end(),
                     [](const Round& a, const Round& b) { return a.figures.seconds < b.figures.seconds; });
    return *middle;
  }
  bool write(Entry& entry, Report& report) {
    if (entry.technique.kind == Kind::resident) {
      entry.rounds = resident_rounds_;
      entry.output = "identical";
    }
    if (entry.rounds.empty()) return true;
    Round round = median(entry.rounds);
    if (!resident_rounds_.empty())
      round.limits.compute_s = median(resident_rounds_).figures.seconds / experiment_.tokens();
    report.add({trace_, experiment_.setup().rows, entry.budget, label(entry.technique), experiment_.tokens(),
                std::move(round.figures), round.limits, entry.output});
    return entry.right;
  }

  static inline const Technique resident_technique_{.name = "resident", .kind = Kind::resident};
  Experiment& experiment_;
  std::string trace_;
  std::unique_ptr<Model> resident_;
  std::vector<float> expected_[2];  // by Technique::gated
  std::vector<Round> resident_rounds_;
  std::vector<Entry> entries_;
};

bool wanted(const Options& o, const Technique& t) {
  return o.techniques.empty() || std::find(o.techniques.begin(), o.techniques.end(), t.name) != o.techniques.end();
}

/// Percent of the experts' bytes that a technique without a budget holds.
double own_budget(const Setup& setup, const Technique& t) {
  if (t.kind == Kind::resident) return 100;
  if (t.kind == Kind::ring) return 100.0 * std::min(t.sections, setup.layers) / setup.layers;
  return 100.0 * setup.k / (setup.layers * setup.experts);
}

bool run_trace(const Options& o, const ModelFile& file, const std::string& name, int batch, Report& report) {
  const Schedule schedule{.warmup = o.warmup, .steps = o.tokens};
  const moe::RoutingTrace trace = load_trace(o, name, batch, o.warmup + o.tokens);
  const Setup setup = make_setup(o, file, trace, batch);
  Experiment experiment(setup, trace, schedule);
  std::string title = std::filesystem::path(name).stem().string();
  if (o.balance) {
    Comparison probe(experiment, title, false);
    experiment.set_between(probe.seconds_per_layer({.name = "lru-per-layer", .own_slots = true}, o.budgets[0]));
    title += "+work";
  }
  Comparison comparison(experiment, title, !o.no_resident);
  for (const Technique& t : all_techniques())
    if (wanted(o, t) && !t.budgeted()) comparison.add(t, own_budget(setup, t));
  for (const double budget : o.budgets)
    for (const Technique& t : all_techniques())
      if (wanted(o, t) && t.budgeted() && fits(setup, t, budget_bytes(setup, budget))) comparison.add(t, budget);
  return comparison.run(o.rounds, report);
}

// ---- rings

/// Rows at which computing a layer takes `seconds`, from the times of two numbers of rows.
int rows_for(const Options& o, const ModelFile& file, double seconds) {
  const auto layer_seconds = [&](int rows) {
    const moe::RoutingTrace trace = load_trace(o, "sticky", rows, 1);
    const Setup setup = make_setup(o, file, trace, rows);
    Experiment experiment(setup, trace, {.warmup = 0, .steps = 1});
    const Technique resident{.name = "resident", .kind = Kind::resident};
    const std::unique_ptr<Model> model = make_model(setup, resident, 0, {});
    experiment.run(*model, resident);
    return experiment.run(*model, resident).seconds / setup.layers;
  };
  constexpr int few = 256, many = 768, most = 8192;
  const double a = layer_seconds(few), b = layer_seconds(many);
  const double rows = few + (seconds - a) * (many - few) / std::max(b - a, 1e-9);
  return static_cast<int>(std::clamp(rows, 8.0, static_cast<double>(most)));
}

/// SE-MoE's ring for prefill: as many rows as make computing a layer as long as reading it, and longer.
bool run_rings(const Options& o, const ModelFile& file, Report& report) {
  bool right = true;
  const moe::RoutingTrace any = load_trace(o, "uniform", 1, 1);
  const Setup setup = make_setup(o, file, any, 1);
  const auto sources = layer_sources<High>(setup);
  const double layer_bytes = static_cast<double>(setup.expert_bytes()) / setup.layers;
  const double transfer = layer_bytes / bandwidth(sources[0], 0, static_cast<std::size_t>(layer_bytes));
  for (const auto& [name, share] : {std::pair{"balanced", 1.0}, std::pair{"compute", 0.75}}) {
    const int rows = rows_for(o, file, transfer / share);
    const moe::RoutingTrace trace = load_trace(o, "sticky", rows, 3);
    const Setup with_rows = make_setup(o, file, trace, rows);
    Experiment experiment(with_rows, trace, {.warmup = 1, .steps = 2});
    Comparison comparison(experiment, name, true);
    comparison.add({.name = "resident", .kind = Kind::resident}, 100);
    for (const int sections : {1, 2}) {
      const Technique ring{.name = moe::concat("ring K=", sections), .kind = Kind::ring, .sections = sections};
      comparison.add(ring, own_budget(with_rows, ring));
    }
    right = comparison.run(o.rounds, report) && right;
  }
  return right;
}

bool run(const Options& o) {
  const ModelFile file(o.sizes, o.folder);
  if (o.make_only) return true;
  Report report(moe::round_up(moe::PanelLayout::record_bytes<High>({o.sizes.hidden, o.sizes.ffn}), moe::page_alignment),
                o.csv);
  bool right = true;
  if (o.rings) {
    right = run_rings(o, file, report);
  } else {
    for (const std::string& trace : o.traces)
      for (const int batch : o.batches) right = run_trace(o, file, trace, batch, report) && right;
  }
  report.print_targets();
  return right;
}

void add_options(CLI::App& app, Options& o) {
  const CLI::Range size(1, 1 << 20);
  app.add_option("--dir", o.folder, "folder of the records, on the disk to measure; kept for the next run")
      ->capture_default_str();
  app.add_option("--layers", o.sizes.layers, "layers of the model")->capture_default_str()->check(size);
  app.add_option("--experts", o.sizes.experts, "experts of a layer")->capture_default_str()->check(size);
  app.add_option("--hidden", o.sizes.hidden, "width of the layers")->capture_default_str()->check(size);
  app.add_option("--ffn", o.sizes.ffn, "width inside an expert")->capture_default_str()->check(size);
  app.add_option("--topk", o.topk, "experts of a token, in made-up traces")->capture_default_str()->check(size);
  app.add_option("--traces", o.traces, "sticky, taste, uniform (docs: moe::TraceShape), or files of generate --trace");
  app.add_option("--batches", o.batches, "sequences that decode together")->check(CLI::Range(1, 4096));
  app.add_option("--budgets", o.budgets, "percent of the experts' bytes")->check(CLI::Range(0.1, 100.0));
  app.add_option("--techniques", o.techniques, "names of those to run; all if none");
  app.add_option("--tokens", o.tokens, "of each sequence, measured")->capture_default_str()->check(size);
  app.add_option("--warmup", o.warmup, "tokens of each sequence before them")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--sequence", o.sequence, "tokens of a sequence in made-up traces")
      ->capture_default_str()
      ->check(size);
  app.add_option("--rounds", o.rounds, "rounds, of which the median counts")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--threads", o.threads, "that compute; 0: all cores but one, which readers share")
      ->capture_default_str();
  app.add_option("--readers", o.readers, "threads that read")->capture_default_str()->check(CLI::Range(1, 64));
  app.add_option("--csv", o.csv, "file for the figures");
  app.add_flag("--no-resident", o.no_resident, "hold no model in memory: no comparison of outputs, no compute bound");
  app.add_flag("--balance", o.balance,
               "other work behind each layer, as long as lru-per-layer takes for one at the first budget: reading and "
               "computing weigh the same, as ExpertFlow's figures ask");
  app.add_flag("--rings", o.rings,
               "SE-MoE's ring instead of the traces, at the numbers of rows where reading and computing meet");
  app.add_flag("--make-only", o.make_only, "write the records and stop");
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app{"Techniques for experts larger than memory, measured on a real disk."};
  add_options(app, o);
  try {
    app.parse(argc, argv);
    if (run(o)) return 0;
    std::fprintf(stderr, "offload_bench: an output differs from the resident model's\n");
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "offload_bench: %s\n", error.what());
  }
  return 1;
}
