#include "storage_options.hpp"

#include <cmath>

#include "command_line.hpp"

namespace programs {

namespace {

double share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}
double hit_rate(const moe::CacheStatistics& c) {
  return c.hits + c.misses == 0 ? 1.0 : share(c.hits, c.hits + c.misses);
}
double seconds(std::uint64_t ns) { return static_cast<double>(ns) * 1e-9; }

std::string percent(double share) { return number_text(100 * share, 1) + " %"; }
std::string bytes_text(std::uint64_t bytes) { return programs::bytes_text(static_cast<double>(bytes)); }

std::string cache_text(const moe::CacheStatistics& c) {
  return "cache: " + std::to_string(c.hits) + " hits, " + std::to_string(c.misses) + " misses (" +
         std::to_string(c.streamed) + " not kept), " + std::to_string(c.skipped) + " skipped, hit rate " +
         percent(hit_rate(c)) + "; " + std::to_string(c.loads) + " loads of " + bytes_text(c.bytes_read) + ", " +
         std::to_string(c.evictions) + " evictions\n";
}
std::string guesses_text(const moe::CacheStatistics& c) {
  return "guesses: " + std::to_string(c.prefetched) + " experts prefetched, " + std::to_string(c.prefetched_used) +
         " used, " + std::to_string(c.prefetched_wasted) + " wasted; predictor's precision " +
         percent(share(c.predicted_right, c.predicted)) + ", recall " + percent(share(c.predicted_right, c.needed)) +
         "\n";
}

std::vector<int> slots_from_text(const std::string& text) {
  std::vector<int> slots;
  for (const double value : engine::numbers_from_text("--allocation", text)) {
    if (!(value >= 0 && value <= 1e6) || value != std::floor(value))
      moe::raise(moe::Error("--allocation", "slots of a layer", "whole numbers from 0 on", text));
    slots.push_back(static_cast<int>(value));
  }
  return slots;
}

}  // namespace

void StorageOptions::add_to(CLI::App& app) {
  app.add_option("--storage", storage,
                 "Where the experts live: resident, cached:BYTES as in cached:64M, cached:BYTES/BYTES (through a "
                 "second cache), ring:BYTES or ring:layers=K")
      ->capture_default_str();
  app.add_option("--experts-file", experts_file_,
                 "Records of the experts by pack_experts (default: the checkpoint, packed at every read, slower)");
  app.add_option(
         "--eviction", eviction_,
         "What a full cache gives up: lru, lfu, lfu:DECAY, hobbit, hobbit:A,B,C,D, apex, apex:COST, fld or plan")
      ->capture_default_str();
  app.add_flag("--per-layer", per_layer_, "The same number of slots for every layer, instead of one pool");
  app.add_option("--allocation", allocation_, "Slots of each layer with experts, as in 4,2,0,6");
  app.add_option("--staging", staging_, "Slots for experts that are used and not kept")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--prefetch", prefetch_, "Guesses of what comes next: off, observe (only count them) or enforce")
      ->capture_default_str();
  app.add_option("--predictor", predictor_, "Who guesses: next-gate, token-table, path:FILE, first-gate:FILE or none")
      ->capture_default_str();
  app.add_option("--horizon", horizon_, "Layers that are guessed for, as long as all that is guessed is there")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--low-precision", low_precision_, "Format of experts of less importance: q4_0 (default: none)");
  app.add_option("--thresholds", thresholds_,
                 "Share of a token's weight on better experts above which an expert that is missing is loaded in low "
                 "precision, and above which it is skipped")
      ->capture_default_str();
  app.add_option("--low-share", low_share_, "Of the bytes, for low precision; 0: as many slots as the others")
      ->capture_default_str();
}

engine::StorageChoice StorageOptions::parse() const {
  engine::StorageChoice choice = engine::storage_from_text(storage);
  choice.experts_file = experts_file_;
  choice.eviction = engine::eviction_from_text(eviction_);
  choice.per_layer = per_layer_;
  if (!allocation_.empty()) choice.allocation = slots_from_text(allocation_);
  choice.staging_slots = staging_;
  choice.prefetch = engine::prefetch_from_text(prefetch_);
  engine::set_predictor(choice, predictor_);
  choice.horizon = horizon_;
  if (!low_precision_.empty() && low_precision_ != "q4_0")
    moe::raise(moe::Error("--low-precision", "format", "q4_0", low_precision_));
  choice.mixed = !low_precision_.empty();
  const std::vector<double> thresholds = engine::numbers_from_text("--thresholds", thresholds_);
  moe::require_equal("--thresholds", "numbers", std::size_t{2}, thresholds.size());
  choice.thresholds = {static_cast<float>(thresholds[0]), static_cast<float>(thresholds[1])};
  choice.low_share = low_share_;
  return choice;
}

Json storage_as_json(const engine::Model& model) {
  const engine::StorageFigures f = model.experts().storage_figures();
  const moe::CacheStatistics& c = f.cache;
  return {{"bytes_read", f.bytes_read},
          {"bytes_held", f.bytes_held},
          {"repacks", model.experts().offloading().repacks()},
          {"hits", c.hits},
          {"misses", c.misses},
          {"skipped", c.skipped},
          {"streamed", c.streamed},
          {"hit_rate", hit_rate(c)},
          {"loads", c.loads},
          {"loads_by_format", c.loads_by_format},
          {"bytes_loaded", c.bytes_read},
          {"evictions", c.evictions},
          {"prefetched", c.prefetched},
          {"prefetched_used", c.prefetched_used},
          {"prefetched_wasted", c.prefetched_wasted},
          {"predictor_precision", share(c.predicted_right, c.predicted)},
          {"predictor_recall", share(c.predicted_right, c.needed)},
          {"stalls", c.stalls},
          {"stall_seconds", seconds(c.stall_ns)}};
}

std::string storage_as_text(const engine::Model& model) {
  using Kind = engine::StorageChoice::Kind;
  const engine::Offloading& offloading = model.experts().offloading();
  const engine::StorageFigures f = model.experts().storage_figures();
  const Kind kind = offloading.choice().kind;
  std::string text = "experts: " + bytes_text(f.bytes_read) + " read, " + bytes_text(f.bytes_held) + " held";
  if (kind == Kind::resident) return text + " (all resident)\n";
  text +=
      ", waited " + std::to_string(f.cache.stalls) + " times for " + number_text(seconds(f.cache.stall_ns), 3) + " s\n";
  if (kind == Kind::cached) text += cache_text(f.cache);
  if (offloading.guesses()) text += guesses_text(f.cache);
  if (offloading.repacks())
    text +=
        "every read packed an expert of the checkpoint anew; pack_experts writes records for --experts-file that "
        "are read as they are\n";
  return text;
}

}  // namespace programs
