// Ring: layer-sized sections that are refilled in the order of the layers as layers end (SE-MoE).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include <moe/concepts.hpp>
#include <moe/storage/ring_state.hpp>

namespace moe {

/// The sections that the layers of one model share. A handle: copies share the sections.
///
/// K sections for N layers, K = min(N, bytes / bytes of the largest layer). With K = 1 the next layer is read only
/// while no expert computes; every K from 2 on overlaps reading and computing; with K = N nothing is read after the
/// start. All memory is taken at the start, nothing is allocated later.
class RingSections {
 public:
  /// Throws Error unless one of the two options is set.
  explicit RingSections(RingOptions options) : state_(std::make_shared<detail::RingState>(options)) {
    if (options.sections < 0 || (options.sections == 0) == (options.bytes == 0))
      raise(Error("moe::RingSections", "size of the ring", "bytes or sections",
                  concat(options.bytes, " bytes and ", options.sections, " sections")));
  }

  /// Begins to read the first K layers; the first use does so too. No layer may join afterwards.
  void start() const { state_->start(); }

  /// Taken together, so that the figures belong to one moment.
  RingStatistics statistics() const {
    const std::lock_guard lock(state_->mutex);
    return state_->table.statistics();
  }
  /// Bytes of sections; 0 before the start.
  std::size_t bytes_held() const {
    const std::lock_guard lock(state_->mutex);
    return state_->memory.bytes();
  }
  /// K; 0 before the start.
  int sections() const {
    const std::lock_guard lock(state_->mutex);
    return static_cast<int>(state_->cells.size());
  }

 private:
  template <RecordSource Source>
  friend class Ring;
  std::shared_ptr<detail::RingState> state_;
};

/// The experts of one layer, all of them in one of the ring's sections while the layer computes. Layers join in the
/// order in which they run. Ring memory offloading of SE-MoE (Shen et al. 2022, section 3.3.2).
///
/// The reads of the layer K ahead begin when a layer ends (its last pin goes, or it is asked without needs), across the
/// end of a token, so any N and K go together. They run where the source runs them: put Background around one that
/// answers at once, or reading does not overlap computing. A layer is used once per token; a call that is cut into
/// chunks reads it once per chunk.
///
/// Several threads may acquire at once: those at the same layer share its section, and a layer that was handed on too
/// early is read again, in the place of the one that is needed last. A read that fails throws IoError from the
/// `acquire` that it began for and leaves the ring usable; what failed when it was read ahead is read again.
template <RecordSource Source>
class Ring {
 public:
  using memory = host_memory;
  using layout = typename Source::layout;
  using formats = typename Source::formats;
  using pin = detail::RingPin;

  /// `format`: which of the source's formats to read. Throws Error if the ring has started, or has no room for a layer.
  Ring(const RingSections& ring, Source source, int format = 0)
      : member_(std::make_shared<Member>(ring.state_, std::move(source), format)) {}

  ExpertShape shape() const noexcept { return member_->source.shape(); }
  int num_experts() const noexcept { return member_->layer.experts; }

  /// Waits for the section and lends all needs in one wave. Without needs it does not wait, and hands the section on.
  std::span<ExpertNeed> acquire(std::span<ExpertNeed> todo, Wave<pin>& wave, host_queue&) const {
    const Member& m = *member_;
    if (todo.empty()) {
      m.state->pass(m.index);
      return todo;
    }
    const int section = m.state->claim(m.index);
    pin holder(*m.state, section);
    const std::byte* const records = m.state->cells[static_cast<std::size_t>(section)].bytes;
    for (const ExpertNeed& need : todo) {
      const std::byte* const record = records + static_cast<std::size_t>(need.expert) * m.layer.stride;
      wave.push({need.expert, m.layer.format, record}, std::move(holder));
    }
    return todo.subspan(todo.size());
  }

  /// Sets a bit for every expert if the layer's section is there now: [pieces(E, 32)] words.
  void residency(std::uint32_t* bits) const noexcept {
    const std::lock_guard lock(member_->state->mutex);
    const bool here = member_->state->table.in(member_->index, detail::Phase::ready);
    fill_experts(bits, num_experts(), [here](ExpertId) { return here; });
  }

 private:
  struct Member {
    Member(std::shared_ptr<detail::RingState> s, Source src, int format)
        : state(std::move(s)), source(std::move(src)), layer(describe(format)), index(state->join(layer)) {}
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;
    ~Member() { state->leave(index); }

    detail::RingLayer describe(int format) const {
      detail::RingLayer l;
      l.experts = source.num_experts();
      l.format = format;
      l.record_bytes = source.bytes(format);
      l.stride = round_up(l.record_bytes, page_alignment);
      l.source = detail::LayerSource::of(source);
      return l;
    }
    std::shared_ptr<detail::RingState> state;
    Source source;
    detail::RingLayer layer;
    int index;
  };
  std::shared_ptr<const Member> member_;
};

}  // namespace moe
