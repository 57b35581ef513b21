#include "block_builder.hpp"

namespace engine {

template <>
Block make_block_as<moe::q4_0>(std::shared_ptr<const moe::io::Checkpoint> checkpoint, int layer,
                               const BlockOptions& options, const moe::Cpu& executor) {
  return BlockBuilder<moe::q4_0, moe::Cpu>(std::move(checkpoint), layer, options, executor).build();
}

}  // namespace engine
