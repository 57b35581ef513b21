// ReplayRuns: the policies of `replay` by name, on one trace, with the settings of the command line.
#pragma once

#include <moe/io/json.hpp>
#include <moe/offline/replay_cache.hpp>
#include <optional>
#include <string>
#include <vector>

namespace programs {

/// Options that are no numbers yet; empty texts and no values are what the names stand for.
struct ReplaySettings {
  std::string scope = "global", expert_bytes = "1", low_bytes;
  std::optional<int> high, low;  // slots of HOBBIT's and APEX's pools; none: from the capacity
  double t1 = 0.6, t2 = 0.9;
  std::string weights = "0.25,0.25,0.25,0.25";  // of HOBBIT's eviction, or auto
  double decay = 1;
  int period = 1024;
  std::optional<double> threshold;    // AdapMoE's T
  std::string sensitivity = "auto";   // or a file
  std::string beta;                   // of all layers, or one for each
  std::string allocation = "curves";  // or paper
  int least_slots = 0;
  double skip_below = 0.2;
  double accuracy = 1;
  std::uint64_t seed = 0;
};

/// One policy at one capacity.
struct ReplayRun {
  std::string policy, capacity;
  int slots = 0;  // of a pool, with one precision
  moe::ReplayCounts counts;
  double bytes = 0;
  moe::io::Json setting = moe::io::Json::object();  // what the policy made of its options
};

/// Throws moe::Error for settings that do not fit the trace. The trace outlives it.
class ReplayRuns {
 public:
  ReplayRuns(const moe::RoutingTrace& trace, const ReplaySettings& settings);

  /// In the order of tables; the last one is Belady's bound.
  static const std::vector<std::string>& policies();
  /// Throws moe::Error for other names and for capacities that are none: slots ("24"), bytes ("1.5G", "4096B", rounded
  /// down to whole experts) or a share of the experts ("25%"); of a layer's with one pool for each layer.
  ReplayRun run(const std::string& policy, const std::string& capacity) const;
  /// The capacity in bytes of the pools that --high and --low name, as slots of the high precision.
  std::string capacity_of_pools() const;

 private:
  struct Pools {
    int high = 0, low = 0;
  };

  int slots(const std::string& capacity) const;
  Pools pools(int slots) const;
  void run_mixed(ReplayRun& run) const;
  void run_adapmoe(ReplayRun& run) const;
  std::vector<int> allocate(const std::vector<double>& thresholds, int total) const;
  std::vector<double> gate() const;
  std::vector<double> betas() const;

  const moe::RoutingTrace& trace_;
  const ReplaySettings& settings_;
  moe::CacheScope scope_;
  double expert_bytes_, low_bytes_;
};

}  // namespace programs
