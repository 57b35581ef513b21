// StorageChoice: where the experts of a model live and what moves them, as options and as text.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <moe/storage/cached.hpp>
#include <string_view>
#include <vector>

namespace engine {

/// Who guesses what the next layers will want.
enum class Predictor {
  none,
  next_gate,    // the gates of the next layers, on the input of the running one
  token_table,  // what the tokens of the call chose before, counted while the model runs
  paths,        // a network that sees the tokens and plans for all layers at once
  first_gate,   // a gate trained for layer 0, on the outputs for the tokens before; next_gate for the other layers
};

struct StorageChoice {
  enum class Kind { resident, cached, ring };

  Kind kind = Kind::resident;
  std::size_t bytes = 0;                    // of the cache, or of the ring's sections
  int ring_layers = 0;                      // sections of the ring, in place of bytes
  std::size_t lower_bytes = 0;              // of a cache that the first one reads through; 0: none
  std::filesystem::path experts_file = {};  // written by pack_experts; empty: the checkpoint, packed at every read

  // of a cache
  moe::AnyEviction eviction = moe::Lru{};
  bool per_layer = false;         // every layer its own slots, as many as the others
  std::vector<int> allocation{};  // slots of each layer with experts; empty: see `per_layer`
  int staging_slots = 0;          // within the bytes, for experts that are used and not kept
  moe::Prefetch prefetch = moe::Prefetch::off;
  Predictor predictor = Predictor::next_gate;
  int horizon = 3;                            // layers that are guessed for, as long as nothing is missing
  std::filesystem::path predictor_file = {};  // of Predictor::paths and first_gate

  // experts of less importance in q4_0
  bool mixed = false;
  std::array<float, 2> thresholds{0.6f, 0.9f};  // of the weight on better experts: low precision above, skipped above
  double low_share = 0;                         // of the bytes; 0: as many slots as the others have
};

/// "resident", "cached:BYTES", "cached:BYTES/BYTES" (a cache that reads through a second one), "ring:BYTES" or
/// "ring:layers=K", where K, M and G after a number of bytes stand for powers of 1024. Throws moe::Error for anything
/// else.
StorageChoice storage_from_text(std::string_view text);

/// "lru", "lfu", "lfu:DECAY", "hobbit", "hobbit:A,B,C,D" (weights of recency, frequency, high-precision frequency and
/// nearness), "apex", "apex:COST" (of a less precise record), "fld" or "plan". Throws moe::Error for anything else.
moe::AnyEviction eviction_from_text(std::string_view text);

/// "off", "observe" or "enforce". Throws moe::Error for anything else.
moe::Prefetch prefetch_from_text(std::string_view text);

/// Sets the predictor: "none", "next-gate", "token-table", "path:FILE" or "first-gate:FILE". Throws moe::Error for
/// anything else.
void set_predictor(StorageChoice& choice, std::string_view text);

/// Numbers separated by commas. Throws moe::Error about `option` for anything else.
std::vector<double> numbers_from_text(const char* option, std::string_view text);

}  // namespace engine
