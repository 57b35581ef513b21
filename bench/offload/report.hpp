// Report: what a technique measured, as a line of a table or of a CSV file, and beside the targets of the project.
#pragma once

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "experiment.hpp"

namespace offload {

/// What the machine gives, measured around a turn.
struct Limits {
  double high_bytes_per_s = 0, low_bytes_per_s = 0;  // of records, past the page cache
  double compute_s = 0;                              // of a token of the resident model; 0: not measured
};

/// One technique over one routing; all of it from the round of median time.
struct Result {
  std::string trace;
  int batch = 1;
  double budget = 0;  // percent of the experts' bytes
  std::string technique;
  int tokens = 0;
  Figures figures;
  Limits limits;
  std::string output = "not checked";

  double seconds_per_token() const { return figures.seconds / tokens; }
  double per_token(std::uint64_t count) const { return static_cast<double>(count) / tokens; }
  double stall_s() const { return static_cast<double>(figures.cache.stall_ns) * 1e-9 / tokens; }
  /// max(bytes / bandwidth, compute) of a token.
  double bound_s(std::size_t high_bytes) const {
    const double bytes = static_cast<double>(figures.cache.bytes_read);
    const double low_loads = static_cast<double>(figures.cache.loads_by_format[1]);
    const double low =
        low_loads > 0 ? bytes - static_cast<double>(high_bytes) * static_cast<double>(figures.cache.loads_by_format[0])
                      : 0;
    if (bytes == 0) return limits.compute_s;
    const double reading = (bytes - low) / limits.high_bytes_per_s + std::max(low, 0.0) / limits.low_bytes_per_s;
    return std::max(reading / tokens, limits.compute_s);
  }
};

/// Prints lines as they come.
class Report {
 public:
  Report(std::size_t high_bytes, const std::string& csv) : high_bytes_(high_bytes) {
    std::printf("%-12s %5s %7s %-18s %9s %9s %9s %9s %8s %8s %8s %8s %7s  %s\n", "trace", "batch", "budget",
                "technique", "tokens/s", "ms/token", "MB/token", "stall ms", "hits", "misses", "guessed", "unused",
                "/bound", "output");
    if (csv.empty()) return;
    csv_.reset(std::fopen(csv.c_str(), "w"));
    if (csv_ == nullptr) moe::raise(moe::IoError(csv, "cannot be written", "a folder with room", "none"));
    std::fprintf(csv_.get(),
                 "trace,batch,budget,technique,tokens_per_s,ms_per_token,mb_per_token,stall_ms_per_token,hits,misses,"
                 "skipped,streamed,loads,low_loads,guessed,guessed_used,guessed_wasted,bound_ms,of_bound,disk_mb_per_s,"
                 "disk_low_mb_per_s,compute_ms,output\n");
    std::fflush(csv_.get());
  }

  void add(const Result& r) {
    const moe::CacheStatistics& c = r.figures.cache;
    const double ms = 1e3 * r.seconds_per_token(), bound = 1e3 * r.bound_s(high_bytes_);
    const double megabytes = 1e-6 * r.per_token(c.bytes_read);
    std::printf("%-12.12s %5d %6.1f%% %-18s %9.2f %9.2f %9.1f %9.2f %8.2f %8.2f %8.2f %8.2f %7.3f  %s\n",
                r.trace.c_str(), r.batch, r.budget, r.technique.c_str(), 1e3 / ms, ms, megabytes, 1e3 * r.stall_s(),
                r.per_token(c.hits), r.per_token(c.misses), r.per_token(c.prefetched), r.per_token(c.prefetched_wasted),
                bound > 0 ? ms / bound : 0, r.output.c_str());
    std::fflush(stdout);
    if (csv_ != nullptr) {
      std::fprintf(csv_.get(), "%s,%d,%.6g,%s,%.6g,%.6g,%.6g,%.6g,", r.trace.c_str(), r.batch, r.budget,
                   r.technique.c_str(), 1e3 / ms, ms, megabytes, 1e3 * r.stall_s());
      for (const std::uint64_t count : {c.hits, c.misses, c.skipped, c.streamed, c.loads, c.loads_by_format[1],
                                        c.prefetched, c.prefetched_used, c.prefetched_wasted})
        std::fprintf(csv_.get(), "%.6g,", r.per_token(count));
      std::fprintf(csv_.get(), "%.6g,%.6g,%.6g,%.6g,%.6g,%s\n", bound, bound > 0 ? ms / bound : 0,
                   1e-6 * r.limits.high_bytes_per_s, 1e-6 * r.limits.low_bytes_per_s, 1e3 * r.limits.compute_s,
                   r.output.c_str());
      std::fflush(csv_.get());
    }
    results_.push_back(r);
    results_.back().figures.y = {};
  }

  /// The targets that the results say something about.
  void print_targets() const {
    std::printf("\n%-104s %8s %8s\n", "target", "asked", "measured");
    for (const Result& r : results_) {
      if (r.technique == "next-layer 1.0" && r.batch == 1)
        line(r, "time over max(bytes / bandwidth, compute), perfect guesses", "<=", 1.05,
             r.seconds_per_token() / r.bound_s(high_bytes_));
      if (r.technique.rfind("hobbit", 0) == 0 && r.batch == 1)
        compare(r, "lru", "tokens/s over those of lru", 1.3, &Report::speed);
      if (r.technique.rfind("adapmoe", 0) == 0 && r.batch == 1)
        compare(r, "lru-per-layer", "loads on demand of lru-per-layer over its own", 1.3, &Report::fewer_misses);
      if (r.technique.rfind("expertflow", 0) == 0 && r.batch > 1)
        compare(r, "lru-per-layer", "tokens/s over those of lru-per-layer", 1.5, &Report::speed);
      if (r.technique == "ring K=2" && r.trace == "balanced")
        compare(r, "ring K=1", "tokens/s over those of K=1, transfer = compute", 1.8, &Report::speed, false);
      if (r.technique == "ring K=2" && r.trace == "compute")
        compare(r, "resident", "time over resident, transfer <= 0.8 compute", 1.05, &Report::slower, false);
    }
  }

 private:
  static double speed(const Result& a, const Result& b) { return b.seconds_per_token() / a.seconds_per_token(); }
  static double slower(const Result& a, const Result& b) { return a.seconds_per_token() / b.seconds_per_token(); }
  static double fewer_misses(const Result& a, const Result& b) {
    return b.per_token(b.figures.cache.misses) / a.per_token(a.figures.cache.misses);
  }
  static void line(const Result& r, const char* what, const char* sign, double asked, double measured) {
    std::printf("%-12.12s %5d %5.1f%% %-18s %-58s %2s %5.2f %8.2f\n", r.trace.c_str(), r.batch, r.budget,
                r.technique.c_str(), what, sign, asked, measured);
  }
  void compare(const Result& r, const std::string& with, const char* what, double asked,
               double (*ratio)(const Result&, const Result&), bool same_budget = true) const {
    for (const Result& other : results_)
      if (other.technique == with && other.trace == r.trace && other.batch == r.batch &&
          (!same_budget || other.budget == r.budget))
        line(r, what, ratio == &Report::slower ? "<=" : ">=", asked, ratio(r, other));
  }

  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  std::size_t high_bytes_;
  std::unique_ptr<std::FILE, Close> csv_;
  std::vector<Result> results_;
};

}  // namespace offload
