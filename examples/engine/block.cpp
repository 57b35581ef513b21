#include "block.hpp"

#include <utility>

namespace engine {

template <class F>
Block make_block_as(std::shared_ptr<const moe::io::Checkpoint> checkpoint, int layer, const BlockOptions& options,
                    const moe::Cpu& executor);  // block_formats/

Format format_of(const moe::io::Checkpoint& checkpoint) {
  return checkpoint.stores_mxfp4() ? Format::mxfp4 : format_of(checkpoint.default_format());
}

Block make_block(std::shared_ptr<const moe::io::Checkpoint> checkpoint, int layer, const BlockOptions& options,
                 const moe::Cpu& executor) {
  Block block;
  with_format(options.format, [&]<class F>(std::type_identity<F>) {
    block = make_block_as<F>(std::move(checkpoint), layer, options, executor);
  });
  return block;
}

}  // namespace engine
