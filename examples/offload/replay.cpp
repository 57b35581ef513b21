// replay: what caches of experts would do on a recorded routing, policy by policy.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <moe/io/trace_file.hpp>

#include "command_line.hpp"
#include "progress.hpp"
#include "replay_runs.hpp"

namespace {

using namespace programs;

struct Arguments {
  std::string trace, policy = "all", csv, plot;
  std::vector<std::string> capacities;
  ReplaySettings settings;
  bool json = false;

  void add_to(CLI::App& app) {
    app.add_option("--trace", trace, "JSON lines, as generate --trace and make_trace write them")->required();
    app.add_option("--policy", policy,
                   "lru, lfu, fld (furthest layer), hobbit, apex, adapmoe, plan (ExpertFlow), skip (cache-aware), min "
                   "(Belady), or all")
        ->capture_default_str();
    app.add_option(
           "--capacity,--capacities", capacities,
           "Slots (24), bytes (1.5G) or a share of the experts (25%); several, separated by commas, are a sweep")
        ->delimiter(',');
    app.add_option("--scope", settings.scope,
                   "layer: every layer has slots of its own, as many as the capacity; global: one pool")
        ->capture_default_str();
    app.add_option("--expert-bytes", settings.expert_bytes, "Bytes of an expert's record")->capture_default_str();
    add_policies_to(app);
    app.add_flag("--json", json, "Print JSON for machines: one object for one policy at one capacity");
    app.add_option("--csv", csv, "Write the results to this file too");
    app.add_option("--plot", plot, "Draw hit rate and bytes over the capacities (.png, .svg, .pdf; needs matplotlib)");
  }
  void add_policies_to(CLI::App& app) {
    const auto count = CLI::Range(0, 1 << 30);
    const auto share = CLI::Range(0.0, 1.0);
    app.add_option("--low-bytes", settings.low_bytes,
                   "hobbit, apex: bytes of a low-precision record (default: a quarter)");
    app.add_option("--high", settings.high, "hobbit, apex: slots of high precision (default: from the capacity)")
        ->check(count);
    app.add_option("--low", settings.low, "hobbit, apex: slots of low precision")->check(count);
    app.add_option("--t1", settings.t1, "hobbit, apex: high precision up to this share of weight ahead")
        ->check(share)
        ->capture_default_str();
    app.add_option("--t2", settings.t2, "hobbit, apex: low precision up to this share; skipped above")
        ->check(share)
        ->capture_default_str();
    app.add_option("--weights", settings.weights,
                   "hobbit: of recency, frequency, high-precision frequency, nearness; auto searches them on the trace")
        ->capture_default_str();
    app.add_option("--decay", settings.decay, "lfu: counts are multiplied by this after every period")
        ->check(share)
        ->capture_default_str();
    app.add_option("--period", settings.period, "lfu: uses in a period")
        ->check(CLI::Range(1, 1 << 30))
        ->capture_default_str();
    app.add_option("--threshold", settings.threshold, "adapmoe: T (default: 0.005, or the file's); 0: no gate")
        ->check(CLI::Range(0.0, 1e30));
    app.add_option("--sensitivity", settings.sensitivity,
                   "adapmoe: what calibrate_sensitivity wrote; auto: Mixtral-8x7B's, stretched over the layers")
        ->capture_default_str();
    app.add_option("--beta", settings.beta,
                   "adapmoe: chance that a prefetch covers a miss, of all layers or each, for the allocation (default: "
                   "0, nothing is prefetched here; paper: 0.84)");
    app.add_option("--allocation", settings.allocation,
                   "adapmoe: curves shares the slots out by what LRU loads on this trace, paper by the paper's model")
        ->capture_default_str();
    app.add_option("--least-slots", settings.least_slots, "adapmoe: of every layer")
        ->check(count)
        ->capture_default_str();
    app.add_option("--skip-below", settings.skip_below, "skip: share of weight below which a missing pick is left out")
        ->check(share)
        ->capture_default_str();
    app.add_option("--accuracy", settings.accuracy, "plan: of the predictor")->check(share)->capture_default_str();
    app.add_option("--seed", settings.seed, "plan: of the predictor's faults")->capture_default_str();
  }
};

/// A policy's run and Belady's at the same capacity.
struct Result {
  ReplayRun run, bound;
};

/// Whole numbers without a point.
Json number(double value) {
  if (value == std::floor(value) && std::fabs(value) < 0x1p53) return static_cast<std::int64_t>(value);
  return value;
}

Json json_of(const Result& result) {
  const moe::ReplayCounts& c = result.run.counts;
  Json out = result.run.setting;
  out["policy"] = result.run.policy;
  out["capacity"] = result.run.capacity;
  out["slots"] = result.run.slots;
  out["picks"] = c.picks;
  out["hits"] = c.hits;
  out["hit_rate"] = c.hit_rate();
  out["loads"] = c.loads;
  out["on_demand_loads"] = c.loads - c.prefetched;
  out["high_loads"] = c.high_loads;
  out["low_loads"] = c.low_loads;
  out["bytes"] = number(result.run.bytes);
  out["streamed"] = c.streamed;
  out["evictions"] = c.evictions;
  out["skips"] = c.skips;
  out["dropped"] = c.dropped;
  out["prefetched"] = c.prefetched;
  out["prefetch_used"] = c.prefetch_used;
  out["prefetch_wasted"] = c.prefetch_wasted;
  out["min_loads"] = result.bound.counts.loads;
  out["min_bytes"] = number(result.bound.bytes);
  out["min_hit_rate"] = result.bound.counts.hit_rate();
  return out;
}

std::string csv_of(const std::vector<Result>& results) {
  std::string text;
  for (const Result& r : results) {
    const Json line = json_of(r);
    constexpr const char* columns[] = {
        "policy",          "capacity",   "slots",         "picks",           "hits",      "hit_rate",  "loads",
        "on_demand_loads", "high_loads", "low_loads",     "bytes",           "streamed",  "evictions", "skips",
        "dropped",         "prefetched", "prefetch_used", "prefetch_wasted", "min_loads", "min_bytes", "min_hit_rate"};
    if (text.empty())
      for (const char* column : columns) text += std::string(column == columns[0] ? "" : ",") + column;
    text += "\n";
    for (const char* column : columns) {
      const Json& value = line[column];
      text += (column == columns[0] ? "" : ",") + (value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  return text + "\n";
}

void print_table(const Arguments& arguments, const moe::RoutingTrace& trace, const std::vector<Result>& results) {
  std::printf("%s: %zu records of %d layers, %d experts, k=%d; %s\n\n", arguments.trace.c_str(), trace.records().size(),
              trace.layers(), trace.experts(), trace.k(),
              arguments.settings.scope == "layer" ? "slots of each layer" : "slots for all layers");
  std::printf("%-8s %7s %10s %10s %7s %12s %9s %10s %10s %10s %8s\n", "policy", "slots", "loads", "on demand", "hits",
              "bytes", "of Belady", "prefetched", "wasted", "skipped", "streamed");
  std::string capacity;
  for (const Result& r : results) {
    if (!capacity.empty() && capacity != r.run.capacity) std::printf("\n");
    capacity = r.run.capacity;
    const moe::ReplayCounts& c = r.run.counts;
    const double ratio = r.bound.bytes > 0 ? r.run.bytes / r.bound.bytes : 0;
    const auto n = [](std::uint64_t count) { return static_cast<unsigned long long>(count); };
    std::printf("%-8s %7d %10llu %10llu %6.2f%% %12.6g %8.3fx %10llu %10llu %10llu %8llu\n", r.run.policy.c_str(),
                r.run.slots, n(c.loads), n(c.loads - c.prefetched), 100 * c.hit_rate(), r.run.bytes, ratio,
                n(c.prefetched), n(c.prefetch_wasted), n(c.skips + c.dropped), n(c.streamed));
  }
  const bool sized = arguments.settings.expert_bytes != ReplaySettings{}.expert_bytes;
  std::printf("\n\"of Belady\" is bytes read over those of the best eviction that never skips (min)%s\n",
              sized ? "" : "; bytes are in experts: give --expert-bytes");
}

/// Runs the plotting script beside this source.
void plot(const std::string& csv, const std::string& image) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::execlp("python3", "python3", MOE_PLOT_REPLAY, csv.c_str(), image.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  int status = -1;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
    moe::raise(
        moe::Error("--plot", MOE_PLOT_REPLAY, "python3 with matplotlib", "that it failed; the figures are in " + csv));
}

std::vector<Result> run_all(const Arguments& arguments, const moe::RoutingTrace& trace) {
  const ReplayRuns runs(trace, arguments.settings);
  std::vector<std::string> policies{arguments.policy}, capacities = arguments.capacities;
  if (arguments.policy == "all") policies = ReplayRuns::policies();
  const bool pools = arguments.settings.high || arguments.settings.low;
  if (capacities.empty() && pools) capacities.push_back(runs.capacity_of_pools());
  if (capacities.empty()) moe::raise(moe::Error("--capacity", "option", "slots, bytes or a share", "none"));
  std::vector<Result> results;
  Progress progress("replaying");
  const std::size_t total = policies.size() * capacities.size();
  for (const std::string& capacity : capacities) {
    const ReplayRun bound = runs.run("min", capacity);
    for (const std::string& policy : policies) {
      results.push_back({policy == "min" ? bound : runs.run(policy, capacity), bound});
      progress.show(static_cast<std::int64_t>(results.size()), static_cast<std::int64_t>(total));
    }
  }
  return results;
}

void print_json(const Arguments& arguments, const moe::RoutingTrace& trace, const std::vector<Result>& results) {
  Json out = Json::object(), lines = Json::array();
  for (const Result& r : results) lines.push_back(json_of(r));
  if (arguments.policy != "all" && results.size() == 1) {
    out = lines[0];
  } else {
    out["results"] = lines;
  }
  out["trace"] = arguments.trace;
  out["scope"] = arguments.settings.scope;
  out["layers"] = trace.layers();
  out["experts"] = trace.experts();
  out["k"] = trace.k();
  out["records"] = trace.records().size();
  std::cout << json_text(out) << "\n";
}

void replay(const Arguments& arguments) {
  const moe::RoutingTrace trace = moe::io::read_trace(arguments.trace);
  const std::vector<Result> results = run_all(arguments, trace);
  const std::string csv = arguments.csv.empty() && !arguments.plot.empty() ? arguments.plot + ".csv" : arguments.csv;
  if (!csv.empty()) write_file(csv, csv_of(results));
  if (!arguments.plot.empty()) plot(csv, arguments.plot);
  if (arguments.json) {
    print_json(arguments, trace, results);
  } else {
    print_table(arguments, trace, results);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Runs a recorded routing through caches of experts and counts what they would have read.", "replay");
  Arguments arguments;
  arguments.add_to(app);
  return programs::run(app, argc, argv, [&] { replay(arguments); });
}
