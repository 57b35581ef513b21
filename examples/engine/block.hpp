// One mixture-of-experts block of any known family, over any format, storage and executor.
#pragma once

#include <cstddef>
#include <memory>
#include <moe/any_layer.hpp>
#include <moe/executors/cpu.hpp>
#include <moe/frame.hpp>
#include <moe/io/checkpoint.hpp>
#include <moe/storage/cached.hpp>

#include "block_weights.hpp"
#include "options.hpp"

namespace moe {
struct EigenReference;
}

namespace engine {

/// Sees what a block decides, call by call and chunk by chunk.
struct BlockObserver {
  virtual ~BlockObserver() = default;
  virtual void logits(moe::View<const float>) const {}
  virtual void routed(const moe::Frame<>&) const {}
};

struct BlockOptions {
  Format format = Format::f32;              // of the routed experts; that of the shared ones: see `shared_format`
  const moe::ExpertCache* cache = nullptr;  // null: all experts in memory
  const BlockObserver* observer = nullptr;  // null: nobody looks
};

/// A layer with what it views.
struct Block {
  std::shared_ptr<const BlockWeights> weights;
  std::unique_ptr<moe::AnyLayer<>> layer;
  std::size_t bytes_held = 0;  // of experts, outside the cache
};

/// The format in which a checkpoint stores its experts.
Format format_of(const moe::io::Checkpoint& checkpoint);

/// Reads what the block of `layer` needs. Throws moe::IoError for what is missing or malformed.
Block make_block(std::shared_ptr<const moe::io::Checkpoint> checkpoint, int layer, const BlockOptions& options,
                 const moe::Cpu& executor);
/// The same for reading along; of library moe_engine_eigen. Knows no cache.
Block make_block(std::shared_ptr<const moe::io::Checkpoint> checkpoint, int layer, const BlockOptions& options,
                 const moe::EigenReference& executor);

}  // namespace engine
