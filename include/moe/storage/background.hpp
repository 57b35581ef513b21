// Background: makes any source answer on worker threads, so that reading overlaps computing.
#pragma once

#include <memory>

#include <moe/concepts.hpp>
#include <moe/storage/read_queue.hpp>

namespace moe {

/// A source whose reads run on `threads` threads of its own. Copies share source and threads.
template <RecordSource Source>
class Background {
 public:
  using layout = typename Source::layout;
  using formats = typename Source::formats;

  explicit Background(Source source, int threads = 1)
      : shared_(std::make_shared<const Shared>(std::move(source), threads)) {}

  ExpertShape shape() const noexcept { return shared_->source.shape(); }
  int num_experts() const noexcept { return shared_->source.num_experts(); }
  std::size_t bytes(int format) const noexcept { return shared_->source.bytes(format); }
  void read(ExpertId e, int format, std::byte* to, ReadDone done, void* who) const {
    shared_->queue.push({&shared_->source, e, format, to, done, who});
  }

 private:
  struct Job {
    const Source* source = nullptr;
    ExpertId expert = -1;
    int format = 0;
    std::byte* to = nullptr;
    ReadDone done = nullptr;
    void* who = nullptr;
    void operator()() const { source->read(expert, format, to, done, who); }
  };
  struct Shared {
    Shared(Source s, int threads) : source(std::move(s)), queue(threads) {}
    Source source;
    mutable ReadQueue<Job> queue;  // last: drains before the source goes
  };
  std::shared_ptr<const Shared> shared_;
};

}  // namespace moe
