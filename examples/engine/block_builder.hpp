// How make_block builds a layer: the few types that the families come down to, compiled once for each format.
#pragma once

#include <memory>
#include <moe/layer.hpp>
#include <moe/storage/background.hpp>
#include <moe/storage/resident.hpp>
#include <span>
#include <type_traits>
#include <utility>

#include "block.hpp"

namespace engine {

/// Hands the calls of a layer on to a BlockObserver, if there is one.
struct Watched {
  const BlockObserver* observer;
  void logits(moe::View<const float> rows) const {
    if (observer != nullptr) observer->logits(rows);
  }
  void routed(const moe::Frame<>& frame) const {
    if (observer != nullptr) observer->routed(frame);
  }
};

/// Shared experts of an MXFP4 checkpoint are stored as bf16, which MXFP4 would round.
template <class F>
using shared_format = std::conditional_t<std::is_same_v<F, moe::mxfp4>, moe::bf16, F>;

template <class F, class Executor>
class BlockBuilder {
 public:
  BlockBuilder(std::shared_ptr<const moe::io::Checkpoint> checkpoint, int layer, const BlockOptions& options,
               const Executor& executor)
      : checkpoint_(std::move(checkpoint)),
        blocks_(checkpoint_->blocks()),
        layer_(layer),
        options_(options),
        executor_(executor) {}

  Block build() {
    moe::io::CheckpointExperts<F> source(checkpoint_, layer_);
    block_.weights = std::make_shared<const BlockWeights>(*checkpoint_, layer_);
    if constexpr (std::is_same_v<Executor, moe::Cpu>) {
      if (options_.cache != nullptr) {
        with_storage(moe::Cached{*options_.cache, moe::Background{std::move(source)}});
        return std::move(block_);
      }
    }
    moe::Resident storage{source};
    block_.bytes_held += storage.bytes_held();
    with_storage(std::move(storage));
    return std::move(block_);
  }

 private:
  template <class Storage>
  void with_storage(Storage storage) {
    if (blocks_.gated) {
      return with_form(std::move(storage), form(blocks_.act.at(layer_), moe::NoEnvelope{}),
                       moe::ExpertForm<moe::AnyGated>{.act = blocks_.shared_act.at(layer_)});
    }
    const moe::ExpertForm<moe::AnyUngated> shared{.act = blocks_.ungated_act};
    if (blocks_.latent.width == 0)
      return with_form(std::move(storage), form(blocks_.ungated_act, moe::NoEnvelope{}), shared);
    with_form(std::move(storage), form(blocks_.ungated_act, block_.weights->latent()), shared);
  }
  template <class A, class Envelope>
  moe::ExpertForm<A, Envelope> form(const A& act, Envelope envelope) const {
    return {.act = act,
            .weight_on = blocks_.weight_on,
            .output_scale = blocks_.output_scale,
            .envelope = std::move(envelope)};
  }
  template <class Storage, class Form, class SharedForm>
  void with_form(Storage storage, Form form, SharedForm shared_form) {
    const moe::io::SharedConfig& shared = blocks_.shared;
    if (shared.mixing == moe::io::SharedConfig::Mixing::none || shared.ffn.at(layer_) == 0)
      return finish(std::move(storage), std::move(form), moe::NoShared{});
    const moe::io::ExpertTensors tensors = checkpoint_->shared(layer_);
    moe::Resident resident{
        moe::Packed<shared_format<F>>(blocks_.shared_shape(layer_), std::span(&tensors.matrices(), 1))};
    block_.bytes_held += resident.bytes_held();
    finish(std::move(storage), std::move(form),
           moe::SharedExperts{std::move(resident), block_.weights->mixing(), shared_form});
  }
  template <class Storage, class Form, class Shared>
  void finish(Storage storage, Form form, Shared shared) {
    const BlockWeights& w = *block_.weights;
    block_.layer = moe::erase(
        moe::MoELayer{w.gate(), w.router(), std::move(storage), executor_, std::move(form), std::move(shared)},
        Watched{options_.observer});
  }

  std::shared_ptr<const moe::io::Checkpoint> checkpoint_;
  const moe::io::BlockConfig& blocks_;
  int layer_;
  BlockOptions options_;
  Executor executor_;
  Block block_;
};

/// Defined for each format in a file of its own.
template <class F>
Block make_block_as(std::shared_ptr<const moe::io::Checkpoint> checkpoint, int layer, const BlockOptions& options,
                    const moe::Cpu& executor);

}  // namespace engine
