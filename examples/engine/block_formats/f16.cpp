#include "block_builder.hpp"

namespace engine {

template <>
Block make_block_as<moe::f16>(std::shared_ptr<const moe::io::Checkpoint> checkpoint, int layer,
                              const BlockOptions& options, const moe::Cpu& executor) {
  return BlockBuilder<moe::f16, moe::Cpu>(std::move(checkpoint), layer, options, executor).build();
}

}  // namespace engine
