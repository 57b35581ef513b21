#include <moe/executors/eigen.hpp>

#include "block_builder.hpp"

namespace engine {

Block make_block(std::shared_ptr<const moe::io::Checkpoint> checkpoint, int layer, const BlockOptions& options,
                 const moe::EigenReference& executor) {
  Block block;
  with_format(options.format, [&]<class F>(std::type_identity<F>) {
    block = BlockBuilder<F, moe::EigenReference>(std::move(checkpoint), layer, options, executor).build();
  });
  return block;
}

}  // namespace engine
